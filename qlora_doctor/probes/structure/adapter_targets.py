"""What each target matched, by PEFT's own rules, and what the ones without a match may have meant."""

from __future__ import annotations

import re
from typing import Any

from torch import nn

from ...facts.adapter import UnmatchedTarget
from .inventory import Inventory
from .naming import closest_kinds, fused_home, matches

_AUTOMATIC = {"classifier", "score", "qa_outputs"}
"""Heads that PEFT itself puts into modules_to_save by the task type, whether the model has them or not."""


def target_facts(
    seen: Inventory, config: Any, asked: list[str] | str | None, asked_to_save: list[str] | None
) -> dict[str, Any]:
    """``unmatched_targets``, ``fused_targets``, ``unsupported_targets``, and the same of modules_to_save.

    Args:
        config: PEFT's config of the adapter, None where none is attached.
        asked: target_modules as the user wrote them; None takes them from ``config``.
        asked_to_save: modules_to_save as the user wrote them; None takes them from ``config``.
    """
    targets = asked if asked is not None else _of_config(config)
    names = [part.name for part in seen.parts if part.name]
    rewritten = _rewritten(config, targets)
    unmatched = [
        UnmatchedTarget(target=target, closest=closest_kinds(target, seen.module_kinds))
        for target in _without_match(targets, names)
        if target not in rewritten
    ]
    fused = []
    for item in unmatched:
        home = fused_home(item.target, seen.module_kinds)
        if home:
            fused.append(UnmatchedTarget(target=item.target, closest=home))
    to_save = asked_to_save if asked_to_save is not None else _to_save(config)
    return {
        "unmatched_targets": unmatched,
        "fused_targets": fused,
        "unsupported_targets": _unsupported(seen, config),
        # PEFT wraps whatever ends in an entry (peft.utils.other._set_trainable).
        "unmatched_modules_to_save": [m for m in to_save if not any(name.endswith(m) for name in names)],
        "targets_also_saved": _also_saved(targets, to_save, names),
        "patterns_without_match": _idle_patterns(seen, config),
        "layers_beyond": _layers_beyond(config, names),
    }


def _idle_patterns(seen: Inventory, config: Any) -> list[str] | None:
    """Keys of rank_pattern and alpha_pattern that no adapted module goes by; None without adapters."""
    # PEFT writes keys of its own for experts that are one parameter (``convert_peft_config_for_transformers``).
    own = {rf".*\.{re.escape(name)}" for name in getattr(config, "target_parameters", None) or ()}
    patterns = [getattr(config, name, None) or {} for name in ("rank_pattern", "alpha_pattern")]
    keys = [key for pattern in patterns for key in pattern if key not in own]
    adapted = [part.name for part in seen.parts if part.lora]
    if not keys:
        return []
    if not adapted:
        return None
    try:
        from peft.utils.other import get_pattern_key
    except ImportError:  # older versions match inside of their tuners
        return None
    try:
        return [key for key in dict.fromkeys(keys) if not any(get_pattern_key([key], name) == key for name in adapted)]
    except re.error:
        return None


def _layers_beyond(config: Any, names: list[str]) -> list[int]:
    """Layers that layers_to_transform asks for and no list of the model has."""
    asked = getattr(config, "layers_to_transform", None)
    wanted = [asked] if isinstance(asked, int) else list(asked or [])
    there = {int(number) for name in names for number in re.findall(r"\.(\d+)(?=\.|$)", name)}
    return [number for number in wanted if isinstance(number, int) and number not in there] if there else []


def matched_names(config: Any, names: list[str]) -> list[str]:
    """The modules that PEFT's own rule finds for a LoraConfig, before anything is attached; none for a broken pattern.

    ``all-linear`` and a silent target_modules have to be resolved first.
    """
    from peft.tuners.tuners_utils import check_target_module_exists

    if getattr(config, "target_modules", None) is None:
        return []
    found = []
    try:
        for name in names:
            result = check_target_module_exists(config, name)
            if result and type(result).__name__ != "_ExcludedModule":
                found.append(name)
    except re.error:
        return []
    return found


def is_supported(module: nn.Module) -> bool:
    """Whether LoRA has a layer for this class (``peft.tuners.lora.model.LoraModel._create_new_module``)."""
    from transformers.pytorch_utils import Conv1D

    known = (nn.Linear, nn.Embedding, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.MultiheadAttention, Conv1D)
    return isinstance(module, known)


def _unsupported(seen: Inventory, config: Any) -> list[str]:
    names = {name: part for name, part in seen.by_name.items() if name and not part.lora}
    if config is None or not names or _is_all_linear(getattr(config, "target_modules", None)):
        return []
    return [
        f"{name} ({type(names[name].module).__name__})"
        for name in matched_names(config, list(names))
        if not is_supported(names[name].module)
    ]


def _of_config(config: Any) -> list[str] | str | None:
    targets = getattr(config, "target_modules", None)
    return sorted(targets) if isinstance(targets, set) else targets


def _without_match(targets: list[str] | str | None, names: list[str]) -> list[str]:
    if targets is None or _is_all_linear(targets):
        return []
    if isinstance(targets, str):
        return [] if any(_fullmatch(targets, name) for name in names) else [targets]
    return [target for target in dict.fromkeys(targets) if not any(matches(target, name) for name in names)]


def _rewritten(config: Any, targets: list[str] | str | None) -> set[str]:
    """Targets that PEFT turned into target_parameters (experts that transformers 5 holds stacked)."""
    left = getattr(config, "target_modules", None)
    if (
        not isinstance(targets, list)
        or not isinstance(left, set | list)
        or not getattr(config, "target_parameters", None)
    ):
        return set()
    return set(targets) - set(left)


def _to_save(config: Any) -> list[str]:
    names = getattr(config, "modules_to_save", None) or []
    task = str(getattr(config, "task_type", None) or "")
    automatic = _AUTOMATIC if any(sign in task for sign in ("SEQ_CLS", "TOKEN_CLS", "QUESTION_ANS")) else set()
    return [name for name in names if name not in automatic]


def _also_saved(targets: list[str] | str | None, to_save: list[str], names: list[str]) -> list[str]:
    """Modules that a list of targets names and that are saved, too; ``all-linear`` and patterns name nobody."""
    if not isinstance(targets, list) or not to_save:
        return []
    pattern = re.compile(r"(^|.*\.)(" + "|".join(re.escape(name) for name in to_save) + r")($|\..*)")
    return [name for name in names if pattern.match(name) and any(matches(target, name) for target in targets)]


def _is_all_linear(targets: Any) -> bool:
    return isinstance(targets, str) and targets.lower() == "all-linear"


def _fullmatch(pattern: str, name: str) -> bool:
    try:
        return re.fullmatch(pattern, name) is not None
    except re.error:
        return False

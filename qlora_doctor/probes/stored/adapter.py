"""The tensors of an adapter against its config: complete, finite, of the right rank, at the right modules."""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...facts.stored import OtherShape
from ..load.checkpoint import StoredTensor
from .arrays import EIGHT_BIT, FLOATS, Passing
from .dimensions import expected_dimensions, has_like_layers, modules_beyond, modules_of_another_kind
from .learned import Factor, factor, learned_facts, learned_module, written_share
from .names import Name, foreign_prefixes, parse, place, stack

_WORDS = {"all-linear"}
_INITS = ("pissa", "corda", "olora", "loftq", "lora_ga")
"""Values of init_lora_weights with which PEFT changes the base's weights (peft 0.21, tuners/lora/layer.py); a save with
path_initial_model_for_weight_conversion writes true in their place. The others leave the base as it is."""
_INTEGERS = ("I8", "U8", "I16", "U16", "I32", "U32", "I64", "U64", "BOOL")
_HEADS = {
    "SEQ_CLS": ("classifier", "score"), "TOKEN_CLS": ("classifier", "score"), "QUESTION_ANS": ("qa_outputs",),
}  # fmt: skip
"""Heads that PEFT trains whole beside the adapter, by the task (peft 0.21, peft_model.py)."""
_MOST_RMS = 1.0
"""Root mean square of ΔW that no weight of a trained model comes near: theirs are some hundredths."""
_EMBEDDINGS = ("embed_tokens", "lm_head", "wte", "word_embeddings", "embed_out", "embed_in", "output_layer")


def adapter_facts(
    config: Mapping[str, Any],
    tensors: Mapping[str, StoredTensor] | None,
    file: Path,
    base: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Facts of an adapter; what needs the tensors stays unknown where these cannot be read.

    Args:
        config: adapter_config.json; empty where it cannot be read.
        base: config.json of the base, where it is known.
    """
    found = _of_config(config)
    if not tensors:
        return found
    elements: Counter[str] = Counter()
    for tensor in tensors.values():
        elements[tensor.dtype] += tensor.elements
    found |= {"tensors": len(tensors), "dtypes": dict(elements)}
    if found["peft_type"] not in (None, "LORA"):
        return found | {"nonfinite": _nonfinite(tensors, file)}
    biases = config.get("bias") not in (None, "none")  # then PEFT stores those of the wrapped layers
    of_base = [tensor for name, tensor in tensors.items() if _is_of_base(name, biases=biases)]
    found |= {
        "base_tensors": len(of_base),
        "base_tensor_bytes": sum(tensor.nbytes for tensor in of_base),
        "empty_tensors": [name for name, tensor in tensors.items() if not tensor.elements],
    }
    if found["empty_tensors"]:
        return found  # shapes, halves and norms would only say the same once more
    base = None if config.get("layer_replication") else base  # its layers are not the model's
    names = {name: parse(name) for name in tensors}
    pairs: dict[str, dict[str, StoredTensor]] = defaultdict(dict)
    for name, parts in names.items():
        if parts is not None and parts.part in ("lora_A", "lora_B", "magnitude"):
            pairs[parts.module][parts.part] = tensors[name]
    modules = [module for module, parts in pairs.items() if "lora_A" in parts or "lora_B" in parts]
    found |= {
        "foreign_prefixes": foreign_prefixes(tensors),
        "unknown_tensors": [name for name, parts in names.items() if parts is None],
        "named_after_adapter": any(re.search(r"\.lora_[AB]\.(?!weight$|bias$)", name) for name in tensors),
        "halves": [module for module in modules if not {"lora_A", "lora_B"} <= pairs[module].keys()],
        "integer_tensors": [t.name for parts in pairs.values() for t in parts.values() if t.dtype in _INTEGERS],
        "modules": len(modules),
    }
    ranks = [parts["lora_A"].shape[0] for parts in pairs.values() if "lora_A" in parts and parts["lora_A"].shape]
    found["rank"] = max(ranks, default=None)
    found |= _numbers(config, pairs, tensors, file)
    if config:
        found |= _against_config(config, modules, pairs, names, base or {})
    if base and (strange := [*modules_of_another_kind(modules, base), *modules_beyond(modules, base)]):
        found["modules_not_in_base"] = strange
    found["misfits"] = [*_rank_misfits(config, pairs), *_base_misfits(pairs, base)] if config or base else None
    return found


def _of_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """What adapter_config.json says alone."""
    base = _text(config.get("base_model_name_or_path"))
    return {
        "peft_type": _text(config.get("peft_type")),
        "peft_version": _text(config.get("peft_version")),
        "base": base,
        "base_named": bool(base) if config else None,
        "base_elsewhere": _is_elsewhere(base) if config else None,
        "base_revision": _text(config.get("revision")),
        "use_dora": bool(config.get("use_dora")) if config else None,
        "use_rslora": bool(config.get("use_rslora")) if config else None,
        "bias": _text(config.get("bias")),
        "init_changes_base": changes_base(config) if config else None,
    }


def _is_elsewhere(named: str | None) -> bool:
    """Whether the base is named by a path, and by one that does not exist here; an id of the hub is none."""
    is_path = named is not None and re.match(r"(?:/|\.{1,2}[/\\]|~|[A-Za-z]:[/\\]|\\\\)", named) is not None
    return is_path and not Path(str(named)).expanduser().exists()


def wrong_kind(config: Mapping[str, Any], names: Iterable[str]) -> str | None:
    """Why PEFT cannot make an adapter of this config: no kind, or another one than the tensors'."""
    kind = config.get("peft_type")
    if not isinstance(kind, str) or kind != kind.upper() or not kind:
        return f"peft_type in adapter_config.json is {kind!r}, which PEFT does not know."
    low_rank = any(".lora_A." in name for name in names)
    if low_rank and kind not in ("LORA", "ADALORA", "XLORA", "POLY"):
        return f"peft_type in adapter_config.json is {kind}, and the tensors are those of LoRA."
    rank, alpha = config.get("r", 8), config.get("lora_alpha", 8)
    if kind == "LORA" and not (isinstance(rank, int) and rank > 0):
        return f"r in adapter_config.json is {rank!r}, and PEFT needs a whole number above zero."
    if kind == "LORA" and (isinstance(alpha, bool) or not isinstance(alpha, int | float)):
        return f"lora_alpha in adapter_config.json is {alpha!r}, and PEFT divides it by the rank."
    return None


def changes_base(config: Mapping[str, Any]) -> str:
    """init_lora_weights where it changed the base and the adapter is not converted, else ``none``."""
    written = config.get("init_lora_weights")
    return written if isinstance(written, str) and written.lower().startswith(_INITS) else "none"


def _is_of_base(name: str, *, biases: bool) -> bool:
    """A weight that PEFT wrapped; of an adapted or resized embedding it stores the base's on purpose.

    Args:
        biases: those of the base were trained, so that they belong into the file.
    """
    module, mark, rest = name.rpartition(".base_layer.")
    return (
        bool(mark)
        and rest in ("weight", *(() if biases else ("bias",)))
        and module.rpartition(".")[2] not in _EMBEDDINGS
    )


def scaling_of(config: Mapping[str, Any], module: str) -> float:
    """What B·A is multiplied with: alpha / r or alpha / √r, after the patterns (peft 0.21, tuners/lora/layer.py)."""
    rank = _by_pattern(config.get("rank_pattern"), module) or config.get("r") or 8
    alpha = _by_pattern(config.get("alpha_pattern"), module)
    if alpha is None:
        alpha = config.get("lora_alpha", 8)
    try:
        return float(alpha) / (math.sqrt(float(rank)) if config.get("use_rslora") else float(rank))
    except (TypeError, ValueError, ZeroDivisionError):
        return 1.0


def _by_pattern(patterns: Any, module: str) -> Any:
    """The value of the first pattern that a module's name ends in, as PEFT's get_pattern_key matches."""
    if not isinstance(patterns, Mapping):
        return None
    for key, value in patterns.items():
        try:
            if re.match(rf"(.*\.)?({key})$", module):
                return value
        except re.error:
            continue
    return None


@dataclass
class _Values:
    """What one pass over a file finds: factors by module and part, tensors that are not finite, those in eight bits
    with their elements and how many of these are zero."""

    factors: dict[str, dict[str, Factor]] = field(default_factory=lambda: defaultdict(dict))
    bad: list[str] = field(default_factory=list)
    small: list[str] = field(default_factory=list)
    small_elements: int = 0
    lost: int = 0


def _read_values(
    pairs: Mapping[str, Mapping[str, StoredTensor]], tensors: Mapping[str, StoredTensor], file: Path
) -> _Values:
    """Each tensor is read once, in the order of the file."""
    halves = {
        parts[part].name: (module, part)
        for module, parts in pairs.items()
        if _makes_a_change(parts)
        for part in ("lora_A", "lora_B")
    }
    read = _Values()
    with Passing(file) as passing:
        for name, tensor in sorted(tensors.items(), key=lambda item: item[1].begin):
            if name not in halves:
                if passing.is_finite(tensor) is False:
                    read.bad.append(name)
                continue
            module, part = halves[name]
            values = passing.values(tensor)
            if tensor.dtype in EIGHT_BIT:
                read.small.append(name)
                read.lost += int((values == 0).sum())
                read.small_elements += tensor.elements
            found = factor(values if part == "lora_A" else values.reshape(values.shape[0], -1).T)
            if found is None:
                read.bad.append(name)
            else:
                read.factors[module][part] = found
    return read


def _numbers(
    config: Mapping[str, Any],
    pairs: Mapping[str, Mapping[str, StoredTensor]],
    tensors: Mapping[str, StoredTensor],
    file: Path,
) -> dict[str, Any]:
    """What the values say."""
    read = _read_values(pairs, tensors, file)
    factors = read.factors
    learned = [
        learned_module(module, parts["lora_A"], parts["lora_B"], scaling_of(config, module))
        for module, parts in ((module, factors[module]) for module in pairs if module in factors)
        if len(parts) == 2
    ]
    scalings = {each.scaling for each in learned}
    sizes = {m: parts["lora_A"].shape[1] * parts["lora_B"].shape[0] for m, parts in pairs.items() if len(parts) > 1}
    beyond = [
        each.module
        for each in learned
        if each.norm > _MOST_RMS * math.sqrt(sizes[each.module]) and each.module.rpartition(".")[2] not in _EMBEDDINGS
    ]
    facts: dict[str, Any] = {
        "nonfinite": read.bad,
        "eight_bit_tensors": read.small,
        "eight_bit_zero_ratio": read.lost / read.small_elements if read.small_elements else None,
        "scaling": scalings.pop() if config and len(scalings) == 1 else None,
    }
    facts |= learned_facts([] if read.bad else learned)
    facts["written_share"] = written_share(
        {m: f["lora_B"].written for m, f in factors.items() if "lora_B" in f and not f["lora_B"].zero}
    )
    return facts | {"modules_beyond_weights": [each for each in beyond if each not in (facts.get("outliers") or [])]}


def _makes_a_change(parts: Mapping[str, StoredTensor]) -> bool:
    """Both matrices are there, in numbers, and can be multiplied."""
    if not {"lora_A", "lora_B"} <= parts.keys():
        return False
    a, b = parts["lora_A"], parts["lora_B"]
    shapes = len(a.shape) > 1 and len(b.shape) > 1 and a.shape[0] == b.shape[1] and a.elements > 0 < b.elements
    return shapes and all(each.dtype in FLOATS or each.dtype in EIGHT_BIT for each in (a, b))


def _nonfinite(tensors: Mapping[str, StoredTensor], file: Path) -> list[str]:
    with Passing(file) as passing:
        return [name for name, tensor in tensors.items() if passing.is_finite(tensor) is False]


def _against_config(
    config: Mapping[str, Any],
    modules: list[str],
    pairs: Mapping[str, Mapping[str, StoredTensor]],
    names: Mapping[str, Name | None],
    base: Mapping[str, Any],
) -> dict[str, Any]:
    targets = config.get("target_modules")
    wanted = [each for each in targets if isinstance(each, str)] if isinstance(targets, list) else None
    whole = [parts.module for parts in names.values() if parts is not None and parts.part == "saved"]
    asked = config.get("modules_to_save")
    asked = [each for each in asked if isinstance(each, str)] if isinstance(asked, list) else []
    magnitudes = sum("magnitude" in parts for parts in pairs.values())
    dora = bool(config.get("use_dora"))
    return {
        "targets_without_tensors": None if wanted is None else _idle(wanted, modules, config),
        "tensors_without_target": _untargeted(config, wanted, [m for m in modules if not _of_parameter(m, config)]),
        "layers_without_tensors": _gaps(config, modules, base),
        "magnitude": "missing"
        if dora and magnitudes < len(modules)
        else "unasked"
        if magnitudes and not dora
        else "ok",
        "saved_missing": (missing := _not_saved(asked, whole, config, modules)),
        "task_head_missing": bool(missing) and not asked,
        "parts_missing": ["the rows of trainable_token_indices"]
        if config.get("trainable_token_indices")
        and not any(p is not None and p.part == "token" for p in names.values())
        else [],
        "saved_unasked": []
        if any(_is_of_base(name, biases=True) for name in names)
        else sorted({m for m in whole if not _saved_by(m, asked, config, modules)}),
    }


def _idle(wanted: list[str], modules: list[str], config: Mapping[str, Any]) -> list[str]:
    """Targets of which nothing is stored, though nothing excludes them."""
    excluded = config.get("exclude_modules") or []
    return [t for t in wanted if not _any_is(modules, t) and not _is_excluded(t, excluded)]


def _is_excluded(target: str, excluded: Any) -> bool:
    if isinstance(excluded, str):
        try:
            return re.fullmatch(excluded, target) is not None
        except re.error:
            return True
    return any(target == each or target.endswith(f".{each}") for each in excluded)


def _not_saved(asked: list[str], whole: list[str], config: Mapping[str, Any], modules: list[str]) -> list[str]:
    """Names of modules_to_save without tensors; for a classifier PEFT names both of its usual heads, and one exists."""
    missing = [name for name in asked if not _any_is(whole, name)]
    own = _HEADS.get(str(config.get("task_type")), ())
    if own and not asked and not any(_any_is([*whole, *modules], name) for name in own):
        return [own[-1]]  # PEFT adds the head to modules_to_save by itself, and so makes a new one
    if {"classifier", "score"} <= set(asked) and not {"classifier", "score"} <= set(missing):
        missing = [name for name in missing if name not in ("classifier", "score")]
    return missing


def _untargeted(config: Mapping[str, Any], wanted: list[str] | None, modules: list[str]) -> list[str] | None:
    """Modules that PEFT would not adapt (peft 0.21, tuners/tuners_utils.py: check_target_module_exists)."""
    targets = config.get("target_modules")
    excluded = config.get("exclude_modules") or []
    unread = [module for module in modules if excluded and _is_excluded(module, excluded)]
    if wanted is not None:
        return [
            module
            for module in modules
            if module in unread
            or not any(module == t or module.endswith(f".{t}") for t in wanted)
            or not (module in wanted or _in_chosen_layer(config, module))
        ]
    if isinstance(targets, str) and targets not in _WORDS:
        try:
            return [module for module in modules if module in unread or not re.fullmatch(targets, module)]
        except re.error:
            return None
    return unread if targets in _WORDS else None


def _in_chosen_layer(config: Mapping[str, Any], module: str) -> bool:
    """Whether layers_to_transform, where it is set, means the module's layer."""
    chosen = config.get("layers_to_transform")
    if chosen is None or chosen == []:
        return True
    patterns = config.get("layers_pattern") or [r"[^.]*"]
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        try:
            match = re.match(rf"(?:^|.*?\.){pattern}\.(\d+)\.", module)
        except re.error:
            return True
        if match:
            return int(match[1]) in (chosen if isinstance(chosen, list) else [chosen])
    return False


def _of_parameter(module: str, config: Mapping[str, Any]) -> bool:
    """Whether the module owns one of target_parameters; of two on one module PEFT nests the first as base_layer."""
    owners = [str(each).rpartition(".")[0] for each in config.get("target_parameters") or []]
    owner = module.replace(".base_layer", "")
    return any(not each or owner == each or owner.endswith(f".{each}") for each in owners)


def _any_is(modules: Iterable[str], target: str) -> bool:
    return any(module == target or module.endswith(f".{target}") or f".{target}." in module for module in modules)


def _saved_by(module: str, asked: list[str], config: Mapping[str, Any], modules: list[str]) -> bool:
    """Whether a whole stored module has a reason: modules_to_save, a classifier's head, embeddings that PEFT adds."""
    if any(module == name or module.endswith(f".{name}") or f".{name}." in f".{module}." for name in asked):
        return True
    last = module.rpartition(".")[2]
    if last in _EMBEDDINGS:
        return True  # save_embedding_layers: PEFT stores them where the vocabulary was resized
    if last in ("score", "classifier") or config.get("bias") not in (None, "none"):
        return True
    return bool(config.get("trainable_token_indices")) or module in modules


def _gaps(config: Mapping[str, Any], modules: list[str], base: Mapping[str, Any]) -> list[int]:
    """Layers that lack a projection which the others have, where the config does not choose layers.

    A model may have another kind of block in some layers: what stands in its place is its design.
    """
    if config.get("layers_to_transform") is not None or not isinstance(config.get("target_modules"), list | str):
        return []
    if isinstance(config.get("target_modules"), str) and config["target_modules"] not in _WORDS:
        return []
    if config.get("exclude_modules") or _names_layers(config["target_modules"]):
        return []
    stacks: dict[str, dict[str, set[int]]] = defaultdict(lambda: defaultdict(set))
    for module in modules:
        layer, projection = place(module)
        if layer is not None:
            stacks[stack(module)][projection].add(layer)
    if len(stacks) == 1 and (ends := _ends(next(iter(stacks.values())), base)):
        return ends
    return sorted({layer for projections in stacks.values() for layer in _gaps_of(projections)})


def _names_layers(targets: Any) -> bool:
    """Whether target_modules chooses layers by whole names, as LLaMA-Factory's expanded blocks are named."""
    return isinstance(targets, list) and any(re.search(r"\.\d+\.", str(each)) for each in targets)


def _ends(projections: Mapping[str, set[int]], base: Mapping[str, Any]) -> list[int]:
    """Layers before and after a run of whole ones, of a base of which all layers are alike: a stage of a pipeline."""
    count = base.get("num_hidden_layers")
    run = set.union(*projections.values())
    if not isinstance(count, int) or not has_like_layers(base) or any(held != run for held in projections.values()):
        return []
    if len(run) != max(run) - min(run) + 1 or max(run) >= count:
        return []
    return [layer for layer in range(count) if layer not in run]


def _gaps_of(projections: Mapping[str, set[int]]) -> set[int]:
    """The layers of one stack that lack what the others have, and have nothing of their own in its place."""
    top = max(set().union(*projections.values()))
    full = [held for held in projections.values() if len(held) > (top + 1) / 2]
    own = set().union(*(held for held in projections.values() if len(held) <= (top + 1) / 2))
    gaps = {layer for held in full for layer in range(top + 1) if layer not in held} - own
    return gaps if len(gaps) <= max(1, (top + 1) // 8) else set()


def _rank_misfits(config: Mapping[str, Any], pairs: Mapping[str, Mapping[str, StoredTensor]]) -> list[OtherShape]:
    rank = config.get("r")
    found = []
    for module, parts in pairs.items():
        wanted = _by_pattern(config.get("rank_pattern"), module) or rank
        if not isinstance(wanted, int) or wanted <= 0:
            continue
        magnitude, rows = parts.get("magnitude"), parts.get("lora_B")
        linear = rows is not None and len(rows.shape) == 2 and "embedding" not in rows.name
        if magnitude is not None and rows is not None and linear and magnitude.elements != rows.shape[0]:
            shape = [rows.shape[0]]
            found.append(OtherShape(tensor=magnitude.name, stored=list(magnitude.shape), expected=shape))
        for part, axis in (("lora_A", 0), ("lora_B", 1)):
            tensor = parts.get(part)
            if tensor is None or len(tensor.shape) < 2 or tensor.shape[axis] == wanted:
                continue
            if config.get("target_parameters"):
                continue  # of an expert's weight the rank is multiplied by the number of experts
            shape = list(tensor.shape)
            shape[axis] = wanted
            found.append(OtherShape(tensor=tensor.name, stored=list(tensor.shape), expected=shape))
    return found


def _base_misfits(pairs: Mapping[str, Mapping[str, StoredTensor]], base: Mapping[str, Any] | None) -> list[OtherShape]:
    found = []
    for module, parts in pairs.items():
        sizes = expected_dimensions(module, base) if base else None
        sizes = sizes if sizes != (0, 0) else None  # there is no such layer, which is reported by itself
        for part, axis, wanted in (("lora_A", 1, sizes and sizes[0]), ("lora_B", 0, sizes and sizes[1])):
            tensor = parts.get(part)
            if wanted is None or tensor is None or len(tensor.shape) != 2 or tensor.shape[axis] == wanted:
                continue
            shape = list(tensor.shape)
            shape[axis] = wanted
            found.append(OtherShape(tensor=tensor.name, stored=list(tensor.shape), expected=shape))
    return found


def _text(value: Any) -> str | None:
    return value.strip() or None if isinstance(value, str) else None

"""Names of an adapter's tensors: module, part, and what wrappers left in them.

PEFT writes ``base_model.model.<module>.lora_A.weight`` (peft 0.15 to 0.21, utils/save_and_load.py). On loading it takes
an adapter's name before ``.weight`` as well, and nothing else: a tensor by another name is left unread with a warning.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from ...facts.stored import ForeignPrefix

PREFIX = "base_model.model."
WRAPPERS = {
    "_orig_mod.": "torch.compile",
    "_fsdp_wrapped_module.": "FSDP",
    "_checkpoint_wrapped_module.": "activation checkpointing of torch or FSDP",
    "_forward_module.": "Lightning",
}
"""Parts that wrappers put into names, and whose they are."""
_OUTER = {
    "module.": "DistributedDataParallel or DeepSpeed",
    "model.module.": "a wrapper around DistributedDataParallel",
}
_PART = re.compile(
    r"\.(?P<part>lora_A|lora_B|lora_embedding_A|lora_embedding_B|lora_magnitude_vector|lora_variant|lora_ga|modules_to_save"
    r"|token_adapter)(?:\.(?P<rest>.*))?$"
)
_LAYER = re.compile(r"(?:^|\.)(?:layers|h|blocks|block|layer)\.(\d+)\.(.*)$")


@dataclass(frozen=True)
class Name:
    """A tensor's name in its parts.

    Attributes:
        module: as the base calls it.
        part: ``lora_A``, ``lora_B``, ``magnitude``, ``saved`` (a whole tensor of a module), ``bias``, ``token``.
    """

    full: str
    module: str
    part: str


def parse(full: str) -> Name | None:
    """The parts of a name, wrappers left out; None for what is no part of an adapter."""
    text = full
    for wrapper in WRAPPERS:
        text = text.replace(wrapper, "")
    for outer in _OUTER:
        text = text.removeprefix(outer)
    while text.startswith(PREFIX):
        text = text.removeprefix(PREFIX)
    match = _PART.search(text)
    if match is None:
        if text.endswith((".weight", ".bias")):
            return Name(
                full, text.rpartition(".")[0].removesuffix(".base_layer"), "bias" if text.endswith(".bias") else "saved"
            )
        return None
    module, part, rest = text[: match.start()], match["part"], match["rest"] or ""
    if part == "modules_to_save":
        return Name(full, module, "saved")
    if part == "token_adapter":
        return Name(full, module, "token")
    part = {"lora_embedding_A": "lora_A", "lora_embedding_B": "lora_B"}.get(part, part)
    if part in ("lora_magnitude_vector", "lora_variant", "lora_ga"):
        return Name(full, module, "magnitude" if part == "lora_magnitude_vector" else "other")
    return Name(full, module, "bias" if rest.endswith("bias") else part)


def foreign_prefixes(names: Iterable[str]) -> list[ForeignPrefix]:
    """What wrappers left in the names, and names that lack PEFT's own beginning."""
    counts: Counter[tuple[str, str]] = Counter()
    for name in names:
        found = [(wrapper, by) for wrapper, by in WRAPPERS.items() if wrapper in name]
        found += [(outer, by) for outer, by in _OUTER.items() if name.startswith(outer)]
        if name.count(PREFIX) > 1:
            found.append((PREFIX * 2, "a PeftModel that was wrapped twice"))
        if not found and not name.startswith(PREFIX):
            found.append(("", f"a state_dict that was saved without PEFT's save_pretrained: {PREFIX} is missing"))
        counts.update(found[:1])
    return [ForeignPrefix(prefix=prefix, made_by=by, tensors=count) for (prefix, by), count in counts.items()]


def stack(module: str) -> str:
    """What stands before the layer's number: two towers, or encoder and decoder, count their layers each by itself."""
    match = _LAYER.search(module)
    return module[: match.start()] if match else ""


def place(module: str) -> tuple[int | None, str]:
    """Layer and projection of a module: ``(3, "self_attn.q_proj")``."""
    match = _LAYER.search(module)
    return (int(match[1]), match[2]) if match else (None, module)

"""Which linear layers transformers keeps out of 4-bit, and what each entry of llm_int8_skip_modules holds back."""

from __future__ import annotations

import re
import sys
from typing import Any

from torch import nn

from ...facts.quantization import SkipMatch
from .inventory import Inventory, Linear
from .naming import matches


class Skipping:
    """The entries of ``llm_int8_skip_modules`` and of transformers' own list against the layers of a model.

    Args:
        settings: the model's BitsAndBytesConfig, None where it is not quantized.
    """

    def __init__(self, seen: Inventory, settings: Any) -> None:
        self._seen = seen
        self._asked: list[str] = list(getattr(settings, "llm_int8_skip_modules", None) or [])
        quantizer = getattr(seen.base, "hf_quantizer", None)
        self._all: list[str] = list(getattr(quantizer, "modules_to_not_convert", None) or [])
        self._float32: list[str] = list(getattr(seen.base, "_keep_in_fp32_modules", None) or [])
        self._names = [linear.name for linear in seen.linears]

    @property
    def entries(self) -> list[SkipMatch]:
        """What each entry of the setup holds back."""
        return [SkipMatch(entry=entry, modules=self._held_back(entry)) for entry in self._asked]

    @property
    def without_match(self) -> list[str]:
        """Entries that hold back no linear layer and name no other module either, but for a library's own."""
        kept = _kept_for_many_models()
        return [
            entry
            for entry in self._asked
            if entry not in kept
            and not self._held_back(entry)
            and not any(is_held_back(part.name, entry) for part in self._seen.parts)
        ]

    @property
    def overmatch(self) -> list[SkipMatch]:
        """Entries that hold back layers which they do not name: neither the layer, nor its end, nor a module above."""
        found = []
        for entry in self._asked:
            beyond = [name for name in self._held_back(entry) if not _names(entry, name)]
            if beyond:
                found.append(SkipMatch(entry=entry, modules=beyond))
        return found

    def reason(self, linear: Linear) -> str:
        """Why this layer is not 4-bit, as in ``LinearLeftOut.reason``."""
        if any(is_held_back(linear.name, entry) for entry in self._asked):
            return "skipped-by-config"
        if any(is_held_back(linear.name, entry) for entry in self._float32):
            return "kept-in-float32"
        if any(is_held_back(linear.name, entry) for entry in self._all):
            return "skipped-by-default"
        source = linear.source_class
        if source is not nn.Linear and source.__name__ != "Conv1D":
            return "subclass"
        return "unknown"

    def _held_back(self, entry: str) -> list[str]:
        return [name for name in self._names if is_held_back(name, entry)]


def is_held_back(name: str, entry: str) -> bool:
    """Whether transformers keeps the module ``name`` out of 4-bit for this entry, by the installed version's rule."""
    from transformers.integrations import bitsandbytes as rules

    if not hasattr(rules, "should_convert_module"):
        # transformers 4 (`_replace_with_bnb_linear`): the layer's own name, the whole of it, or a part before a dot.
        return entry in (name, name.rpartition(".")[2]) or f"{entry}." in name
    try:
        return not rules.should_convert_module(name, [entry])
    except re.error:
        return False


def _names(entry: str, name: str) -> bool:
    """Whether an entry means this layer: its name or the end of it, a module above it, or a pattern on purpose."""
    if re.search(r"[*+?\[\](){}|^$\\]", entry):
        return True
    return matches(entry, name) or f".{entry}." in f".{name}."


def _kept_for_many_models() -> set[str]:
    """Entries that Unsloth writes into every config, where it loads the models of this process: its list serves all
    architectures (``unsloth_zoo/peft_utils.py``), and no user has misspelt a name of it."""
    return set(getattr(sys.modules.get("unsloth_zoo.peft_utils"), "SKIP_QUANTIZATION_MODULES", None) or ())

"""Setup → what the user's trainer would build, on the meta device or on a real one.

One builder for two worlds: ``build_base`` gives the base in 4-bit, ``prepare`` and ``attach`` what PEFT makes of it,
``make_batches`` and ``make_trainer`` the step. What is asked for brings its own module alone, for a run that is watched
needs few of them, in the midst of a training. They import torch, transformers and PEFT.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .adapter import attach, lora_config
    from .architecture import Architecture, find_folder, load_config
    from .base import Base, bits_and_bytes, build_base, wants_4bit
    from .batches import Batches, load_tokenizer, make_batches, sequence_length
    from .failures import as_stage_error
    from .preparing import prepare
    from .trainer import make_trainer, refuse_to_train_on_nothing

__all__ = [
    "Architecture",
    "Base",
    "Batches",
    "as_stage_error",
    "attach",
    "bits_and_bytes",
    "build_base",
    "find_folder",
    "load_config",
    "load_tokenizer",
    "lora_config",
    "make_batches",
    "make_trainer",
    "prepare",
    "refuse_to_train_on_nothing",
    "sequence_length",
    "wants_4bit",
]
_MODULES = {
    "adapter": ("attach", "lora_config"),
    "architecture": ("Architecture", "find_folder", "load_config"),
    "base": ("Base", "bits_and_bytes", "build_base", "wants_4bit"),
    "batches": ("Batches", "load_tokenizer", "make_batches", "sequence_length"),
    "failures": ("as_stage_error",),
    "preparing": ("prepare",),
    "trainer": ("make_trainer", "refuse_to_train_on_nothing"),
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)

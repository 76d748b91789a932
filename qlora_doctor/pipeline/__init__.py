"""Setup → what the user's trainer would build, on the meta device or on a real one.

One builder for two worlds: ``build_base`` gives the base in 4-bit, ``prepare`` and ``attach`` what PEFT makes of it,
``make_batches`` and ``make_trainer`` the step. Importing this package imports torch, transformers and PEFT.
"""

from __future__ import annotations

from .adapter import attach, lora_config
from .architecture import Architecture, find_folder, load_config
from .base import Base, bits_and_bytes, build_base, wants_4bit
from .batches import Batches, load_tokenizer, make_batches, sequence_length
from .failures import as_stage_error
from .prepare import prepare
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

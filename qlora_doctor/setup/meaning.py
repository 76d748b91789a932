"""What a Setup stands for: what is written, the dialect's default, or the library's where both are silent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..reading.native import SECTIONS
from . import defaults
from .defaults import Libraries
from .setup import Setup

_UNIVERSAL: dict[str, Any] = {
    "training.per_device_train_batch_size": 8,
    "training.per_device_eval_batch_size": 8,
    "training.gradient_accumulation_steps": 1,
    "training.weight_decay": 0.0,
    "training.max_grad_norm": 1.0,
    "training.num_train_epochs": 3.0,
    "training.lr_scheduler_type": "linear",
    "training.fp16": False,
    "training.packing": False,
    "training.padding_free": False,
    "training.use_liger_kernel": False,
    "training.group_by_length": False,
    "training.seed": 42,
    "hardware.count": 1,
}
"""Defaults of TrainingArguments and SFTConfig, the same in transformers 4.51–5.23 and trl 0.17–1.16."""


@dataclass(frozen=True)
class Meaning:
    """What one path stands for.

    Attributes:
        value: as Setup has it.
        explicit: the file says it.
        key: where it is said, dotted as the file has it; else the canonical path.
    """

    value: Any
    explicit: bool
    key: str


def meanings(setup: Setup) -> dict[str, Meaning]:
    """Every canonical path whose value is known; what depends on a version that is not known is left out."""
    found = {}
    for section, model in SECTIONS.items():
        for field in model.model_fields:
            path = f"{section}.{field}"
            if field == "extra" or setup.is_unknown(path):
                continue
            value = getattr(getattr(setup, section), field)
            value = standing(setup, path) if value is None else value
            if value is not None:
                origin = setup.origins.get(path)
                found[path] = Meaning(value, origin is not None and origin.source == "explicit", key_of(setup, path))
    return found


def key_of(setup: Setup, path: str) -> str:
    """How the user's file calls a path; its canonical name where the file does not set it."""
    origin = setup.origins.get(path)
    pointer = origin.place.pointer if origin is not None and origin.place is not None else None
    return pointer.strip("/").replace("/", ".") if pointer else path


def unknowns(setup: Setup) -> dict[str, list[str]]:
    """Why a value cannot be known → the paths of which that is so."""
    found: dict[str, list[str]] = {}
    for path, origin in setup.origins.items():
        if origin.source == "unknown":
            found.setdefault(origin.note or "It cannot be known from this file.", []).append(path)
    return found


def standing(setup: Setup, path: str) -> Any:
    """The library's default for a silent path; None where there is none, or it depends on the version."""
    section, _, field = path.partition(".")
    quantization = setup.quantization
    if path == "quantization.load_in_4bit":
        other = quantization.load_in_8bit or quantization.backend not in (None, "bitsandbytes")
        return setup.dialect == "native" and not other
    if path == "quantization.backend":
        return "bitsandbytes"
    if section == "quantization":
        in_4bit = quantization.load_in_4bit or (quantization.load_in_4bit is None and setup.dialect == "native")
        return defaults.BITS_AND_BYTES.get(field) if in_4bit or field == "load_in_8bit" else None
    if section == "lora":
        return defaults.LORA.get(field)
    trainer = setup.training.trainer or "transformers"
    if path == "training.learning_rate":
        return defaults.learning_rate(trainer)
    if path == "training.max_length":
        origin = setup.origins.get(path)
        return defaults.max_length(trainer) if origin is None else None  # an explicit null cuts nothing
    if path == "training.bf16":
        return defaults.bf16(trainer, Libraries(), setup.training.fp16 or False)
    if path == "training.gradient_checkpointing":
        # prepare_model_for_kbit_training turns it on by itself, whatever the trainer does.
        quantized = in_bits(setup) and setup.training.prepare_for_kbit_training is not False
        return True if quantized else defaults.trainer_checkpoints(trainer, Libraries())
    return _UNIVERSAL.get(path)


def in_bits(setup: Setup) -> bool:
    """True where the base is loaded in 4 or 8 bits."""
    in_4bit = setup.quantization.load_in_4bit
    in_4bit = standing(setup, "quantization.load_in_4bit") if in_4bit is None else in_4bit
    return bool(in_4bit or setup.quantization.load_in_8bit)

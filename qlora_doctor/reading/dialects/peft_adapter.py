"""PEFT's adapter_config.json: what a finished adapter records, and nothing of its base's precision."""

from __future__ import annotations

from ...setup.setup import Setup
from ...setup.traits import Traits
from ..document import Document
from .fields import Reading, Table
from .values import name_list, text

name = "peft-adapter"
TRAITS = Traits(as_written=True, decided_by=("model.name_or_path", "lora.r"), of_a_project=False)

_FIELDS: Table = {
    "base_model_name_or_path": ("model.name_or_path", text),
    "revision": ("model.revision", text),
    "r": "lora.r",
    "lora_alpha": "lora.lora_alpha",
    "lora_dropout": "lora.lora_dropout",
    "target_modules": ("lora.target_modules", lambda value: value),
    "exclude_modules": ("lora.exclude_modules", lambda value: value),
    "target_parameters": ("lora.target_parameters", name_list),
    "modules_to_save": ("lora.modules_to_save", name_list),
    "bias": "lora.bias",
    "task_type": "lora.task_type",
    "use_rslora": "lora.use_rslora",
    "use_dora": "lora.use_dora",
    "init_lora_weights": "lora.init_lora_weights",
    "layers_to_transform": "lora.layers_to_transform",
    "layers_pattern": "lora.layers_pattern",
    "rank_pattern": "lora.rank_pattern",
    "alpha_pattern": "lora.alpha_pattern",
    "fan_in_fan_out": "lora.fan_in_fan_out",
    "trainable_token_indices": "lora.trainable_token_indices",
}
RECORD = "it is the record of a finished adapter, and what was trained does not change with it"
_NOT_RECORDED = "An adapter_config.json does not record it."


def recognise(document: Document) -> float:
    """``peft_type`` with the base or the mode that only PEFT writes."""
    data = document.data
    if not isinstance(data, dict) or "peft_type" not in data or "data_paths" in data:
        return 0.0
    if {"base_model_name_or_path", "inference_mode"} & data.keys():
        return 0.99
    return 0.7 if {"r", "target_modules", "task_type"} <= data.keys() else 0.0


def read(document: Document) -> Setup:
    """An adapter_config.json → Setup; base precision and training stay unknown."""
    written = document.data.get("peft_version") if isinstance(document.data, dict) else None
    reading = Reading(document, name, f"PEFT {written}" if written else "PEFT", traits=TRAITS, typed=False)
    reading.take(_FIELDS)
    if str(reading.get("peft_type")).upper() != "LORA":
        reading.remark("no-lora", "peft_type", f"peft_type {reading.get('peft_type')} is not LoRA.")
    else:
        _keep_keys(reading)
    if reading.written("target_modules") and not reading.has("target_modules"):
        reading.leave("lora.target_modules", why="It is null: PEFT took its table's names for the architecture.")
    reading.leave_rest("quantization", "training", "hardware", why=_NOT_RECORDED)
    reading.leave(
        "model.name_or_path", "model.dtype", "model.attn_implementation", "model.trust_remote_code", why=_NOT_RECORDED
    )
    reading.leave("model.device_map", "model.use_cache", why=_NOT_RECORDED)
    return reading.setup()


def _keep_keys(reading: Reading) -> None:
    """Every key, for the PEFT that will load the adapter may be another one than that which wrote it."""
    reading.stored_keys = {str(key): value not in (None, False, [], {}, "") for key, value in reading.data.items()}
    for key in reading.data:
        reading.point_at(str(key))

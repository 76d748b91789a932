"""A whole model's folder, by its config and the headers of its weights."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from ...core.errors import StageError
from ..load.checkpoint import Checkpoint, read_checkpoint
from .texts import read_json

_ADAPTERS = (
    ".lora_A.",
    ".lora_B.",
    ".base_layer.",
    ".lora_magnitude_vector.",
    ".modules_to_save.",
    ".original_module.",
)
_PACKED = ("U8", "I8", "F8_E4M3")
_STATES = (".quant_state.", ".absmax", ".SCB", ".qweight", ".weight_packed", ".weight_scale")


def whole_facts(folder: Path) -> dict[str, Any]:
    """Facts of a merged model: is it whole, what do its headers say of its quantization, is an adapter left in it."""
    config, why = read_json(folder / "config.json")
    found: dict[str, Any] = {"config_failure": why, "quantization_config": _quantization(config)}
    try:
        checkpoint = read_checkpoint(folder)
    except StageError as error:
        kind = {"missing-file": "missing", "pickle-only": "pickled"}.get(error.kind, error.kind)
        return found | {"weights": kind, "weights_failure": error.message}
    return found | _of_headers(checkpoint, found["quantization_config"])


def _of_headers(checkpoint: Checkpoint, quantization: str | None) -> dict[str, Any]:
    elements: Counter[str] = Counter()
    for tensor in checkpoint.tensors.values():
        elements[tensor.dtype] += tensor.elements
    packed = any(tensor.dtype in _PACKED and len(tensor.shape) > 1 for tensor in checkpoint.tensors.values())
    states = any(mark in name for name in checkpoint.tensors for mark in _STATES)
    return {
        "weights": "whole" if checkpoint.tensors else "empty",
        "tensors": len(checkpoint.tensors),
        "dtypes": dict(elements),
        "stale_quantization": None if quantization is None else _is_stale(quantization, packed or states),
        "quantization_missing": None if quantization is None else quantization == "none" and states,
        "adapter_left": [name for name in checkpoint.tensors if any(mark in name for mark in _ADAPTERS)],
    }


def _is_stale(quantization: str, packed: bool) -> bool:
    return quantization in ("4-bit", "8-bit", "gptq", "awq", "fp8") and not packed


def _quantization(config: dict[str, Any] | None) -> str | None:
    """What config.json says of the weights."""
    if config is None:
        return None
    section = config.get("quantization_config")
    if not isinstance(section, dict):
        return "none"
    if section.get("load_in_4bit") or section.get("_load_in_4bit"):
        return "4-bit"
    if section.get("load_in_8bit") or section.get("_load_in_8bit"):
        return "8-bit"
    return str(section.get("quant_method") or "none")

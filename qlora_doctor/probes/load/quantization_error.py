"""How far 4-bit weights are from the checkpoint's own, and whether that checkpoint holds numbers at all."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from ...facts.load import QuantizationError
from ..observing.aside import aside
from ..tensors import layer_and_projection
from .checkpoint import Checkpoint, StoredTensor, is_packed_in
from .loaded import four_bit_layers, has_nonfinite

SAMPLES = 14
"""Layers that are compared: all projections, spread over the depth."""
_FLOATS = ("F16", "BF16", "F32")


def sampled_errors(model: nn.Module, checkpoint: Checkpoint) -> list[QuantizationError]:
    """Relative Frobenius error of some layers' 4-bit weights against the checkpoint.

    Each projection is looked at in an early and a late layer, another pair of layers for each. A layer whose weight is
    not in the checkpoint under its own name (stored in 4-bit already, or fused on load) is left out. For normally
    distributed weights NF4 gives about 0.09 and FP4 about 0.12.
    """
    errors = []
    for name, module in _sample(list(four_bit_layers(model))):
        stored = _find(checkpoint, f"{name}.weight", getattr(model, "base_model_prefix", ""))
        numbers = stored is not None and not is_packed_in(checkpoint, stored.name)
        if stored is not None and numbers and stored.dtype in _FLOATS and len(stored.shape) == 2:
            with torch.no_grad(), aside(model):
                compared = _error(module, read(stored))
            if compared is not None:
                errors.append(QuantizationError(module=name, relative_error=compared[0], max_error=compared[1]))
    return errors


def nonfinite_in(checkpoint: Checkpoint, progress: Callable[..., None]) -> list[str]:
    """Tensors of the checkpoint with NaN or infinite values.

    A 4-bit weight does not always show them (CUDA's quantization takes the largest magnitude, which skips NaN), so the
    files are read, right after the load while they are in the page cache.
    """
    found = []
    done = 0
    total = sum(t.nbytes for t in checkpoint.tensors.values())
    for position, stored in enumerate(checkpoint.tensors.values()):
        if position % 32 == 0:
            progress("Looking for values that are no numbers", done, total, "bytes")
        done += stored.nbytes
        if stored.dtype in _FLOATS and stored.elements and not is_packed_in(checkpoint, stored.name):
            tensor = read(stored)
            if not math.isfinite(float(tensor.sum(dtype=torch.float32))) and has_nonfinite(tensor):
                found.append(stored.name)
    return found


def read(stored: StoredTensor) -> torch.Tensor:
    """One tensor of the checkpoint, on the CPU."""
    from safetensors import safe_open

    with safe_open(str(stored.file), framework="pt", device="cpu") as file:
        tensor: torch.Tensor = file.get_tensor(stored.name)
        return tensor


def _sample(layers: list[tuple[str, Any]]) -> list[tuple[str, Any]]:
    columns: dict[str, list[tuple[str, Any]]] = {}
    for name, module in layers:
        columns.setdefault(layer_and_projection(f"{name}.weight")[1], []).append((name, module))
    chosen: dict[str, Any] = {}
    for number, column in enumerate(columns.values()):
        depth = len(column)
        step = depth / max(len(columns), 1) / 2
        for position in (int(number * step), depth - 1 - int(number * step)):
            if len(chosen) < SAMPLES:
                name, module = column[position]
                chosen[name] = module
    return list(chosen.items())


def _find(checkpoint: Checkpoint, name: str, prefix: str) -> StoredTensor | None:
    """By its name, or with the base model's prefix more or less (checkpoints of a bare model have none)."""
    for candidate in (name, f"{prefix}.{name}", name.removeprefix(f"{prefix}.")):
        if candidate in checkpoint.tensors:
            return checkpoint.tensors[candidate]
    return None


def _error(module: Any, original: torch.Tensor) -> tuple[float, float] | None:
    """Relative Frobenius and largest absolute error; None where they cannot be compared, or are no numbers."""
    from bitsandbytes.functional import dequantize_4bit

    state = getattr(module.weight, "quant_state", None)
    if state is None:
        return None
    packed = dequantize_4bit(module.weight.data, state).float()
    original = original.to(packed.device).float()
    errors = []
    for candidate in (original, original.T):  # Conv1D stores its weight transposed
        if candidate.shape == packed.shape:
            difference = packed - candidate
            relative = float(difference.norm() / candidate.norm().clamp_min(1e-30))
            errors.append((relative, float(difference.abs().max())))
    finite = [error for error in errors if all(map(math.isfinite, error))]
    return min(finite) if finite else None

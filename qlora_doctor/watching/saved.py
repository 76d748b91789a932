"""The adapter on disk against the adapter in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..probes.tensors import local_part

FILE = "adapter_model.safetensors"


def differing(model: nn.Module, folder: Path, adapter: str | None = None) -> list[str] | None:
    """Tensors of an adapter that the file lacks or holds otherwise, as PEFT names them in the file.

    Args:
        adapter: its name; None is the first one of the model.

    None where it cannot be known: no such file, no PEFT model, or a form that this does not read.
    """
    path = folder / FILE
    if not path.is_file() or not hasattr(model, "peft_config"):
        return None
    from safetensors import safe_open

    wanted = _in_memory(model, adapter)
    if not wanted:
        return None
    found = []
    with safe_open(str(path), framework="pt") as file, torch.no_grad():
        names = set(file.keys())
        for name, tensor in wanted.items():
            if name not in names or not _same(file.get_tensor(name), tensor):
                found.append(name)
    return found


def is_readable(folder: Path) -> bool:
    """Whether the adapter's file is whole."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(folder / FILE), framework="pt") as file:
            return bool(file.keys())
    except (OSError, SafetensorError):
        return False


def _in_memory(model: Any, adapter: str | None) -> dict[str, torch.Tensor]:
    """LoRA's trainable matrices of an adapter under the names that save_pretrained gives them."""
    adapter = adapter or next(iter(model.peft_config))
    wanted = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and f".{adapter}" in name and ".lora_" in name:
            wanted[name.replace(f".{adapter}", "", 1)] = local_part(parameter.detach())
    return wanted


def _same(saved: torch.Tensor, here: torch.Tensor) -> bool:
    """Equal in one of the two dtypes: one may be the other, rounded. NaN is equal to NaN."""
    if saved.shape != here.shape:
        return False
    now = here.to("cpu")
    return any(
        bool(((one == other) | (one.isnan() & other.isnan())).all())
        for one, other in ((saved, now.to(saved.dtype)), (saved.to(now.dtype), now))
    )

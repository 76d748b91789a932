"""The adapter on disk against the adapter in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..probes.tensors import local_part

_FILE = "adapter_model.safetensors"


def differing(model: nn.Module, folder: Path) -> list[str] | None:
    """Tensors of the active adapter that the file lacks or holds otherwise, as PEFT names them in the file.

    None where it cannot be told: no such file, no PEFT model, or a form that this does not read.
    """
    path = folder / _FILE
    if not path.is_file() or not hasattr(model, "peft_config"):
        return None
    from safetensors import safe_open

    wanted = _in_memory(model)
    if not wanted:
        return None
    found = []
    with safe_open(str(path), framework="pt") as file, torch.no_grad():
        names = set(file.keys())
        for name, tensor in wanted.items():
            if name not in names or not _same(file.get_tensor(name), tensor):
                found.append(name)
    return found


def _in_memory(model: Any) -> dict[str, torch.Tensor]:
    """LoRA's matrices of the active adapter under the names that save_pretrained gives them."""
    adapter = next(iter(model.peft_config))
    wanted = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and f".{adapter}" in name and ".lora_" in name:
            wanted[name.replace(f".{adapter}", "", 1)] = local_part(parameter.detach())
    return wanted


def _same(saved: torch.Tensor, here: torch.Tensor) -> bool:
    """Equal, in the dtype that was saved; NaN is equal to NaN."""
    if saved.shape != here.shape:
        return False
    now = here.to("cpu", saved.dtype)
    return bool(((saved == now) | (saved.isnan() & now.isnan())).all())

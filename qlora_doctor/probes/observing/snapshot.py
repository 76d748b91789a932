"""The base before and after: fingerprints of every tensor, and what became of each."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import nn

from ...facts.step import CastTensor
from ..load.loaded import four_bit_layers
from ..tensors import BaseTensor, base_tensors, is_readable, local_part
from .aside import aside
from .chunk import Fingerprint
from .fingerprint import fingerprints

_SMALL = 1 << 16
"""Elements up to which a floating-point parameter is kept as it was (biases, norms): a cast is judged by its value."""


@dataclass
class Snapshot:
    """Every tensor of the base at one moment.

    Attributes:
        fingerprints: by name; tensors on the meta device are left out.
        kinds: by name, as in ``BaseTensor``.
        kept: copies on the CPU of small floating-point parameters and buffers.
        seconds: what taking it took, the device's work included.
    """

    fingerprints: dict[str, Fingerprint]
    kinds: dict[str, str]
    kept: dict[str, torch.Tensor] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def nbytes(self) -> int:
        """Bytes that were fingerprinted."""
        return sum(print_.nbytes for print_ in self.fingerprints.values())


@dataclass(frozen=True)
class Changes:
    """What differs between two moments: names in the order of the model."""

    changed: list[str]
    cast: list[CastTensor]
    recomputed: list[str]
    """Buffers outside the checkpoint that changed: the model may recompute them (rotary frequencies)."""


def take(model: nn.Module, *, keep_small: bool = True, apart: bool = True) -> Snapshot:
    """Fingerprint every base tensor where it is. Device memory that it takes is given back before it returns.

    Args:
        keep_small: keep small parameters and buffers as they are, to tell a cast by its value.
        apart: take device memory from a pool of its own; else from what the run has set free by now.
    """
    started = time.perf_counter()
    tensors = base_tensors(model)
    plain = torch.autocast(_kind(tensors), enabled=False)  # which would join 16-bit tensors in a dtype of its own
    with plain, aside(model) if apart else contextlib.nullcontext():
        prints = fingerprints({name: found.tensor for name, found in tensors.items()})
        kept = _copies(tensors) if keep_small else {}
    kinds: dict[str, str] = {name: found.kind for name, found in tensors.items()}
    return Snapshot(prints, kinds, kept, time.perf_counter() - started)


def _kind(tensors: Mapping[str, BaseTensor]) -> str:
    """The kind of device that most of a model's tensors may be on."""
    kinds = {found.tensor.device.type for found in tensors.values()} - {"meta"}
    return next(iter(kinds - {"cpu"}), "cpu")


def compare(before: Snapshot, model: nn.Module, after: Snapshot) -> Changes:
    """Which tensors hold another value than before; a tensor of another dtype is compared by value.

    A tensor that is gone, or new, has changed. What bitsandbytes repacked is none of these.
    """
    repacked = _repacked(model)
    changed: list[str] = []
    cast: list[CastTensor] = []
    recomputed: list[str] = []
    tensors = base_tensors(model)
    for name in [*before.fingerprints, *(n for n in after.fingerprints if n not in before.fingerprints)]:
        old, new = before.fingerprints.get(name), after.fingerprints.get(name)
        if old == new or name.startswith(repacked):
            continue
        number = before.kinds.get(name) != "packed"  # other bytes are another weight, whatever they count as
        recast = number and old is not None and new is not None and old.dtype != new.dtype
        if recast and old and new and _same_value(old, before.kept.get(name), tensors[name].tensor):
            cast.append(CastTensor(name=name, before=old.dtype, after=new.dtype))
        elif before.kinds.get(name, after.kinds.get(name)) == "transient":
            recomputed.append(name)
        else:
            changed.append(name)
    return Changes(changed, cast, recomputed)


def _repacked(model: nn.Module) -> tuple[str, ...]:
    """Beginnings of the names of what bitsandbytes holds in another form since an evaluation on a CPU with AVX-512.

    ``Linear4bit.forward`` repacks a weight in place for inference. When the layer trains again it unpacks the weight,
    bit for bit, and makes its statistics again ("best-effort", bitsandbytes/functional.py).
    """
    found = []
    for name, module in four_bit_layers(model):
        state = getattr(module.weight, "quant_state", None)
        if getattr(state, "packing_format_for_cpu", False):
            found.append(f"{name}.weight")
        elif hasattr(state, "original_qshape"):
            found.append(f"{name}.weight.")
    return tuple(found)


def _same_value(old: Fingerprint, kept: torch.Tensor | None, now: torch.Tensor) -> bool:
    """Whether ``now`` is the old tensor in another dtype: the old value cast gives it, bit for bit.

    Of a large tensor no copy was kept; then casting back has to give the old bytes, which a cast that rounded cannot.
    """
    if tuple(now.shape) != old.shape:
        return False
    with torch.no_grad(), aside(now):
        if kept is not None:
            expected = kept.to(now.dtype)
            return fingerprints({"": expected})[""] == fingerprints({"": now.detach().cpu()})[""]
        before = getattr(torch, old.dtype)
        if not (before.is_floating_point and now.is_floating_point()):
            return False
        return fingerprints({"": now.detach().to(before)})[""] == old


def _copies(tensors: Mapping[str, BaseTensor]) -> dict[str, torch.Tensor]:
    """Small floating-point parameters and buffers, copied to the CPU in one transfer for each device and dtype."""
    groups: dict[tuple[torch.device, torch.dtype], list[str]] = {}
    for name, found in tensors.items():
        tensor = found.tensor
        small = tensor.is_floating_point() and 0 < tensor.numel() <= _SMALL
        if small and found.kind not in ("statistics", "packed") and is_readable(tensor):
            groups.setdefault((tensor.device, tensor.dtype), []).append(name)
    copies: dict[str, torch.Tensor] = {}
    for names in groups.values():
        parts = [local_part(tensors[name].tensor.detach()) for name in names]
        flat = torch.cat([part.reshape(-1) for part in parts]).cpu()
        for name, part, piece in zip(names, parts, flat.split([p.numel() for p in parts]), strict=True):
            copies[name] = piece.view(part.shape)
    return copies

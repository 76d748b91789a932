"""The measured memory picture of a step, in the terms of torch.cuda's counters."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from ...core.versions import installed_versions
from ...facts.memory import MemoryPicture, PhasePeak
from ..observing.timeline import StepPeak
from ..tensors import base_tensors, local_part

if TYPE_CHECKING:
    from ...pipeline.base import Base
    from .observer import Observer


def measured_picture(observer: Observer, base: Base | None = None) -> MemoryPicture | None:
    """Peaks, phases, envelope and breakdown of the steps that ran; None without CUDA or before the first step."""
    timeline = observer.timeline
    peak = timeline.step_peak()
    if peak is None:
        return None
    seen = observer.forwards.seen
    return MemoryPicture(
        peak_allocated_bytes=peak.allocated,
        peak_reserved_bytes=max(step.reserved for step in timeline.steps),
        breakdown=breakdown(observer.model, peak, _optimizer_bytes(observer, peak)),
        phases=[
            PhasePeak(
                phase="step",
                peak_allocated_bytes=peak.allocated,
                peak_reserved_bytes=max(step.reserved for step in timeline.steps),
            )
        ],
        step_phases=timeline.phase_peaks(),
        timeline=timeline.points(),
        device=torch.cuda.get_device_name(timeline.device),
        batch=seen.batch,
        sequence=seen.sequence,
        versions=installed_versions(),
        assumptions=["activations: all that is in use at the peak beside the parts that are counted by tensor."],
    )


def breakdown(model: nn.Module, peak: StepPeak, optimizer_bytes: int) -> dict[str, int]:
    """Bytes by part at the peak: what is held by tensors is counted, ``activations`` is the rest.

    Gradients are counted where the peak is in the optimizer; in forward and backward they belong to the rest.
    """
    parts: dict[str, int] = {}
    for found in base_tensors(model).values():
        tensor = found.tensor
        if tensor.device.type != "cuda":
            continue
        part = _part(found.kind, tensor)
        parts[part] = parts.get(part, 0) + found.nbytes
    base_ids = {id(found.tensor) for found in base_tensors(model).values()}
    own = [p for p in map(local_part, model.parameters()) if id(p) not in base_ids and p.device.type == "cuda"]
    parts["adapter"] = sum(p.numel() * p.element_size() for p in own)
    if optimizer_bytes:
        parts["optimizer"] = optimizer_bytes
    if peak.phase == "optimizer":
        parts["gradients"] = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    parts["activations"] = max(peak.allocated - sum(parts.values()), 0)
    return parts


def _part(kind: str, tensor: torch.Tensor) -> str:
    if kind == "statistics":
        return "quantization_statistics"
    if kind == "packed" and type(tensor).__name__ != "Int8Params":
        return "base_4bit"
    return "base_32bit" if tensor.element_size() >= 4 else "base_16bit"


def _optimizer_bytes(observer: Observer, peak: StepPeak) -> int:
    """Optimizer state that CUDA's allocator held at the peak.

    That of the step itself where the optimizer was at work, else of the step before.
    """
    index = observer.timeline.steps.index(peak)
    states = observer.optimizer_cuda_bytes
    if peak.phase == "optimizer" and index < len(states):
        return states[index]
    return states[index - 1] if 0 < index <= len(states) else 0

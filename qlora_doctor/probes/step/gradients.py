"""The gradient of every trainable tensor, seen the moment autograd has it: before it is clipped or unscaled."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from ...facts.step import GradientColumn
from ..tensors import every_module, layer_and_projection, local_part, zero_tensors


@dataclass
class StepGradients:
    """One step's gradients by tensor: L2 norm and largest magnitude (NaN and inf pass through); no entry: none came."""

    norms: dict[str, float]
    largest: dict[str, float]
    by_design_zero: set[str] = field(default_factory=set)
    """lora_A where lora_B was zero when the step began: its gradient is zero then, by the chain rule. So is that of an
    adapter of stacked experts where the lora_B of some of them is zero, and the step reaches no other."""
    skipped: bool = False
    """The gradient scaler found an overflow, and the optimizer did not step."""


class GradientWatch:
    """Hooks on trainable parameters that write two numbers per tensor into a buffer allocated beforehand.

    Gradients are read in place: nothing is kept of them and no tensor is allocated while the step runs.
    """

    def __init__(
        self,
        parameters: Mapping[str, nn.Parameter],
        on_gradient: Callable[[], None] | None = None,
        guard: Callable[[Callable[..., Any]], Callable[..., Any]] = lambda hook: hook,
    ) -> None:
        self._parameters = dict(parameters)
        self._on_gradient = on_gradient
        self._handles: list[Any] = []
        self.fired: set[str] = set()
        """Names of the tensors that the step under way has given a gradient."""
        self._buffers: dict[torch.device, torch.Tensor] = {}
        self._rows: dict[str, int] = {}
        self.steps: list[StepGradients] = []
        counts: dict[torch.device, int] = {}
        for name, parameter in self._parameters.items():
            self._rows[name] = counts.get(parameter.device, 0)
            counts[parameter.device] = self._rows[name] + 1
        for device, count in counts.items():
            self._buffers[device] = torch.zeros((count, 2), dtype=torch.float32, device=device)
        for name, parameter in self._parameters.items():
            hook = self._hook(name, self._buffers[parameter.device][self._rows[name]])
            self._handles.append(parameter.register_post_accumulate_grad_hook(guard(hook)))

    def begin_step(self) -> None:
        """Forget what fired; nothing is read from the device."""
        self.fired.clear()

    def end_step(self, scale: float, by_design_zero: set[str], skipped: bool) -> None:
        """Read the buffer once. ``scale`` is the gradient scaler's factor, 1 without one."""
        read = {device: buffer.tolist() for device, buffer in self._buffers.items()}
        norms: dict[str, float] = {}
        largest: dict[str, float] = {}
        for name in self._parameters:
            if name in self.fired:
                norm, top = read[self._parameters[name].device][self._rows[name]]
                norms[name], largest[name] = norm / scale, top / scale
        self.steps.append(StepGradients(norms, largest, by_design_zero, skipped))

    def norms_now(self, scale: float) -> dict[str, float]:
        """Norms of the step under way as they stand; waits for the device."""
        read = {device: buffer.tolist() for device, buffer in self._buffers.items()}
        return {
            name: read[parameter.device][self._rows[name]][0] / scale
            for name, parameter in self._parameters.items()
            if name in self.fired
        }

    def catch_up(self) -> None:
        """Read the gradients for which no hook ran: FSDP hands them to its parameters past autograd."""
        for name, parameter in self._parameters.items():
            if name not in self.fired:
                self._read(name, parameter, self._buffers[parameter.device][self._rows[name]])

    def _read(self, name: str, parameter: torch.Tensor, row: torch.Tensor) -> None:
        if parameter.grad is None:
            return
        self.fired.add(name)
        with torch.no_grad():
            gradient = local_part(parameter.grad.detach())
            read = gradient.coalesce().values() if gradient.is_sparse else gradient
            if not read.numel():  # a shard without rows: nothing of it is known here
                row.fill_(1.0)
                return
            torch.linalg.vector_norm(read, 2, dtype=torch.float32, out=row[0])
            torch.linalg.vector_norm(read, math.inf, dtype=torch.float32, out=row[1])

    def close(self) -> None:
        """Take the hooks off."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _hook(self, name: str, row: torch.Tensor) -> Callable[[torch.Tensor], None]:
        def look(parameter: torch.Tensor) -> None:
            self._read(name, parameter, row)
            if self._on_gradient is not None:
                self._on_gradient()

        return look


def lora_a_without_effect(parameters: Mapping[str, nn.Parameter], model: nn.Module) -> set[str]:
    """Names of lora_A matrices whose lora_B is exactly zero at this moment; of stacked experts that of one suffices.

    PEFT's lora_B of stacked experts has r columns for each of them, (out, r · experts). An expert that no token has
    reached yet still has zeros there, and a step that reaches only such experts gives lora_A a gradient of zero.
    """
    seconds = {name: p.detach() for name, p in parameters.items() if partner(name) in parameters}
    zero = zero_tensors(seconds)
    of_experts = {
        id(layer.weight)
        for module in every_module(model)
        if type(module).__name__ == "ParamWrapper"
        for layer in getattr(module, "lora_B", {}).values()
    }
    for name, values in seconds.items():
        if id(parameters[name]) in of_experts and name not in zero and values.device.type != "meta":
            columns = (local_part(values) != 0).any(dim=0)
            zero |= set() if bool(columns.all()) else {name}
    return {partner(name) for name in zero}


def partner(name: str) -> str:
    """The lora_A (or lora_embedding_A) that belongs to a lora_B; the name itself stays what it was elsewhere."""
    if ".lora_B." in name:
        return name.replace(".lora_B.", ".lora_A.")
    if ".lora_embedding_B." in name or name.endswith(".lora_embedding_B"):
        return name.replace(".lora_embedding_B", ".lora_embedding_A")
    return "\0"


@dataclass(frozen=True)
class GradientFacts:
    """What all steps together say of the gradients."""

    missing: list[str]
    zero: list[str]
    nonfinite: list[str]
    norm: float | None
    columns: list[GradientColumn]


VANISHES = 1e-12
"""Gradient of a lora_B below which that of its lora_A may underflow; healthy ones are some 1e-6 and more."""


def conclude(names: list[str], steps: list[StepGradients]) -> GradientFacts:
    """Judge over all steps that counted: those that the gradient scaler skipped count only where there is no other.

    A tensor is *missing* where no step gave it a gradient, *zero* where every step in which zero was not by design
    gave exactly zero, *nonfinite* where any step gave NaN or inf. A lora_A whose lora_B got a tiny gradient is not zero
    by a fault: dL/dA = s Bᵀ G xᵀ and dL/dB = s G (A x)ᵀ share G and x, and the product of a B that has hardly moved and
    a G that small is below what a float holds.
    """
    counted = [step for step in steps if not step.skipped] or steps
    missing = [name for name in names if not any(name in step.norms for step in counted)]
    zero = [name for name in names if _is_zero(name, counted)]
    largest = {name: max((step.largest.get(name, 0.0) for step in counted), default=0.0) for name in names}
    vanishing = {partner(name) for name, most in largest.items() if 0.0 < most < VANISHES}
    zero = [name for name in zero if name not in vanishing]
    nonfinite = [name for name in names if any(not math.isfinite(s.largest.get(name, 0.0)) for s in counted)]
    last = counted[-1].norms if counted else {}
    total = math.sqrt(sum(norm * norm for norm in last.values())) if last else None
    return GradientFacts(missing, zero, nonfinite, total, _columns(last))


def _is_zero(name: str, steps: list[StepGradients]) -> bool:
    judged = [step.largest[name] for step in steps if name in step.largest and name not in step.by_design_zero]
    return bool(judged) and all(largest == 0.0 for largest in judged)


def _columns(norms: Mapping[str, float]) -> list[GradientColumn]:
    table: dict[str, dict[int, float]] = {}
    for name, norm in norms.items():
        layer, projection = layer_and_projection(name)
        if layer is not None:
            row = table.setdefault(projection, {})
            row[layer] = row.get(layer, 0.0) + norm * norm
    return [
        GradientColumn(
            projection=projection,
            layers=sorted(row),
            norms=[math.sqrt(row[layer]) if math.isfinite(row[layer]) else None for layer in sorted(row)],
        )
        for projection, row in table.items()
    ]

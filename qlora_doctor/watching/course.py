"""The course of a loop of the user's own after its watched steps: what a trainer would have logged.

Nothing is on the model. Two things stay: a hook of the optimizer's own, and a thin function around
``torch.autograd.backward``. Together they may take half a percent of the run's time: where a step is too short for
that, not every step is recorded. No device is waited for: numbers travel to the host while the next steps run.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from ..probes.tensors import decoder_layers, local_part, modules_of
from .guarding import Guard

_SHARE = 0.005
"""Of the run's time that recording may take."""
_FIRST = 20
"""Steps that are recorded in any case."""
_MOST_LOSSES = 4096
"""Micro-batches of one update whose losses are kept."""


class LoopCourse:
    """Records of the steps of one optimizer, until it is closed.

    Args:
        model: that trains.
        optimizer: whose steps are counted.
        scaler: the gradient scaler, or None.
        micro_batches: of the last watched step. A scaler leaves steps out, and no hook runs for one.
        norms: gradients are whole here, and their norm is worth taking.
        done: steps that were taken by now.
        record: given each record, with the names that a trainer logs by.
        noticed: given the step, and what no longer holds of the model: see ``Standing``.
        guard: wraps what runs within the loop.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        scaler: Any,
        micro_batches: int,
        norms: bool,
        done: int,
        record: Callable[[dict[str, Any]], None],
        noticed: Callable[[int, dict[str, Any]], None],
        guard: Guard,
    ) -> None:
        self.done = done
        self._record, self._noticed = record, noticed
        self._scaler = weakref.ref(scaler) if scaler is not None else lambda: None
        self._of_a_step = max(micro_batches, 1) if scaler is not None else _MOST_LOSSES
        self._standing = Standing(model)
        self._norms = norms
        self._losses: list[torch.Tensor] = []
        self._norm: torch.Tensor | None = None
        self._pending: tuple[dict[str, Any], list[str], torch.Tensor, Any] | None = None
        self._depth = 0
        self._first = done + _FIRST
        self._began, self._spent = time.perf_counter(), 0.0
        self._due = True
        self._handle: Any = optimizer.register_step_pre_hook(guard(self._steps))
        self._look = guard(self._after_backward)
        self._plain = plain = torch.autograd.backward

        def backward(tensors: Any, *args: Any, **kwargs: Any) -> Any:
            self._depth += 1
            try:
                result = plain(tensors, *args, **kwargs)
            finally:
                self._depth -= 1
            if self._due and not self._depth:  # reentrant checkpointing calls it within itself
                self._look(tensors)
            return result

        self._wrapped = torch.autograd.backward = backward

    def close(self) -> None:
        """Take both off, and hand over what is under way."""
        if self._handle is not None:
            self._handle.remove()
            self._handle = None
        if torch.autograd.backward is self._wrapped:
            torch.autograd.backward = self._plain
        self._hand_over()

    def _after_backward(self, tensors: Any) -> None:
        began = time.perf_counter()
        given = tensors[0] if isinstance(tensors, (tuple, list)) and len(tensors) == 1 else tensors
        if isinstance(given, torch.Tensor) and given.numel() == 1:
            self._losses = [*self._losses[1 - _MOST_LOSSES :], given.detach()]
        if self._norms:
            self._norm = self._total_norm()  # now: at the step it has been clipped
        self._spent += time.perf_counter() - began

    def _total_norm(self) -> torch.Tensor | None:
        every = self._standing.parameters()
        gradients = [local_part(p.grad.detach()) for p in every if p.grad is not None and not p.grad.is_sparse]
        first = gradients[0].device if gradients else None
        alike = [each for each in gradients if each.device == first and each.numel()]
        if not alike or len(alike) != len(gradients):
            return None
        with torch.no_grad():
            return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(alike, 2)).float())

    def _steps(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        """Before a step of the optimizer: its gradients are there, and the rate that it will use."""
        self.done += 1
        began = time.perf_counter()
        if self._due:
            self._hand_over()
            self._take(optimizer)
            self._losses.clear()
            self._norm = None
        now = time.perf_counter()
        self._spent += now - began
        self._due = self.done < self._first or self._spent <= _SHARE * (now - self._began)

    def _take(self, optimizer: Any) -> None:
        rates = [group["lr"] for group in optimizer.param_groups if "lr" in group]
        known: dict[str, Any] = {"step": self.done, "time": time.time(), "wall_seconds": time.time()}
        if rates and not any(isinstance(rate, torch.Tensor) and rate.is_cuda for rate in rates):
            known["learning_rate"] = max(float(rate) for rate in rates)
        names, values = [], []
        with torch.no_grad():
            scaler = self._scaler()
            scale = getattr(scaler, "_scale", None) if scaler is not None else None
            losses = [loss.float().reshape(()) for loss in self._losses[-self._of_a_step :]]
            if losses and len({loss.device for loss in losses}) == 1:
                total = torch.stack(losses).sum()
                names.append("loss")
                values.append(total / scale if scale is not None else total)
            if self._norm is not None:
                names.append("grad_norm")
                values.append(self._norm / scale if scale is not None else self._norm)
            if values and len({value.device for value in values}) == 1:
                together = torch.stack([value.reshape(()) for value in values])
                event = None
                if together.is_cuda:
                    here = torch.empty(together.shape, dtype=together.dtype, pin_memory=True)
                    here.copy_(together, non_blocking=True)
                    event = torch.cuda.Event()
                    event.record()
                    together = here
                self._pending = (known, names, together, event)
            else:
                self._pending = (known, [], torch.empty(0), None)
        changes = self._standing.changes()
        if changes:
            self._noticed(self.done, changes)

    def _hand_over(self) -> None:
        if self._pending is None:
            return
        known, names, values, event = self._pending
        self._pending = None
        if event is not None:
            try:
                event.synchronize()  # long past, but for the last one
            except RuntimeError:  # the device failed, which ends the run: its own error reports it
                return
        self._record({**known, **dict(zip(names, values.tolist(), strict=True))})


class Standing:
    """What holds of a model as its watched steps end, and may be undone later by the program's own code."""

    def __init__(self, model: nn.Module) -> None:
        self._parameters = [
            (name, weakref.ref(parameter)) for name, parameter in model.named_parameters() if parameter.requires_grad
        ]
        self._layers = [weakref.ref(layer) for layer in decoder_layers(model)]
        self._adapted = [weakref.ref(m) for _, m in modules_of(model) if "_disable_adapters" in m.__dict__]
        self._trained = self._trains()
        self._used, self._merged = not self._switched_off(), self._is_merged()
        self._told: set[str] = set()

    def parameters(self) -> list[nn.Parameter]:
        """What trained in the watched steps."""
        return [parameter for _, ref in self._parameters if (parameter := ref()) is not None]

    def changes(self) -> dict[str, Any]:
        """What has come to be otherwise since the last call, each thing once.

        ``frozen``: names of tensors that require no gradient any more; ``evaluation``: the layers are in evaluation
        mode; ``switched_off``: the adapter is not used by any layer; ``merged``: it is merged into the base.
        """
        found: dict[str, Any] = {}
        frozen = [name for name, ref in self._parameters if (p := ref()) is not None and not p.requires_grad]
        off = self._used and self._switched_off()
        if off:  # PEFT freezes what it switches off
            found["switched_off"] = True
        elif frozen and "switched_off" not in self._told:
            found["frozen"] = frozen
        if not self._merged and self._is_merged():
            found["merged"] = True
        if self._trained and not self._trains():
            found["evaluation"] = True
        new = {name: value for name, value in found.items() if name not in self._told}
        self._told.update(new)
        return new

    def _trains(self) -> bool:
        layers = _there(self._layers)
        return bool(layers) and all(layer.training for layer in layers)

    def _is_merged(self) -> bool:
        return any(layer.__dict__.get("merged_adapters") for layer in _there(self._adapted))

    def _switched_off(self) -> bool:
        layers = _there(self._adapted)
        return bool(layers) and all(layer.__dict__.get("_disable_adapters") for layer in layers)


def _there(references: Sequence[weakref.ref[nn.Module]]) -> list[nn.Module]:
    return [module for ref in references if (module := ref()) is not None]

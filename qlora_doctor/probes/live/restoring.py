"""Live objects as they were found: parameters, optimizer, gradients, modes, random state, bit for bit."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from ..observing.aside import random_state_kept
from ..resources import host_memory
from ..step.optimizer import layers_of, unwrapped
from ..tensors import base_tensors
from .keeping import keep, keep_attributes

_SHARE = 0.25
"""Share of the free host memory that copies of the frozen base may take."""
_LAYER_STATE = ("compute_dtype", "compute_type_is_set")
"""What bitsandbytes' 4-bit layers settle in their first forward."""


@dataclass
class _Found:
    """What was found, with copies of what a step may change.

    ``storage`` holds the tensor object that a parameter or buffer pointed to, ``copies`` its value on the CPU.
    """

    storage: dict[int, tuple[torch.Tensor, torch.Tensor]] = field(default_factory=dict)
    copies: dict[int, torch.Tensor] = field(default_factory=dict)
    gradients: list[tuple[nn.Parameter, torch.Tensor | None]] = field(default_factory=list)
    flags: list[tuple[nn.Parameter, bool]] = field(default_factory=list)
    modes: list[tuple[nn.Module, bool]] = field(default_factory=list)
    layers: list[tuple[nn.Module, dict[str, Any]]] = field(default_factory=list)
    complete: bool = True
    """False where the frozen base was too large to copy: what a faulty step changes in it stays changed."""


@contextmanager
def as_found(model: nn.Module, optimizer: Any | None) -> Iterator[_Found]:
    """Put everything back after the block, also after an exception. Gradients are set aside for the block."""
    found = _find(model, optimizer)
    state = _OptimizerState(optimizer) if optimizer is not None else None
    with random_state_kept(model):
        try:
            for parameter, _ in found.gradients:
                parameter.grad = None
            yield found
        finally:
            _put_back(found)
            if state is not None:
                state.put_back()


def _find(model: nn.Module, optimizer: Any | None) -> _Found:
    found = _Found()
    held = [p for g in unwrapped(optimizer).param_groups for p in g["params"]] if optimizer is not None else []
    own = list(model.parameters())
    parameters = list({id(p): p for p in (*own, *held)}.values())
    found.gradients = [(p, p.grad) for p in parameters]
    found.flags = [(p, p.requires_grad) for p in parameters]
    found.modes = [(m, m.training) for m in model.modules()]
    for module in model.modules():
        settled = {name: getattr(module, name) for name in _LAYER_STATE if hasattr(module, name)}
        if settled:
            found.layers.append((module, settled))
    changing = {id(p) for p in held} | {id(p) for p in own if p.requires_grad}
    base = [entry.tensor for entry in base_tensors(model).values()]
    room = host_memory()
    size = sum(t.numel() * t.element_size() for t in base)
    found.complete = room is None or size <= _SHARE * room
    for tensor in {id(t): t for t in (*parameters, *base)}.values():
        if tensor.device.type == "meta":
            continue
        found.storage[id(tensor)] = (tensor, tensor.data)
        if found.complete or id(tensor) in changing or tensor.numel() <= 1 << 16:
            found.copies[id(tensor)] = tensor.detach().to("cpu", copy=True)
    return found


def _put_back(found: _Found) -> None:
    with torch.no_grad():
        for key, (tensor, storage) in found.storage.items():
            moved = tensor.data_ptr() != storage.data_ptr() or tensor.dtype != storage.dtype
            if moved:  # bitsandbytes casts a bias by giving it another storage
                tensor.data = storage
            if key in found.copies:
                storage.copy_(found.copies[key])
    for parameter, gradient in found.gradients:
        parameter.grad = gradient
    for parameter, flag in found.flags:
        if parameter.requires_grad != flag:
            parameter.requires_grad_(flag)
    for module, mode in found.modes:
        module.training = mode
    for module, settled in found.layers:
        for name, value in settled.items():
            setattr(module, name, value)


class _OptimizerState:
    """State, groups and attributes of an optimizer and of what the script put around it; all stay the same objects."""

    def __init__(self, optimizer: Any) -> None:
        layers = layers_of(optimizer)
        self._optimizer = layers[-1]
        self._state = {key: keep(value) for key, value in self._optimizer.state.items()}
        self._groups = [
            (group, {name: keep(value) for name, value in group.items() if name != "params"})
            for group in self._optimizer.param_groups
        ]
        self._attributes = keep_attributes(layers, frozenset(("state", "param_groups")))

    def put_back(self) -> None:
        state = self._optimizer.state
        for key in list(state):
            if key not in self._state:
                del state[key]
        for key, kept in self._state.items():
            state[key] = kept.put_back()
        for group, values in self._groups:
            for name in [n for n in group if n != "params" and n not in values]:
                del group[name]
            group.update({name: kept.put_back() for name, kept in values.items()})
        self._attributes.put_back()

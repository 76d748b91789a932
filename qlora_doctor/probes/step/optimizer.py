"""The optimizer's parameters against the model's: what it holds, what it should hold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from ...facts.step import OptimizerFacts
from ..tensors import local_part, parameters_of, plain_name


def optimizer_facts(optimizer: Any, model: nn.Module) -> OptimizerFacts:
    """What the optimizer holds at this moment, by identity of the tensors, not by name."""
    optimizer = unwrapped(optimizer)
    held = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    held_ids = {id(parameter) for parameter in held}
    own = list(parameters_of(model))
    owned = {id(parameter): name for name, parameter in own}
    frozen = [plain_name(owned[id(p)]) for p in held if id(p) in owned and not p.requires_grad]
    missing = [plain_name(name) for name, p in own if p.requires_grad and id(p) not in held_ids]
    return OptimizerFacts(
        name=type(optimizer).__name__,
        parameters=len(held),
        elements=sum(p.numel() for p in held),
        frozen_parameters=frozen,
        missing_parameters=missing,
        stale_parameters=sum(id(p) not in owned for p in held),
        state_bytes=state_bytes(optimizer),
        learning_rates=learning_rates(optimizer),
        maximizes=any(bool(group.get("maximize")) for group in optimizer.param_groups),
    )


def learning_rates(optimizer: Any) -> list[float]:
    """The rates of its groups at this moment, each once."""
    return sorted({float(group["lr"]) for group in unwrapped(optimizer).param_groups if "lr" in group})


def state_bytes(optimizer: Any, device_type: str | None = None) -> int:
    """Bytes of the tensors in the optimizer's state, or of those on one kind of device.

    The state of a paged optimizer is in managed memory, which torch takes for the host's and its CUDA counters do not
    hold (``get_paged`` in bitsandbytes/functional.py).
    """
    tensors: dict[int, int] = {}

    def collect(value: Any) -> None:
        if isinstance(value, torch.Tensor):
            value = local_part(value)
            if device_type in (None, value.device.type):
                tensors[id(value)] = value.numel() * value.element_size()
        elif isinstance(value, Mapping):
            for inner in value.values():
                collect(inner)
        elif isinstance(value, list | tuple):
            for inner in value:
                collect(inner)

    for state in unwrapped(optimizer).state.values():
        collect(state)
    return sum(tensors.values())


def unwrapped(optimizer: Any) -> Any:
    """torch's optimizer inside accelerate's wrapper or one of the script's own."""
    return layers_of(optimizer)[-1]


def layers_of(optimizer: Any) -> list[Any]:
    """The optimizer as it was given and what it wraps, outermost first; the last is torch's, if there is one."""
    layers = [optimizer]
    while not isinstance(optimizer, torch.optim.Optimizer) or type(optimizer).__module__.startswith("accelerate"):
        own = getattr(optimizer, "__dict__", {})
        found = [own.get("optimizer"), *(v for v in own.values() if isinstance(v, torch.optim.Optimizer))]
        inner = next((each for each in found if hasattr(each, "param_groups")), None)
        if inner is None or any(inner is layer for layer in layers):
            break
        layers.append(inner)
        optimizer = inner
    return layers


def step_of(optimizer: Any) -> Any:
    """The ``step`` that a training script's call reaches, replaced or wrapped as it may be.

    accelerate's wrapper is passed by where it is as accelerate made it: it steps at the end of an accumulation alone,
    and through its gradient scaler.
    """
    for layer in layers_of(optimizer):
        if not type(layer).__module__.startswith("accelerate") or "step" in vars(layer):
            return layer.step
    return optimizer.step

"""What holds back the tensors that no step changed: the optimizer, or the spacing of their own values.

A tensor that has a gradient and stays bit for bit as it was need not be out of the optimizer's reach: an update below
half the spacing of a value is rounded away (IEEE 754, round to nearest), and an optimizer may step in every fourth call
alone. So the tensors are set to zero, where any update shows, and the optimizer is called again with the gradients of
the last step: what then moves shows its update, what does not is left out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

_GROWS = 100.0
"""Times that an update may grow, where it follows its gradient (SGD's), before it is called too small for good."""
CALLS = 16
"""Calls of the optimizer that a tensor at zero gets to move; what accumulates steps in every second to eighth."""


@dataclass(frozen=True)
class HeldBack:
    """Why tensors with a gradient did not change, by name.

    Attributes:
        out_of_reach: the optimizer holds them and leaves them as they are, even at zero.
        below_precision: it updates them by less than what changes a value.
        late: it updates them by enough, in a later call than those that were seen.
        stuck: of those below precision, the ones that no update at this rate changes: see ``_largest``.
        share: largest update of those below precision, as a share of what would change a value; None where the size of
            an update depends on the value (Adafactor, LAMB, LARS).
        stuck_share: the same of those that are stuck, for the largest update that the optimizer makes.
        calls: of the optimizer until the late ones have changed.
        steps: about as many until all of those below precision have begun to change; None where they do not while
            their gradients stay as large as they are.
    """

    out_of_reach: list[str] = field(default_factory=list)
    below_precision: list[str] = field(default_factory=list)
    late: list[str] = field(default_factory=list)
    stuck: list[str] = field(default_factory=list)
    share: float | None = None
    stuck_share: float | None = None
    calls: int | None = None
    steps: int | None = None


def what_holds_back(
    parameters: Mapping[str, nn.Parameter],
    gradients: Mapping[str, torch.Tensor],
    optimizer: Any,
    step: Callable[[], Any],
    *,
    taken: int,
    growing: set[str],
) -> HeldBack:
    """Try what the optimizer does to tensors that did not change; their values and gradients are put back.

    Args:
        gradients: of the last step, by name; only tensors that the optimizer holds.
        optimizer: torch's own, whose groups tell how the size of an update comes about.
        step: what the training script calls.
        taken: steps so far.
        growing: tensors whose gradient grows with every step: lora_A, while lora_B leaves zero.
    """
    if not gradients:
        return HeldBack()
    names = [name for name in gradients if name in parameters]
    kept = {name: parameters[name].detach().to("cpu", copy=True) for name in names}
    try:
        updates, calls = _from_zero(parameters, gradients, names, step)
    finally:
        with torch.no_grad():
            for name in names:
                parameters[name].copy_(kept[name])
                parameters[name].grad = None
    shares = {name: _share(kept[name], update) for name, update in updates.items()}
    below = [name for name in names if name in shares and shares[name] < 1.0]
    late = [name for name in names if name in shares and shares[name] >= 1.0]
    relative = _scales_by_weights(optimizer)
    by_gradient = "SGD" in type(optimizer).__name__ and set(below) <= growing and not relative
    # A momentum of 0.9 lets the updates of an even gradient add up to ten times one of them.
    piled_up = 1 / (1 - max((float(g.get("momentum") or 0) for g in optimizer.param_groups), default=0.0))
    pace = {name: shares[name] * piled_up / max(taken - 1, 1) for name in below if by_gradient}
    steps = [1 + math.ceil(1 / share) for share in pace.values() if share > 0]
    found = steps if len(steps) == len(below) else []
    limits: dict[str, float] = {}
    for name in below if not found and not relative else ():
        limits[name] = _share(kept[name], _largest(optimizer, parameters[name], updates[name]))
    stuck = {name: limit for name, limit in limits.items() if limit < 1.0}
    return HeldBack(
        out_of_reach=[name for name in names if name not in updates],
        below_precision=below,
        late=late,
        stuck=list(stuck),
        share=max((shares[name] for name in below), default=None) if not relative else None,
        stuck_share=max(stuck.values(), default=None),
        calls=taken + calls if late else None,
        steps=max(found, default=None),
    )


def _largest(optimizer: Any, parameter: nn.Parameter, update: torch.Tensor) -> torch.Tensor:
    """The largest update that a parameter gets while the rate stays, where the measured one may yet grow.

    Adam's approaches the rate under an even gradient (Kingma and Ba 2015, section 2.1) and is far below it while
    epsilon outweighs a small one; RMSprop's begins at ``1 / sqrt(1 - alpha)`` of the rate; a sign's is the rate.
    """
    kind = type(optimizer).__name__
    group: dict[str, Any] = next((g for g in optimizer.param_groups if any(p is parameter for p in g["params"])), {})
    if "RMSprop" in kind:
        alpha = float(group.get("alpha") or (group.get("betas") or (0.99,))[0])
        limit = 1 / math.sqrt(max(1 - alpha, 1e-6))
    elif any(name in kind for name in ("Adam", "Lion", "Sign", "Adagrad")):
        limit = 1.0
    else:
        return update * _GROWS
    return update.abs().clamp_min(limit * float(group.get("lr") or 0.0))


def _scales_by_weights(optimizer: Any) -> bool:
    """Whether an update follows the size of the weights that it changes."""
    by_name = any(name in type(optimizer).__name__ for name in ("Adafactor", "LAMB", "LARS"))
    return by_name or any("scale_parameter" in group for group in optimizer.param_groups)


def _from_zero(
    parameters: Mapping[str, nn.Parameter],
    gradients: Mapping[str, torch.Tensor],
    names: list[str],
    step: Callable[[], Any],
) -> tuple[dict[str, torch.Tensor], int]:
    """The first update of each tensor that gets one, on the CPU, and the calls that it took."""
    with torch.no_grad():
        for name in names:
            parameters[name].zero_()
    updates: dict[str, torch.Tensor] = {}
    calls = 0
    while calls < CALLS and len(updates) < len(names):
        calls += 1
        for name in names:
            if name not in updates:
                parameters[name].grad = gradients[name].to(parameters[name].device, copy=True)
        step()
        found = {n: parameters[n].detach() for n in names if n not in updates}
        moved = {n: t for n, t in found.items() if bool(t.count_nonzero())}
        for name, tensor in moved.items():
            updates[name] = tensor.to("cpu", copy=True)
            parameters[name].grad = None
        if not moved and calls >= 1 and updates:
            break  # the optimizer has stepped, and left the rest out
    return updates, calls


def _share(value: torch.Tensor, update: torch.Tensor) -> float:
    """The largest update as a share of half the spacing of the value that it meets."""
    info = torch.finfo(value.dtype)
    _, exponent = torch.frexp(value.double())
    spacing = torch.ldexp(torch.full_like(exponent, 1, dtype=torch.float64) * info.eps, exponent - 1)
    half = spacing.clamp_min(info.smallest_normal * info.eps) / 2
    return float((update.double().abs() / half).max())

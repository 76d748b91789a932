"""What becomes of the gradients between backward and the optimizer's step, and what a step leaves behind."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import nn

_TINY = 1e-6
"""Of a gradient's norm: no clipping that is meant leaves less."""
_OF_THE_SCALE = 64
"""A clipped norm times the scaler's factor: a limit for clipping above this is none that is used."""


def total_norm(gradients: Iterable[torch.Tensor | None]) -> float | None:
    """L2 norm of all gradients that are there, in one transfer for each device; None where there is none."""
    held: dict[torch.device, list[torch.Tensor]] = {}
    for gradient in gradients:
        if gradient is not None and not gradient.is_sparse and gradient.numel():
            held.setdefault(gradient.device, []).append(gradient.detach())
    if not held:
        return None
    squares = 0.0
    with torch.no_grad():
        for group in held.values():
            norms = torch.stack([torch.linalg.vector_norm(each, 2, dtype=torch.float32) for each in group])
            squares += float(torch.linalg.vector_norm(norms, 2)) ** 2
    return math.sqrt(squares)


def left_over(parameters: Mapping[str, nn.Parameter], held: set[int]) -> float:
    """Norm of the gradients that a step begins with: zero where the step before took its own away.

    Args:
        held: ids of the tensors that the optimizer holds: it clears no others.
    """
    return total_norm(each.grad for each in parameters.values() if id(each) in held) or 0.0


def cleared(
    parameters: Mapping[str, nn.Parameter],
    came: Iterable[str],
    held: set[int],
    norms: Callable[[], Mapping[str, float]],
) -> bool:
    """Whether a gradient that an earlier micro-batch of the step gave is gone before the next one.

    One tensor tells, of those whose gradient is not zero while lora_B is. Where it has none, those tell whose gradient
    was not zero as it came: one that backward itself leaves at zero was not cleared.

    Args:
        came: names of the tensors that autograd gave a gradient.
        held: ids of the tensors that the optimizer holds.
        norms: gives the norm of each of their gradients as it came.
    """
    names = [name for name in came if id(parameters[name]) in held]
    name = next((each for each in names if "lora_A" not in each), None)
    if name is None or not _gone(parameters[name]):
        return False
    before = norms()
    had = [each for each in names if before.get(each, 0.0) > 0]
    return bool(had) and all(_gone(parameters[each]) for each in had)


def _gone(parameter: nn.Parameter) -> bool:
    gradient = parameter.grad
    return gradient is None or not bool(torch.count_nonzero(gradient))


def on_the_way(
    came: Mapping[str, float], parameters: Mapping[str, nn.Parameter], held: set[int], scale: float
) -> dict[str, Any]:
    """Fields of ``RunFacts``: the gradients as backward gave them against those that the optimizer is about to use.

    Args:
        came: norm of each tensor's gradient when autograd had it, the scaler's factor taken out.
        parameters: what trains, by name.
        held: ids of the tensors that the optimizer holds.
        scale: the factor of the gradient scaler, 1 without one.
    """
    names = [name for name, norm in came.items() if norm > 0 and math.isfinite(norm) and id(parameters[name]) in held]
    if not names:
        return {}
    before = math.sqrt(sum(came[name] ** 2 for name in names))
    left = [parameters[name].grad for name in names]
    removed = sum(gradient is None for gradient in left)
    now = total_norm(left) or 0.0
    if not math.isfinite(now) or not math.isfinite(before):
        return {}
    share = now / before
    known: dict[str, Any] = {
        "gradient_norm_backward": before,
        "gradient_norm_step": now,
        "gradients_gone": len(names) if now == 0.0 else 0,
        "gradients_gone_as": "removed" if removed == len(names) else "zero" if now == 0.0 else None,
        "clipped_while_scaled": False,
        "clipped_away": False,
        "never_unscaled": False,
    }
    if now == 0.0:
        return known
    if scale >= _OF_THE_SCALE**2:
        known["clipped_while_scaled"] = now <= _OF_THE_SCALE / scale and share < _OF_THE_SCALE / scale
        known["never_unscaled"] = share > scale / 2
    elif share < _TINY:
        known["clipped_away"] = True
    return known


def idle_groups(groups: Iterable[Any]) -> list[str]:
    """What the groups hold whose rate is zero while another group's is not."""
    every = [group for group in groups if group.elements and group.learning_rate is not None]
    if not any(group.learning_rate > 0 for group in every):
        return []
    still = [group for group in every if group.learning_rate == 0]
    return [", ".join(group.kinds or []) or f"{group.parameters} tensors" for group in still]

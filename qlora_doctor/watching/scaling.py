"""What the losses of one update are: a mean over its tokens, divided once, never or twice, shifted or not. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

_NEAR = (0.75, 1.33)
"""What counts as equal: a batch's mean loss is taken from a sample of its tokens."""
_SAME, _OTHER = (1e-4, 5e-4), (0.02, 0.06)
"""Two losses are the same one within the first, and two where they differ by more than the second: of losses over every
label, and over a sample of them."""
_DIFFER = 5e-4
"""Share that the mean losses of two steps differ by at least, where a factor between losses is to be known by them."""
_PARTS = range(2, 129)
"""Micro-batches that a loss may be divided for."""


def scale_facts(
    backward: float,
    weighted: float,
    plain: float,
    micro_batches: int,
    *,
    unshifted: float | None = None,
    tokens: int | None = None,
    whole: bool = False,
) -> dict[str, Any]:
    """Fields of ``RunFacts``; what fits none of them is unknown: the loss may be of another kind.

    Args:
        backward: the losses that an update goes backward with, added up.
        weighted: mean loss over its tokens.
        plain: mean over its micro-batches of their mean losses: rows of different lengths weigh the same here.
        micro_batches: how many there are.
        unshifted: mean loss of each label at its own place, not at the next one.
        tokens: labels that count in it.
        whole: the means are over every label, and not over a sample.
    """
    unknown = ("sums_over_accumulation", "divides_twice", "unshifted_loss", "sums_over_tokens", "divided_by")
    known: dict[str, Any] = {**dict.fromkeys(unknown), "loss_scale": backward / weighted if weighted else None}

    def near(expected: float) -> bool:
        return expected > 0 and _NEAR[0] <= backward / expected <= _NEAR[1]

    def at(expected: float, tolerance: float) -> bool:
        return expected > 0 and abs(backward / expected - 1) <= tolerance

    same, other = _SAME if whole else _OTHER
    fits = near(weighted) or near(plain)
    known["unshifted_loss"] = False
    apart = unshifted is not None and not at(weighted, other) and not at(plain, other)
    if unshifted is not None and apart and at(unshifted, same):
        return known | {"unshifted_loss": True}
    summed = (unshifted or 0.0) * micro_batches
    if apart and micro_batches > 1 and at(summed, same) and not at(weighted * micro_batches, other):
        return known | {"unshifted_loss": True, "sums_over_accumulation": True}
    known["sums_over_tokens"] = False
    summed_up = tokens is not None and (near(weighted * tokens) or near(weighted * tokens / micro_batches))
    if tokens and tokens >= 8 * micro_batches**2 and summed_up and not fits:
        return known | {"sums_over_tokens": True}
    if micro_batches < 2:
        known.update(sums_over_accumulation=False, divides_twice=False)
        parts = [number for number in _PARTS if at(weighted / number, same)]
        known["divided_by"] = parts[0] if parts and not fits else 1
    elif fits:
        known.update(sums_over_accumulation=False, divides_twice=False, divided_by=1)
    elif near(plain * micro_batches):
        known.update(sums_over_accumulation=True, divides_twice=False, divided_by=1)
    elif near(plain / micro_batches) or near(weighted / micro_batches):
        known.update(sums_over_accumulation=False, divides_twice=True, divided_by=1)
    return known


def constant_factor(backward: Sequence[float], mean: Sequence[float]) -> float | None:
    """What the mean loss is multiplied with, the same in every step; None where the losses of two steps or more do not
    show it.

    A loss with another part added to the mean would have to move with it by chance: the ratio may differ between the
    steps by a twentieth of what the mean losses do. Losses that hardly differ show nothing.

    Args:
        backward: of each step, the losses that it goes backward with, added up.
        mean: of each step, the exact mean loss, as the model has answered it or as all its logits give it.
    """
    if len(backward) < 2 or not all(math.isfinite(value) and value > 0 for value in (*backward, *mean)):
        return None
    ratios = [loss / other for loss, other in zip(backward, mean, strict=True)]
    differ = max(mean) / min(mean) - 1
    same = max(ratios) / min(ratios) - 1 <= differ / 20
    return sum(ratios) / len(ratios) if same and differ >= _DIFFER else None


def negated(losses: Sequence[tuple[float, float]]) -> bool:
    """Whether every step went backward with its mean loss, or with a multiple of it, and the other sign.

    Args:
        losses: of each step, what it goes backward with, and its mean loss.
    """
    ratios = [backward / mean for backward, mean in losses if mean > 0 and math.isfinite(backward)]
    return len(ratios) == len(losses) > 1 and max(ratios) < 0 and min(ratios) >= 1.1 * max(ratios)


def scaler_facts(raw: float, scale: float, micro_batches: int) -> dict[str, Any]:
    """Whether the loss went backward with the gradient scaler's factor twice.

    Args:
        raw: the loss that an update goes backward with, as it is, over the mean loss of its tokens.
        scale: the scaler's factor, 1 without one.
        micro_batches: of the update; a loss may be their sum.
    """
    if scale < 2 * max(micro_batches, 1) / _NEAR[0]:
        return {"scaled_twice": False}
    ratio = raw / scale**2
    return {"scaled_twice": _NEAR[0] / max(micro_batches, 1) <= ratio <= _NEAR[1] * max(micro_batches, 1)}

"""Whether the losses of one update add up to a mean: once divided, never, or twice. Pure."""

from __future__ import annotations

from typing import Any

_NEAR = (0.75, 1.33)
"""What counts as equal: a batch's mean loss is taken from a sample of its tokens."""


def scale_facts(backward: float, weighted: float, plain: float, micro_batches: int) -> dict[str, Any]:
    """Fields of ``RunFacts``; what fits neither is unknown: the loss may be of another kind.

    Args:
        backward: the losses that an update goes backward with, added up.
        weighted: mean loss over its tokens.
        plain: mean over its micro-batches of their mean losses: rows of different lengths weigh the same here.
        micro_batches: how many there are.
    """
    known: dict[str, Any] = {"sums_over_accumulation": None, "divides_twice": None}
    known["loss_scale"] = backward / weighted if weighted else None

    def near(expected: float) -> bool:
        return expected > 0 and _NEAR[0] <= backward / expected <= _NEAR[1]

    if micro_batches < 2 or near(weighted) or near(plain):
        known.update(sums_over_accumulation=False, divides_twice=False)
    elif near(plain * micro_batches):
        known.update(sums_over_accumulation=True, divides_twice=False)
    elif near(plain / micro_batches) or near(weighted / micro_batches):
        known.update(sums_over_accumulation=False, divides_twice=True)
    return known

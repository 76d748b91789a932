"""Preference training that has nothing left to tell apart."""

from __future__ import annotations

from typing import Any

from .known import Known
from .series import Course

_DONE, _ALL, _FEWEST = 0.01, 0.99, 5
"""A loss of DPO's kind below which a pair's gradient is 1% of what it was, the share of pairs, and records of both."""


def pair_facts(course: Course, known: Known, found: dict[str, Any]) -> dict[str, Any]:
    """``pairs_told_apart_from``; nothing of a run of another method, or without the accuracies that TRL logs."""
    loss, right = course.get("loss").finite(), course.get("rewards/accuracies").finite()
    if found.get("method") != "preference" or len(loss) < 2 * _FEWEST or len(right) < 2 * _FEWEST:
        return {}
    shares = dict(zip(right.steps, right.values, strict=True))
    done = 0
    for step, value in zip(reversed(loss.steps), reversed(loss.values), strict=True):
        if value > _DONE or shares.get(step, 0.0) < _ALL:
            break
        done += 1
    margins = course.get("rewards/margins").finite()
    lasting = done >= max(_FEWEST, len(loss) / 2)
    return {
        "pairs_told_apart_from": loss.steps[-done] if lasting else 0,
        "pairs_margin": margins.values[-1] if len(margins) else None,
    }

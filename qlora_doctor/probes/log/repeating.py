"""A loss that takes the same values again and again: the same rows through weights that do not move."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .known import Known
from .series import Course

_FEWEST_EQUAL, _FEWEST_KINDS = 8, 4
"""Records that have to be equal to those a period before, and different values among them, for chance to be out."""


def repeating_facts(course: Course, known: Known, found: dict[str, Any]) -> dict[str, Any]:
    """``loss_period``; nothing where no loss was logged, or its value says nothing of learning."""
    series = course.get("loss").finite()
    if len(series) < 2 * _FEWEST_KINDS or found.get("method") == "reinforcement":
        return {}
    return {"loss_period": period(series.values)}


def period(values: Sequence[float]) -> int:
    """The number of records after which all values come again exactly as they were; 0 where they do not."""
    for after in range(_FEWEST_KINDS, len(values) // 2 + 1):
        if len(values) - after < _FEWEST_EQUAL:
            return 0
        if all(one == later for one, later in zip(values, values[after:], strict=False)):
            return after if len(set(values[:after])) >= _FEWEST_KINDS else 0
    return 0

"""What the gradient's norm does."""

from __future__ import annotations

import math
from statistics import median
from typing import Any

from .known import Known
from .loss import zero_from
from .noise import level, noise, trend
from .series import Course, Series

_GROWTH = 10.0
"""A norm that is ten times what it was explodes; clipping at 1 then scales every step down as much."""


def gradient_facts(course: Course, known: Known, found: dict[str, Any]) -> dict[str, Any]:
    """Facts of the gradient's norm; none where it was not logged."""
    series = course.get("grad_norm")
    if not len(series):
        return {}
    finite = series.finite()
    bad_from = _nonfinite_from(series)
    zero = zero_from(series)
    facts: dict[str, Any] = {
        "gradient": trend(finite),
        "gradient_zero": zero is not None,
        "gradient_zero_from": zero,
        "gradient_nonfinite_from": bad_from,
        "gradient_nonfinite": bad_from is not None,
    }
    facts |= _against_check(finite, known)
    growth = _growth(finite, calmest=found.get("method") != "reinforcement")
    if growth is not None:
        facts |= {"gradient_growth": growth, "gradient_explodes": growth > _GROWTH and _lasting(finite)}
    return facts


def _against_check(series: Series, known: Known) -> dict[str, Any]:
    """The first norms against that of one batch: a mean of k batches has at most its norm, their sum up to k times."""
    if not known.gradient_norm or not len(series):
        return {}
    ratio = median(series.values[:3]) / known.gradient_norm
    count = known.accumulation
    return {
        "gradient_over_check": ratio,
        "gradient_scaled_by_accumulation": None if count is None else count > 2 and 0.6 * count < ratio < 1.5 * count,
    }


def _nonfinite_from(series: Series) -> float | None:
    """The step from which no norm is finite up to the end: a scaler that skips a step has finite ones after it."""
    count = 0
    while count < len(series) and not math.isfinite(series.values[-1 - count]):
        count += 1
    return series.steps[-count] if count >= min(3, len(series)) and count else None


def _growth(series: Series, *, calmest: bool) -> float | None:
    """Level of the last fifth over that of the calmest fifth before it; None with fewer than ten points.

    Of reinforcement, where a group without a best answer has no gradient, over the usual fifth.
    """
    values = series.values
    if len(values) < 10:
        return None
    size = len(values) / 5
    levels = [level(values[int(i * size) : int((i + 1) * size)]) for i in range(5)]
    calm = min(levels[:4]) if calmest else median(levels[:4])
    return levels[4] / calm if calm > 0 else None


def _lasting(series: Series) -> bool:
    """Whether the growth is more than the noise of the norm's logarithm."""
    logs = [math.log(value) for value in series.values if value > 0]
    own = noise(logs)
    return math.log(_GROWTH) > 3 * own / math.sqrt(max(1, len(logs) // 5))

"""What the learning rate does."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from .known import Known
from .series import Course, Series

_FEW = 3


def rate_facts(course: Course, known: Known, found: dict[str, Any]) -> dict[str, Any]:
    """Facts of the learning rate; none where it was not logged."""
    series = course.get("learning_rate").finite()
    facts: dict[str, Any] = {"rate_asked": known.learning_rate}
    if len(series) < 2:
        return facts
    peak = max(series.values)
    facts |= {"rate_peak": peak, "rate_zero": all(value == 0 for value in series.values[1:])}
    if peak == 0:
        return facts | {"rate_short_of_peak": False, "rate_restarts": [], "rate_ends_early": False}
    zero = _zero_from(series)
    return facts | {
        "rate_short_of_peak": _short_of_peak(course, series, peak, known, found),
        "rate_restarts": _restarts(series, peak, known),
        "rate_zero_from": zero,
        "rate_ends_early": zero is not None and _lasts(series, zero),
    }


def _short_of_peak(course: Course, series: Series, peak: float, known: Known, found: dict[str, Any]) -> bool | None:
    """Whether the warmup is longer than the run, or the peak is another one than the config asks for."""
    values = series.values
    still_rising = len(values) >= 4 and values[-1] == peak and values[-1] > values[-2] > values[-3]
    if still_rising:
        over = course.ended_well or found.get("short") is False or found.get("ended")
        return True if over else None
    asked = known.learning_rate
    if asked is None or len(values) < 4:
        return False
    return max(peak, _before_the_first(series)) < asked / 2


def _before_the_first(series: Series) -> float:
    """Where a rate that falls from the start on began, by its first two points."""
    (s0, s1), (v0, v1) = series.steps[:2], series.values[:2]
    return v0 + max(0.0, v0 - v1) * s0 / (s1 - s0)


def _restarts(series: Series, peak: float, known: Known) -> list[float]:
    """Steps at which the rate is up again after it had fallen, unless that is the schedule."""
    if known.restarts:
        return []
    found, highest = [], 0.0
    lowest = peak
    for step, value in zip(series.steps, series.values, strict=True):
        if highest > 0 and lowest < 0.7 * highest and value > lowest + 0.3 * peak:
            found.append(step)
            highest = lowest = value
        highest = max(highest, value)
        if value == highest:
            lowest = value
        lowest = min(lowest, value)
    if known.restarts is None and len(found) > 1 and _even([series.steps[0], *found]):
        return []  # at even distances: a schedule with restarts
    return found


def _even(steps: list[float]) -> bool:
    gaps = [b - a for a, b in pairwise(steps)]
    return max(gaps) < 1.25 * min(gaps)


def _zero_from(series: Series) -> float | None:
    count = 0
    while count < len(series) and series.values[-1 - count] == 0:
        count += 1
    return series.steps[-count] if 0 < count < len(series) else None


def _lasts(series: Series, zero: float) -> bool:
    """Whether a rate of zero lasts for three records and a tenth of the run."""
    points = sum(1 for step in series.steps if step >= zero)
    return points >= _FEW and series.steps[-1] - zero >= 0.1 * (series.steps[-1] - series.steps[0])

"""Time and memory per step, where the log has them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from ...facts.course import Trend
from .known import Known
from .noise import level, mann_kendall, trend
from .series import Course, Series

_LEAST = 12
_WORTH = 0.1
"""A step that takes a tenth longer is worth a word."""


def speed_facts(course: Course, known: Known, found: dict[str, Any]) -> dict[str, Any]:
    """Facts of throughput and memory."""
    facts: dict[str, Any] = {}
    seconds = seconds_per_step(course)
    if len(seconds) >= _LEAST:
        shape = trend(seconds)
        facts |= {"seconds_per_step": shape, "slows": _slows(shape, seconds.values)}
    memory = course.get("memory_gib") if len(course.get("memory_gib")) else course.get("reserved_gib")
    memory = memory.finite()
    if len(memory) >= 2 * _LEAST:
        facts |= {"memory": trend(memory), "memory_creeps": _creeps(memory)}
    return facts


def seconds_per_step(course: Course) -> Series:
    """As logged, else the differences of a clock; across an evaluation or a restart there is none."""
    if len(course.get("seconds_per_step")):
        return course.get("seconds_per_step").finite()
    clock = _clock_of_means(course)
    if not len(clock):
        clock = course.get("elapsed_seconds").finite()
    if not len(clock):
        clock = course.get("wall_seconds").finite()
    if clock.values and all(value == int(value) for value in clock.values):
        clock = _every(clock, 20.0)  # whole seconds: only longer stretches have a time
    stops = {*course.get("eval_loss").steps, *course.resumed_at}
    found = Series()
    points = list(zip(clock.steps, clock.values, strict=True))
    for (s0, t0), (s1, t1) in pairwise(points):
        if t1 > t0 and s1 > s0 and not any(s0 <= stop <= s1 for stop in stops):
            found.steps.append(s1)
            found.values.append((t1 - t0) / (s1 - s0))
    return found


def _clock_of_means(course: Course) -> Series:
    """The time since the start, from ms-swift's speed: a mean over all steps so far (trainers: add_train_message)."""
    means = course.get("mean_seconds_per_step").finite()
    points = list(zip(means.steps, means.values, strict=True))
    if not points:
        rates = course.get("mean_steps_per_second").finite()
        points = [(step, 1 / rate) for step, rate in zip(rates.steps, rates.values, strict=True) if rate > 0]
    return Series([step for step, _ in points], [step * mean for step, mean in points])


def _every(clock: Series, seconds: float) -> Series:
    """The points of a clock that lie so far apart."""
    kept = Series(clock.steps[:1], clock.values[:1])
    for step, value in zip(clock.steps, clock.values, strict=True):
        if value - kept.values[-1] >= seconds:
            kept.steps.append(step)
            kept.values.append(value)
    return kept


def _slows(shape: Trend | None, values: Sequence[float]) -> bool | None:
    """Whether steps take longer and longer, quarter by quarter: a machine that others use may be slower for a while."""
    if shape is None:
        return None
    quarters = [level(values[i * len(values) // 4 : (i + 1) * len(values) // 4]) for i in range(4)]
    grows = shape.direction == "rises" and all(a < b for a, b in pairwise(quarters))
    return grows and shape.change > max(_WORTH * shape.first, shape.noise)


def _creeps(series: Series) -> bool:
    """Whether memory still rises in the second half, again and again.

    The largest so far of values that come by chance rises as the harmonic series does, so that the second half sees
    0.7 new records on average (Rényi 1962), and four or more once in 150 runs.
    """
    values = series.values
    half = values[len(values) // 2 :]
    highest, records = max(values[: len(values) // 2]), 0
    for value in half:
        if value > highest:
            highest, records = value, records + 1
    z, probability = mann_kendall(half if len(half) <= 200 else half[:: len(half) // 200 + 1])
    return records >= 4 and z > 0 and probability < 0.01

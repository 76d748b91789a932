"""What evaluation says beside training."""

from __future__ import annotations

import math
from bisect import bisect_left
from itertools import pairwise
from statistics import median
from typing import Any

from .known import Known
from .noise import mann_kendall
from .series import Course, Series

_NEAR = 5
"""Points of training around an evaluation that it is held against."""


def evaluation_facts(course: Course, known: Known, found: dict[str, Any]) -> dict[str, Any]:
    """Facts of the evaluations; whether there are none is known as soon as training was logged."""
    series = course.get("eval_loss").finite()
    any_logged = any(name.startswith("eval_") for name in course.series)
    losses, runs = len(course.get("eval_loss")), len(course.get("eval_runtime"))
    facts: dict[str, Any] = {"evaluations": losses}
    if runs and found.get("method") != "reinforcement":
        facts |= {"evaluation_lossless": not losses, "evaluations": max(losses, runs)}
    if len(course.get("loss")):
        facts["evaluation_absent"] = not any_logged
        facts["evaluation_missing"] = _missing(any_logged, known, found)
    facts |= _scaled(course, series, known)
    if not len(series):
        return facts
    at = min(range(len(series)), key=series.values.__getitem__)
    overfits = _overfits(course, series, at, found)
    return facts | {
        "best_eval_loss": series.values[at],
        "best_eval_step": series.steps[at],
        "last_eval_loss": series.values[-1],
        "overfits": overfits,
        "best_kept": _kept(course, known, series.steps[at], is_last=at == len(series) - 1),
    }


def _missing(any_logged: bool, known: Known, found: dict[str, Any]) -> bool | None:
    if any_logged or known.evaluates is False:
        return False
    if known.evaluates is None or (found.get("short") and not found.get("ended")):
        return None
    return True


def _overfits(course: Course, series: Series, at: int, found: dict[str, Any]) -> bool | None:
    """Whether evaluation rises from its best to the end while training falls; None with fewer than three."""
    if len(series) < 3:
        return None
    since = series.values[at:]
    loss = course.get("loss").finite()
    shape = found.get("loss")
    if len(since) < 3 or not len(loss) or shape is None:
        return False
    rise = since[-1] - since[0]
    z, probability = mann_kendall(since)
    orderly = all(a < b for a, b in pairwise(since)) or (z > 0 and probability / 2 < 0.05)
    before, after = _around(loss, series.steps[at]), _around(loss, series.steps[-1])
    if not before or not after:
        return None
    error = 1.25 * shape.noise * math.sqrt(1 / len(before) + 1 / len(after))  # of the difference of two medians
    falls = median(before) - median(after) > error
    return orderly and falls and rise > shape.noise / 2


def _around(series: Series, step: float) -> list[float]:
    """The points of training just before a step."""
    end = bisect_left(series.steps, step + 1e-9)
    return series.values[max(0, end - _NEAR) : end]


def _scaled(course: Course, series: Series, known: Known) -> dict[str, Any]:
    """The training loss over the evaluation loss where both are first known, against the accumulation."""
    facts: dict[str, Any] = {"accumulation": known.accumulation}
    loss = course.get("loss").finite()
    near = _around(loss, series.steps[0]) if len(series) else loss.values[:1]
    against = series.values[0] if len(series) else known.loss_before
    if not near or against is None or against <= 0:
        return facts
    ratio = median(near) / against
    facts["train_over_eval"] = ratio
    if known.accumulation is not None:
        count = known.accumulation
        facts["loss_scaled_by_accumulation"] = count > 1 and abs(ratio / count - 1) < 0.15
    return facts


def _kept(course: Course, known: Known, step: float, *, is_last: bool) -> bool | None:
    """Whether the weights of the best evaluation are still there."""
    if is_last or known.keeps_best:
        return True
    if course.checkpoints is not None:
        return any(abs(each - step) < 0.5 for each in course.checkpoints)
    return None

"""A run's series → the facts of its course. Pure: nothing is read."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from ...facts.course import CourseFacts, Curve
from .evaluation import evaluation_facts
from .gradient import gradient_facts
from .known import Known, is_preference
from .length import length_facts
from .loss import loss_facts
from .pairs import pair_facts
from .rate import rate_facts
from .repeating import repeating_facts
from .series import Course, Series
from .speed import speed_facts

POINTS = 400
"""Points of a curve at most: each bucket keeps its lowest and its highest."""
_DRAWN = ("loss", "eval_loss", "learning_rate", "grad_norm")
_HIDDEN = ("epoch", "wall_seconds", "elapsed_seconds", "loss_scale")


def course_facts(course: Course, known: Known | None = None) -> CourseFacts:
    """Everything that the log of one run tells.

    Args:
        course: one run, from ``read_runs`` or ``course_from_records``.
        known: what else is known of it; without it, what only that would tell stays unknown.
    """
    known = known or Known()
    found: dict[str, Any] = {
        "name": course.name,
        "sources": course.sources,
        "formats": list(dict.fromkeys(course.formats)),
        "unread": course.unread,
        "quantities": [name for name in course.series if name not in _HIDDEN],
        "curves": curves(course),
        "steps_known": course.steps_known,
        "resumed_at": course.resumed_at,
        "error": course.error,
        "method": _method(course, known),
        "checkpoints": course.checkpoints,
    }
    parts = (
        length_facts,
        loss_facts,
        repeating_facts,
        pair_facts,
        evaluation_facts,
        rate_facts,
        gradient_facts,
        speed_facts,
    )
    for part in parts:
        found |= part(course, known, found)
    return CourseFacts(**found)


def curves(course: Course) -> list[Curve]:
    """The curves to draw, the usual ones first."""
    names = [name for name in _DRAWN if name in course.series]
    names += [name for name in course.series if name not in names and name not in _HIDDEN][: 12 - len(names)]
    return [_curve(name, course.series[name]) for name in names]


def _curve(name: str, series: Series) -> Curve:
    points = _thinned(list(zip(series.steps, series.values, strict=True)))
    return Curve(
        quantity=name, steps=[s for s, _ in points], values=[v if math.isfinite(v) else None for _, v in points]
    )


def _thinned(points: Sequence[tuple[float, float]]) -> Sequence[tuple[float, float]]:
    if len(points) <= POINTS:
        return points
    width = -(-len(points) * 2 // POINTS)
    kept: list[tuple[float, float]] = []
    for start in range(0, len(points), width):
        bucket = points[start : start + width]
        lowest = min(bucket, key=lambda p: p[1] if math.isfinite(p[1]) else math.inf)
        highest = max(bucket, key=lambda p: p[1] if math.isfinite(p[1]) else math.inf)
        kept += sorted({lowest, highest})
    return kept


def _method(course: Course, known: Known) -> str | None:
    """What the quantities tell: pairs have margins, reinforcement has rewards alone."""
    names = course.series.keys()
    if is_preference(known.method) or _has_pairs(names):
        return "preference"
    if "reward" in names or "rewards/mean" in names or any(name.startswith("completions/") for name in names):
        return "reinforcement"
    return known.method


def _has_pairs(names: Iterable[str]) -> bool:
    """DPO's and KTO's ``rewards/margins``, or a reward model's ``margin``, which logs its rewards' extremes too."""
    held = set(names)
    return any(name.endswith("rewards/margins") for name in held) or {"margin", "min_reward"} <= held

"""How far a run went, and how far it was to go."""

from __future__ import annotations

from itertools import pairwise
from statistics import median
from typing import Any

from .known import Known
from .series import Course


def length_facts(course: Course, known: Known, found: dict[str, Any]) -> dict[str, Any]:
    """Facts of the run's length."""
    epochs = course.get("epoch").finite()
    last_epoch = max(epochs.values, default=None)
    planned = course.planned_steps or known.planned_steps
    planned_epochs = course.planned_epochs or (known.planned_epochs if planned is None else None)
    last = course.last_step if course.steps_known else None
    short = _short(course, last, planned, last_epoch, planned_epochs)
    if short is False:
        course.finished = True
    ended = True if course.finished or (course.error or "none") != "none" else None
    return {
        "last_step": last,
        "planned_steps": planned,
        "last_epoch": last_epoch,
        "planned_epochs": planned_epochs,
        "finished": False if short else course.finished,
        "ended": ended,
        "short": False if short and course.stopped_early else short,
        "stopped_early": course.stopped_early,
    }


def interval(course: Course) -> float:
    """Steps between two records of training, as a rule."""
    steps = course.get("loss").steps
    gaps = [b - a for a, b in pairwise(steps)]
    return median(gaps) if gaps else 1.0


def _short(
    course: Course, last: float | None, planned: float | None, epoch: float | None, epochs: float | None
) -> bool | None:
    """Whether more steps are missing than lie between two records."""
    if last is not None and planned is not None:
        return planned - last > interval(course)
    if epoch is not None and epochs is not None:
        series = course.get("epoch").finite()
        gaps = [b - a for a, b in pairwise(series.values) if b > a]
        return epochs - epoch > 1.5 * (median(gaps) if gaps else 0.0) + 0.01
    return None

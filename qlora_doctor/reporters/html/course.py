"""Geometry of a run's curves: one panel a quantity, the findings at their steps, other runs beneath."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ...core.report import Finding
from ...facts.course import CourseFacts, Curve
from .. import _words as words

_TITLES = {
    "loss": "Loss",
    "learning_rate": "Learning rate",
    "grad_norm": "Gradient norm",
    "memory_gib": "Memory, GiB",
    "reserved_gib": "Memory reserved, GiB",
    "mean_steps_per_second": "Steps per second, mean so far",
    "seconds_per_step": "Seconds per step",
    "mean_seconds_per_step": "Seconds per step, mean so far",
}
_TOGETHER = {"eval_loss": "loss"}
"""Quantities that are drawn into the panel of another."""
_OF_NO_USE = ("_runtime", "_samples_per_second", "_steps_per_second", "_model_preparation_time")
"""How fast an evaluation ran: nothing that a reader of a course looks for."""
_PANELS = 6
_STEEP = 50.0
"""A range of which the largest value is so many times the median is drawn on a logarithmic scale."""
_MARKS: dict[str, tuple[str, str, str]] = {
    "QD703": ("loss", "loss_zero_from", "zero"),
    "QD704": ("loss", "loss_nonfinite_from", "not finite"),
    "QD706": ("grad_norm", "gradient_nonfinite_from", "not finite"),
    "QD707": ("loss", "diverges_from", "rises"),
    "QD708": ("loss", "best_eval_step", "best evaluation"),
    "QD709": ("loss", "best_eval_step", "best evaluation"),
    "QD715": ("learning_rate", "rate_zero_from", "zero"),
    "QD716": ("grad_norm", "gradient_zero_from", "zero"),
}
"""Rule → panel, the fact that holds its step, and what stands there."""


@dataclass(frozen=True)
class Line:
    """A curve in a space of 1000 × 1000, y down; ``kind`` is a class of the style."""

    label: str
    kind: str
    path: str
    dots: tuple[tuple[float, float], ...] = ()
    """In percent; of a curve with few points."""


@dataclass(frozen=True)
class Mark:
    """A finding at its step; ``at`` in percent."""

    rule: str
    at: float
    step: str
    text: str
    right: bool
    """The words stand to the left of the line, for it is near the right edge."""


@dataclass(frozen=True)
class Panel:
    """One picture."""

    title: str
    lines: tuple[Line, ...]
    marks: tuple[Mark, ...]
    ticks: tuple[tuple[float, str], ...]
    """Place in percent of the height, and the value there."""
    logarithmic: bool
    spoken: str
    """What a screen reader says of it."""


@dataclass(frozen=True)
class CourseView:
    """All panels, and the steps at the ends of their common axis."""

    panels: tuple[Panel, ...]
    first: str
    last: str
    others: tuple[str, ...]
    resumed: tuple[float, ...]


def course_view(course: CourseFacts, findings: Sequence[Finding]) -> CourseView | None:
    """Lay the curves of a run out; None where there is none."""
    drawn = [curve for curve in course.curves or [] if curve.steps]
    if not drawn:
        return None
    ends = [(min(curve.steps), max(curve.steps)) for curve in drawn]
    start, end = min(a for a, _ in ends), max(b for _, b in ends)
    if end <= start:
        end = start + 1
    groups: dict[str, list[Curve]] = {}
    for curve in drawn:
        if curve.quantity.startswith("eval_") and curve.quantity.endswith(_OF_NO_USE):
            continue
        groups.setdefault(_TOGETHER.get(curve.quantity, curve.quantity), []).append(curve)
    told = {finding.rule for finding in findings if finding.suppressed is None}
    panels = [_panel(name, curves, course, told, start, end) for name, curves in list(groups.items())[:_PANELS]]
    resumed = tuple(_across(step, start, end) for step in course.resumed_at or [])
    names = tuple(other.name for other in course.others or [])
    return CourseView(tuple(panel for panel in panels if panel), _step(start), _step(end), names, resumed)


def _panel(
    name: str, curves: Sequence[Curve], course: CourseFacts, told: set[str], start: float, end: float
) -> Panel | None:
    others = [curve for other in course.others or [] for curve in other.curves if curve.quantity == name]
    values = [v for curve in (*curves, *others) for v in curve.values if v is not None]
    if not values:
        return None
    positive = min(values) > 0
    logarithmic = positive and max(values) > _STEEP * sorted(values)[len(values) // 2]
    low, high = _range(values, logarithmic)
    lines = [_line("another run", "other", curve, start, end, low, high, logarithmic) for curve in others]
    for curve in curves:
        kind = "evaluated" if curve.quantity in _TOGETHER else "own"
        label = "evaluation" if kind == "evaluated" else "training" if name == "loss" else _title(name).lower()
        lines.append(_line(label, kind, curve, start, end, low, high, logarithmic))
    ticks = tuple(
        (_down(value, low, high, logarithmic), words.number(value)) for value in _ticks(low, high, logarithmic)
    )
    known = [v for v in curves[0].values if v is not None]
    span = f"{words.number(known[0])} to {words.number(known[-1])}" if known else "not finite"
    return Panel(
        title=_title(name),
        lines=tuple(lines),
        marks=tuple(_marks(name, course, told, start, end)),
        ticks=ticks,
        logarithmic=logarithmic,
        spoken=f"{_title(name)} over steps {_step(start)} to {_step(end)}: from {span}",
    )


def _line(
    label: str, kind: str, curve: Curve, start: float, end: float, low: float, high: float, logarithmic: bool
) -> Line:
    pieces, dots, pen = [], [], "M"
    for step, value in zip(curve.steps, curve.values, strict=True):
        if value is None or not start <= step <= end:
            pen = "M"
            continue
        x, y = _across(step, start, end), _down(value, low, high, logarithmic)
        pieces.append(f"{pen}{round(x * 10, 1):g} {round(y * 10, 1):g}")
        dots.append((x, y))
        pen = "L"
    return Line(label, kind, "".join(pieces), tuple(dots) if len(dots) <= 40 and kind != "other" else ())


def _marks(name: str, course: CourseFacts, told: set[str], start: float, end: float) -> Iterable[Mark]:
    for rule, (panel, fact, text) in _MARKS.items():
        step = getattr(course, fact)
        if panel == name and rule in told and step is not None:
            yield _mark(rule, step, text, start, end)
    if name == "loss" and "QD705" in told:
        for spike in (course.spikes or [])[:8]:
            yield _mark("QD705", spike.step, "spike", start, end)
    if name == "learning_rate" and "QD714" in told:
        for step in (course.rate_restarts or [])[:8]:
            yield _mark("QD714", step, "starts again", start, end)


def _mark(rule: str, step: float, text: str, start: float, end: float) -> Mark:
    at = _across(step, start, end)
    return Mark(rule, at, _step(step), text, at > 70)


def _across(step: float, start: float, end: float) -> float:
    return round(min(100.0, max(0.0, (step - start) / (end - start) * 100)), 2)


def _down(value: float, low: float, high: float, logarithmic: bool) -> float:
    if logarithmic:
        value, low, high = (math.log(max(each, 1e-300)) for each in (value, low, high))
    return round((1 - (value - low) / (high - low)) * 100, 2) if high > low else 50.0


def _range(values: Sequence[float], logarithmic: bool) -> tuple[float, float]:
    low, high = min(values), max(values)
    if logarithmic:
        return low / 1.1, high * 1.1
    room = (high - low) * 0.06 or abs(high) * 0.1 or 1.0
    return (0.0 if 0 <= low < high / 3 else low - room), high + room


def _ticks(low: float, high: float, logarithmic: bool) -> list[float]:
    """Three or so round values between the ends."""
    if logarithmic:
        decades = range(math.ceil(math.log10(low)), math.floor(math.log10(high)) + 1)
        return [10.0**d for d in decades][:5]
    rough = (high - low) / 3
    unit = 10 ** math.floor(math.log10(rough))
    step = next(unit * each for each in (1, 2, 2.5, 5, 10) if unit * each >= rough)
    first = math.ceil(low / step)
    return [first * step + i * step for i in range(6) if first * step + i * step <= high]


def _title(name: str) -> str:
    return _TITLES.get(name, name)


def _step(step: float) -> str:
    return f"{step:,.0f}" if step == int(step) else f"{step:,.2f}"

"""What the training loss does."""

from __future__ import annotations

import math
from bisect import bisect_left
from itertools import pairwise
from statistics import median
from typing import Any

from ...facts.course import Spike, Trend
from .known import Known, is_preference
from .length import interval
from .noise import blocks, fifths, level, mann_kendall, noise, sen_slope, trend
from .series import Course, Series

_FEW = 3
_FLAT_FROM = 16
"""Points below which nobody can tell flat from noisy."""
_WORTH, _SURE = 1.25, 2.5
"""Standard deviations of a point that a fall has to be excluded from, without and with other evidence."""
_SHARE = 0.1
"""Of the loss: a fall of so much is worth its name, however noisy the records are (batches of one row)."""
_TINY_RATE = 1e-6
"""No adapter learns at such a rate: QLoRA's are a hundred times higher."""
_NEIGHBOURS = 10
"""Points before it that a spike is held against."""
_SPIKE = 8.0
"""Standard deviations, of the whole series and of the neighbours, that make a spike."""


def loss_facts(course: Course, known: Known, found: dict[str, Any]) -> dict[str, Any]:
    """Facts of the training loss; none where it was not logged."""
    series = course.get("loss")
    if not len(series):
        return {}
    finite = series.finite()
    shape = trend(finite)
    flat, constant = _flat(finite, shape, course)
    facts: dict[str, Any] = {"loss": shape, "loss_constant": constant}
    facts |= _broken(series)
    if found.get("method") == "reinforcement":
        # Its loss is zero where the advantages of a group cancel out, and says nothing of learning.
        return facts | {"loss_zero": False, "loss_zero_from": None}
    facts |= {"loss_flat": flat, "untrained_value": _untrained(finite, flat, constant, known, found)}
    if shape is None:
        return facts
    diverges_from = _diverges(finite, shape)
    facts |= {"loss_diverges": diverges_from is not None, "diverges_from": diverges_from}
    if len(finite) >= 2 * _NEIGHBOURS:
        spikes = _spikes(finite, shape.noise, course)
        facts["spikes"] = [each for each in spikes if diverges_from is None or each.step < diverges_from]
    return facts | _staircase(finite, shape, course)


def _broken(series: Series) -> dict[str, Any]:
    bad = next((s for s, v in zip(series.steps, series.values, strict=True) if not math.isfinite(v)), None)
    zero = zero_from(series)
    return {
        "loss_nonfinite": bad is not None,
        "loss_nonfinite_from": bad,
        "loss_zero": zero is not None,
        "loss_zero_from": zero,
    }


def zero_from(series: Series) -> float | None:
    """The step from which a series is exactly zero up to the end; None where it is not, or fell there by and by."""
    values = series.values
    count = 0
    while count < len(values) and values[-1 - count] == 0:
        count += 1
    if count < min(_FEW, len(values)) or not count:
        return None
    first = len(values) - count
    before = [abs(v) for v in values[max(0, first - _FEW) : first] if math.isfinite(v)]
    if before and median(before) < 0.01 * max(abs(v) for v in values if math.isfinite(v)):
        return None
    return series.steps[first]


def _flat(series: Series, shape: Trend | None, course: Course) -> tuple[bool | None, bool | None]:
    """(nothing but noise, every value the same); None where too little is known to say so.

    Flat is what excludes a fall that would be worth its name: the slope of Theil and Sen over the whole run is within
    twice its standard error of zero, and a fall of 1.25 standard deviations of a point, or of a tenth of the loss where
    that is less, is out of the question; of 2.5 standard deviations, where the rate or an evaluation that does not move
    says the same.
    """
    values = series.values
    if len(values) < 5 or shape is None:
        return None, None
    if len(set(values)) == 1:
        return True, True
    if shape.noise == 0 or shape.direction == "falls" or values[0] > median(values[1:]) + 4 * shape.noise:
        return False, False
    moved = _evaluation_moves(course, shape.noise)
    if moved:
        return False, False
    rates = course.get("learning_rate").finite().values
    certain = moved is False or (rates and max(rates) < _TINY_RATE)
    worth = _SURE * shape.noise if certain else min(_WORTH * shape.noise, _SHARE * abs(level(values)))
    thin = blocks(values, 100)
    total = sen_slope(thin) * (len(thin) - 1)
    error = shape.noise * math.sqrt(12 / len(values)) * 1.05  # efficiency of the slope of Theil and Sen: 95 %
    if abs(total) > 2 * error or shape.probability < 0.05:
        return False, False
    if len(values) < _FLAT_FROM or abs(total) + 2 * error > worth:
        return None, False
    return True, False


def _evaluation_moves(course: Course, own: float) -> bool | None:
    """Whether evaluation changes over the run: its rows are the same each time, so that it is far less noisy.

    False only where it begins in the first half of the run and stays within a fiftieth of a training record's noise.
    """
    series = course.get("eval_loss").finite()
    if len(series) < 2:
        return None
    moved = max(series.values) - min(series.values)
    orderly = all(a > b for a, b in pairwise(series.values))
    if moved > 0.1 * own or (orderly and moved > 1e-3 * abs(series.values[0])):
        return True
    last = course.get("loss").steps[-1]
    return False if moved <= 0.02 * own and series.steps[0] <= last / 2 else None


def _untrained(
    series: Series, flat: bool | None, constant: bool | None, known: Known, found: dict[str, Any]
) -> str | None:
    """The value of a model that has not learned, where the loss stays at it."""
    values = series.values
    if len(values) < _FEW:
        return None
    if found.get("method") == "preference" or is_preference(known.method):
        return "ln-2" if all(abs(value - math.log(2)) < 2e-3 for value in values) else "none"
    if not (flat or constant):
        return "none"
    middle = median(values)
    if known.vocabulary and abs(middle - math.log(known.vocabulary)) < 0.02 * math.log(known.vocabulary):
        return "ln-vocabulary"
    if known.labels and known.labels > 1 and abs(middle - math.log(known.labels)) < 0.05 * math.log(known.labels):
        return "ln-labels"
    return "none"


def _diverges(series: Series, shape: Trend) -> float | None:
    """The step from which the loss rises for good; None where it does not."""
    values = series.values
    if len(values) < 10:
        return None
    pieces = min(10, len(values) // 3)
    size = len(values) / pieces
    levels = [level(values[int(i * size) : int((i + 1) * size)]) for i in range(pieces)]
    if levels[-1] - values[0] > 6 * shape.noise > 0:
        levels[0] = values[0]  # without a warmup it is up after one step
    best = min(range(pieces), key=levels.__getitem__)
    rise = levels[-1] - levels[best]
    error = shape.noise * 1.25 * math.sqrt(2 / size)
    if best == pieces - 1 or shape.noise == 0 or rise < max(3 * shape.noise, 4 * error):
        return None
    since = values[int(best * size) :]
    z, probability = mann_kendall(blocks(since))
    lasting = sum(each > levels[best] + rise / 2 for each in levels[best + 1 :])
    if not (z > 0 and probability < 0.01) and lasting < 3:
        return None
    return series.steps[int((best + 1) * size) - 1]


def _spikes(series: Series, own: float, course: Course) -> list[Spike]:
    """Points far above both bands, of the whole series and of those before them, after which the loss comes back."""
    values, steps = series.values, series.steps
    found: list[Spike] = []
    limit = _SPIKE * own
    i = _NEIGHBOURS // 2
    while limit > 0 and i < len(values):
        if values[i] - values[i - 1] < limit / 2:  # cheap: most points are no spike
            i += 1
            continue
        before = values[max(0, i - _NEIGHBOURS) : i]
        middle = median(before)
        spread = noise(before)
        back = middle + (values[i] - middle) / 3
        end = next((j for j in range(i + 1, len(values)) if values[j] < back), None)
        if values[i] - middle < _SPIKE * max(own, spread) or end is None:
            i += 1
            continue
        top = max(range(i, end), key=values.__getitem__)
        found.append(Spike(step=steps[top], value=values[top], level=middle, coincides=_coincides(steps[i], course)))
        i = end
    return found


def _coincides(step: float, course: Course) -> list[str]:
    """What else happened within an interval or two of this step."""
    gap = interval(course)
    reasons = []
    rate = course.get("learning_rate")
    if rate.values:
        peak = max(rate.values)
        at = next(s for s, v in zip(rate.steps, rate.values, strict=True) if v >= 0.999 * peak)
        rises = any(v < 0.9 * peak for s, v in zip(rate.steps, rate.values, strict=True) if s < at)
        if rises and abs(step - at) <= 2 * gap:
            reasons.append("rate-peak")
    if _epoch_begins(step, gap, course.get("epoch").finite()):
        reasons.append("epoch-start")
    gradient = course.get("grad_norm")
    if any(abs(step - s) <= gap and not math.isfinite(v) for s, v in zip(gradient.steps, gradient.values, strict=True)):
        reasons.append("skipped-step")
    if any(0 <= step - at <= 2 * gap for at in course.resumed_at):
        reasons.append("resumed")
    return reasons


def _epoch_begins(step: float, gap: float, epochs: Series) -> bool:
    i = bisect_left(epochs.steps, step - gap)
    j = bisect_left(epochs.steps, step + gap / 2)
    near = epochs.values[max(0, i - 1) : j]
    return any(math.floor(b + 1e-9) > math.floor(a + 1e-9) > 0 or (a < 1 <= b) for a, b in pairwise(near))


def _staircase(series: Series, shape: Trend, course: Course) -> dict[str, Any]:
    """Falls at the ends of epochs against falls between them."""
    pieces = by_epoch(series, course.get("epoch").finite())
    if len(pieces) < 3 or min(len(piece) for piece in pieces) < 8:
        return {}
    drops, slopes, certain = [], [], 0
    for before, after in pairwise(pieces):
        size = max(4, min(len(before), len(after)) // 3)
        drop = level(before[-size:]) - level(after[:size])
        drops.append(drop)
        slopes.append(level(after[:size]) - level(after[-size:]))
        certain += drop > 4 * shape.noise * 1.25 * math.sqrt(2 / size)
    often = certain >= max(2, len(drops) / 2)
    steps = often and sum(drops) > 2 * sum(max(0.0, slope) for slope in slopes)
    return {"staircase": steps, "staircase_drops": drops}


def by_epoch(series: Series, epochs: Series) -> list[list[float]]:
    """The values of each whole epoch; ``[]`` where epochs are not logged."""
    if len(epochs) < 2:
        return []
    pieces: dict[int, list[float]] = {}
    for step, value in zip(series.steps, series.values, strict=True):
        i = bisect_left(epochs.steps, step)
        if i < len(epochs):
            pieces.setdefault(max(0, math.ceil(epochs.values[i] - 1e-6) - 1), []).append(value)
    return [pieces[epoch] for epoch in sorted(pieces)]


__all__ = ["Series", "by_epoch", "fifths", "loss_facts", "noise", "zero_from"]

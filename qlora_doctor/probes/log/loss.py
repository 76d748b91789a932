"""What the training loss does."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from itertools import pairwise
from statistics import StatisticsError, correlation, median
from typing import Any

from ...facts.course import Spike, Trend
from .known import Known, is_preference
from .length import interval
from .noise import MAD, blocks, fifths, level, mann_kendall, noise, sen_slope, trend
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
_TINY_NORM = 1e-7
"""A gradient of so small a norm is lost in Adam's epsilon (1e-8 for each number), and moves nothing without it."""
_LEAST_OF_EPOCH, _ALIKE = 8, 0.6
"""Records of an epoch, and the correlation with the next one, from which on both are taken to see rows in one order."""
_MOSTLY = 0.7
"""Of the pairs: from here on a model of preference has learned something."""
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
    facts |= _broken(series, course.get("grad_norm"))
    if found.get("method") == "reinforcement":
        # Its loss is zero where the advantages of a group cancel out, and says nothing of learning.
        return facts | {"loss_zero": False, "loss_zero_from": None}
    facts |= {"loss_flat": flat, "untrained_value": _untrained(finite, flat, constant, known, found, course, shape)}
    if shape is None:
        return facts
    profile = profile_of_epoch(finite, course.get("epoch").finite())
    ordered = profile is not None
    level_alone = without_order(finite, course.get("epoch").finite(), profile) if profile else finite
    shape_alone = trend(level_alone) or shape
    diverges_from = _diverges(level_alone, shape_alone, course)
    facts |= {"loss_diverges": diverges_from is not None, "diverges_from": diverges_from}
    if len(finite) >= 2 * _NEIGHBOURS:
        spikes = _spikes(finite, shape.noise, course, ordered=ordered)
        facts["spikes"] = [each for each in spikes if diverges_from is None or each.step < diverges_from]
    return facts if ordered else facts | _staircase(finite, shape, course)  # of such epochs no step can be told


def _broken(series: Series, gradient: Series) -> dict[str, Any]:
    bad = next((s for s, v in zip(series.steps, series.values, strict=True) if not math.isfinite(v)), None)
    zero = zero_from(series)
    if (
        zero is None
        and len(series) > 1
        and series.values[-1] == 0
        and not all(map(math.isfinite, gradient.values[-1:]))
    ):
        zero = series.steps[-1]  # one record is enough where its gradient says that the zero stands for a NaN
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
    that is less, is out of the question; of 2.5 standard deviations, where the rate, the gradient or an evaluation that
    does not move says the same.
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
    norms = course.get("grad_norm").finite().values
    certain = moved is False or (rates and max(rates) < _TINY_RATE) or (norms and max(norms) < _TINY_NORM)
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
    series: Series,
    flat: bool | None,
    constant: bool | None,
    known: Known,
    found: dict[str, Any],
    course: Course,
    shape: Trend | None,
) -> str | None:
    """The value of a model that has not learned, where the loss stays at it."""
    values = series.values
    if len(values) < _FEW:
        return None
    if found.get("method") == "preference" or is_preference(known.method):
        at_start = all(abs(value - math.log(2)) < 2e-3 for value in values)
        return "ln-2" if at_start and not _ranks_better(course, shape) else "none"
    if not (flat or constant):
        return "none"
    middle = median(values)
    if known.vocabulary and abs(middle - math.log(known.vocabulary)) < 0.02 * math.log(known.vocabulary):
        return "ln-vocabulary"
    if known.labels and known.labels > 1 and abs(middle - math.log(known.labels)) < 0.05 * math.log(known.labels):
        return "ln-labels"
    return "none"


def _ranks_better(course: Course, shape: Trend | None) -> bool:
    """Whether a loss of pairs falls, be it by little, and more and more of the pairs are ranked as they should be."""
    accuracy = trend(next((s for n, s in course.series.items() if n.endswith("rewards/accuracies")), Series()))
    falls = shape is not None and shape.direction == "falls"
    return falls and accuracy is not None and accuracy.direction == "rises" and accuracy.last > _MOSTLY


def _diverges(series: Series, shape: Trend, course: Course) -> float | None:
    """The step from which the loss rises for good; None where it does not."""
    values = series.values
    if len(values) < 10:
        return None
    pieces = min(10, len(values) // 3)
    size = len(values) / pieces
    levels = [level(values[int(i * size) : int((i + 1) * size)]) for i in range(pieces)]
    if _begins_at_its_rate(course) and levels[-1] - values[0] > 6 * max(shape.noise, _spread(values[1:])) > 0:
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


def _begins_at_its_rate(course: Course) -> bool:
    """Whether the first record's rate is that of the run, or not known: after a warmup's first step nothing is up."""
    rates = course.get("learning_rate").finite().values
    return not rates or rates[0] >= max(rates) / 2


def _spread(values: Sequence[float]) -> float:
    """Standard deviation of a point about the level of all, from the median absolute deviation."""
    middle = median(values)
    return median(abs(value - middle) for value in values) / MAD


def _spikes(series: Series, own: float, course: Course, *, ordered: bool) -> list[Spike]:
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
        reasons = [*_coincides(steps[i], course), *(["same-rows"] if ordered else [])]
        found.append(Spike(step=steps[top], value=values[top], level=middle, coincides=reasons))
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
    """The values of each epoch; ``[]`` where epochs are not logged."""
    pieces: dict[int, list[float]] = {}
    for epoch, value in zip(_epochs_of(series, epochs), series.values, strict=False):
        if epoch is not None:
            pieces.setdefault(epoch, []).append(value)
    return [pieces[epoch] for epoch in sorted(pieces)]


def _epochs_of(series: Series, epochs: Series) -> list[int | None]:
    """The epoch of each point, from 0; ``[]`` where epochs are not logged."""
    if len(epochs) < 2:
        return []
    found: list[int | None] = []
    counted = all(value == int(value) for value in epochs.values)  # a loop counts them, from 0 or from 1
    for step in series.steps:
        i = bisect_left(epochs.steps, step)
        if i == len(epochs):
            found.append(None)
        else:
            found.append(int(epochs.values[i]) if counted else max(0, math.ceil(epochs.values[i] - 1e-6) - 1))
    return found


def profile_of_epoch(series: Series, epochs: Series) -> list[float] | None:
    """How the loss goes within an epoch where each epoch goes so: its rows come in one order, and some are harder.

    None where they do not. Whether they do follows from the differences of neighbours, which a trend hardly changes, of
    one epoch against those of the next.
    """
    pieces = by_epoch(series, epochs)
    length = min(map(len, pieces), default=0) if len(pieces) < 3 else min(map(len, pieces[:-1]))
    pieces = [piece for piece in pieces if len(piece) >= length]
    if len(pieces) < 2 or length < _LEAST_OF_EPOCH or max(map(len, pieces)) > length + 1:
        return None
    pieces = [piece[:length] for piece in pieces]
    bends = [[b - a for a, b in pairwise(piece)] for piece in pieces]
    if len(pieces) * length < 3 * _LEAST_OF_EPOCH or median([_correlation(a, b) for a, b in pairwise(bends)]) < _ALIKE:
        return None
    levels = [median(piece) for piece in pieces]
    return [median([piece[i] - own for piece, own in zip(pieces, levels, strict=True)]) for i in range(length)]


def without_order(series: Series, epochs: Series, profile: Sequence[float]) -> Series:
    """The series without what the order of the rows makes of it."""
    values, at, before = [], 0, None
    for epoch, value in zip(_epochs_of(series, epochs), series.values, strict=True):
        at = at + 1 if epoch == before else 0
        before = epoch
        values.append(value - profile[min(at, len(profile) - 1)])
    return Series(series.steps, values)


def _correlation(a: Sequence[float], b: Sequence[float]) -> float:
    try:
        return correlation(a, b)
    except StatisticsError:  # one of them is constant
        return 0.0


__all__ = ["Series", "by_epoch", "fifths", "loss_facts", "noise", "zero_from"]

"""What is a trend and what is noise, by the series' own noise. Plain Python: a log is judged without numpy.

Mann, "Nonparametric tests against trend", Econometrica 13 (1945); Kendall, "Rank Correlation Methods" (1975), with the
correction for ties as Gilbert, "Statistical Methods for Environmental Pollution Monitoring" (1987), section 16.4.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right, insort
from collections import Counter
from collections.abc import Sequence
from statistics import median

from ...facts.course import Trend
from .series import Series

MOST = 200
"""Points that a test looks at; a longer series is brought to medians of as many blocks."""
CERTAIN = 0.01
MAD = 0.6745
"""Median absolute deviation of a normal distribution with standard deviation 1."""


def noise(values: Sequence[float]) -> float:
    """Standard deviation of one point about its neighbours, from the median absolute second difference.

    A slope falls out of second differences, and a median does not see a few spikes. The second difference of
    independent points has the variance 6 σ².
    """
    if len(values) < 3:
        return 0.0
    bends = [abs(values[i - 1] - 2 * values[i] + values[i + 1]) for i in range(1, len(values) - 1)]
    return median(bends) / MAD / math.sqrt(6)


def mann_kendall(values: Sequence[float]) -> tuple[float, float]:
    """(z, two-sided probability) of no trend; z is positive where the series rises."""
    n = len(values)
    if n < 3:
        return 0.0, 1.0
    s = 0
    seen: list[float] = []
    for value in values:
        below = bisect_left(seen, value)
        above = len(seen) - bisect_right(seen, value)
        s += below - above
        insort(seen, value)
    ties = sum(t * (t - 1) * (2 * t + 5) for t in Counter(values).values() if t > 1)
    variance = (n * (n - 1) * (2 * n + 5) - ties) / 18
    if variance <= 0:
        return 0.0, 1.0
    z = (s - (s > 0) + (s < 0)) / math.sqrt(variance)
    return z, math.erfc(abs(z) / math.sqrt(2))


def blocks(values: Sequence[float], most: int = MOST) -> list[float]:
    """Medians of equal blocks, at most so many; the values themselves where there are no more."""
    n = len(values)
    if n <= most:
        return list(values)
    return [median(values[i * n // most : (i + 1) * n // most]) for i in range(most)]


def level(values: Sequence[float]) -> float:
    """The level of a piece of a series: its median."""
    return median(values)


def fifths(values: Sequence[float]) -> tuple[Sequence[float], Sequence[float]]:
    """The first and the last fifth, at least one point each."""
    size = max(1, len(values) // 5)
    return values[:size], values[-size:]


def trend(series: Series) -> Trend | None:
    """A series against its noise; None where it has fewer than three finite points."""
    values = series.finite().values
    if len(values) < 3:
        return None
    start, end = fifths(values)
    first, last = level(start), level(end)
    own = noise(values)
    z, probability = mann_kendall(blocks(values))
    direction = "flat"
    if probability < CERTAIN and z * (last - first) > 0:
        direction = "falls" if z < 0 else "rises"
    elif abs(last - first) > 4 * own * math.sqrt(1 / len(start) + 1 / len(end)) and own > 0:
        direction = "falls" if last < first else "rises"
    return Trend(points=len(values), first=first, last=last, change=last - first, noise=own,
                 probability=probability, direction=direction)  # fmt: skip


def sen_slope(values: Sequence[float]) -> float:
    """The median of the slopes of all pairs, per point (Theil 1950, Sen 1968)."""
    n = len(values)
    slopes = [(values[j] - values[i]) / (j - i) for i in range(n) for j in range(i + 1, n)]
    return median(slopes) if slopes else 0.0

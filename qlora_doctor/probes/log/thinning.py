"""A very long log in seconds: which of its lines are parsed.

Of a million records one in twenty tells trend and noise as well; what must not be lost are the ones that stand out. So
every line is searched for its loss, or every row's is read, and parsed are every k-th, those around a jump or a value
that is not finite or begins to be zero, and those that hold no loss (evaluations, the closing record, messages).
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from statistics import median

MOST = 60_000
"""Lines up to which each is parsed."""
_KEPT = 40_000
_LOSS = re.compile(r"""(?:\b|train_)loss["']?[ :=]{1,3}["']?([^\s,'"}|]+)""")
_STANDS_OUT = 6.0
_CHUNK, _CHUNKS = 500, 20


def chosen(lines: Sequence[str]) -> list[int] | None:
    """Indices of the lines to parse, rising; None where all are."""
    if len(lines) <= MOST:
        return None
    return standing_out([number(match[1]) if match else None for match in map(_LOSS.search, lines)])


def standing_out(values: Sequence[float | None]) -> list[int]:
    """Indices of the records to keep, rising, by the loss of each; None is a record without one."""
    stride = max(1, len(values) // _KEPT)
    limit = _STANDS_OUT * _noise([value for value in values if value is not None and math.isfinite(value)])
    keep = {*range(0, len(values), stride), *range(max(0, len(values) - 3), len(values))}
    others = [i for i, value in enumerate(values) if value is None]
    keep.update(others if len(others) <= _KEPT else others[:: len(others) // _KEPT + 1])
    before = 0.0
    for i, value in enumerate(values):
        if value is None:
            continue
        if not -limit < value - before < limit or (value == 0) != (before == 0):  # true for NaN as well
            keep.update((max(0, i - 1), i, min(len(values) - 1, i + 1)))
            if len(keep) > 4 * _KEPT:
                break
        before = value
    return sorted(keep)


def number(text: str) -> float | None:
    """The number that a text is; None where it is none."""
    try:
        return float(text)
    except ValueError:
        return None


def _noise(values: Sequence[float]) -> float:
    """Median absolute difference of neighbours, of a few pieces of the series, as a standard deviation."""
    if len(values) < 2:
        return 0.0
    gap = max(1, len(values) // _CHUNKS)
    starts = range(0, len(values), gap)
    differences = [
        abs(b - a) for s in starts for a, b in zip(values[s : s + _CHUNK], values[s + 1 : s + _CHUNK], strict=False)
    ]
    return median(differences) / 0.6745 / math.sqrt(2)

"""Rows that are evaluated on and trained on by the words of the file alone: slices of one split that overlap."""

from __future__ import annotations

import re
from typing import NamedTuple

from ...setup.setup import NamedData, Setup

_SLICE = re.compile(r"\s*(?P<name>[\w.-]+)\s*(?:\[(?P<from>-?\d+%?)?:(?P<to>-?\d+%?)?\])?\s*\Z")


class _Part(NamedTuple):
    """A slice of a split: its bounds in percent or in rows; None is the end of the split."""

    name: str
    begin: float
    end: float | None
    percent: bool | None
    """None: all of it."""


def splits_overlap(setup: Setup) -> str | None:
    """Which slices of one split are trained on and evaluated on, in words; ``none`` where none are, None unknown."""
    trained = [each for each in setup.named_data if each.role == "train" and each.name]
    held_out = [each for each in setup.named_data if each.role == "eval" and each.name]
    if not trained or not held_out:
        return None
    known = True
    for one in trained:
        for other in held_out:
            if (one.name, one.subset, one.files) != (other.name, other.subset, other.files):
                continue
            found = _overlap(one, other)
            if found is None:
                known = False
            elif found:
                return found
    return "none" if known else None


def _overlap(one: NamedData, other: NamedData) -> str | None:
    """In words; "" where they have no row in common, None where that cannot be known."""
    first, second = _part(one.split), _part(other.split)
    if first is None or second is None:
        return None
    if first.name != second.name:
        return ""
    told = f"{one.split or first.name} and {other.split or second.name} of {one.name}"
    if first.percent is None or second.percent is None:
        return told
    if first.percent != second.percent or min(first.begin, second.begin) < 0:
        return None
    whole = 100.0 if first.percent else None
    ends = [whole if part.end is None else part.end for part in (first, second)]
    if any(end is not None and end < 0 for end in ends):
        return None
    known = [end for end in ends if end is not None]
    return told if max(first.begin, second.begin) < (min(known) if known else float("inf")) else ""


def _part(split: str | None) -> _Part | None:
    """What a split takes; by default the training split."""
    match = _SLICE.match(split or "train")
    if match is None:
        return None
    bounds = [match["from"], match["to"]]
    if bounds == [None, None]:
        return _Part(match["name"], 0.0, None, None)
    kinds = {bound.endswith("%") for bound in bounds if bound is not None}
    if len(kinds) != 1:
        return None
    begin, end = (float(bound.rstrip("%")) if bound is not None else None for bound in bounds)
    return _Part(match["name"], begin or 0.0, end, kinds.pop())

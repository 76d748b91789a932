"""Two reports side by side: the picture of their memory on one scale, and what changed in rows of before and after."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .. import _words as words
from ..comparing import Part
from .memory import PARTS, Segment


@dataclass(frozen=True)
class Side:
    """One side's peak, its parts in percent of the wider side."""

    name: str
    peak: int
    segments: tuple[Segment, ...]


@dataclass(frozen=True)
class Delta:
    """A part on both sides; ``start`` and ``width`` draw the change from the middle, in percent."""

    key: str
    label: str
    before: int | None
    after: int | None
    change: int
    start: float
    width: float


@dataclass(frozen=True)
class MemoryDelta:
    """Bars and rows; the peak is the last row."""

    sides: tuple[Side, Side]
    rows: tuple[Delta, ...]
    peak: Delta


def memory_delta(parts: Sequence[Part], names: tuple[str, str]) -> MemoryDelta | None:
    """Lay the parts out; the first one is the peak. None where there is nothing to compare."""
    if not parts:
        return None
    whole, *each = parts
    known = [p for p in each if p.before or p.after]
    order = list(PARTS)
    known.sort(key=lambda p: order.index(p.part) if p.part in PARTS else len(order))
    scale = max(whole.before or 0, whole.after or 0) or 1
    widest = max((abs((p.after or 0) - (p.before or 0)) for p in [whole, *known]), default=0) or 1
    sides = (
        Side(names[0], whole.before or 0, _segments([(p.part, p.before or 0) for p in known], scale)),
        Side(names[1], whole.after or 0, _segments([(p.part, p.after or 0) for p in known], scale)),
    )
    rows = tuple(_delta(p.part, p, widest) for p in known)
    return MemoryDelta(sides, rows, _delta("peak_allocated", whole, widest))


def signed(change: int) -> str:
    """``+1.2 GiB``, ``−300 MiB``; nothing where nothing changed."""
    return "" if change == 0 else ("+" if change > 0 else "−") + words.size(abs(change))


def _delta(name: str, part: Part, widest: int) -> Delta:
    change = (part.after or 0) - (part.before or 0)
    width = abs(change) / widest * 50
    start = 50.0 if change >= 0 else 50 - width
    return Delta(_key(name), _label(name), part.before, part.after, change, round(start, 2), round(width, 2))


def _segments(parts: Sequence[tuple[str, int]], scale: int) -> tuple[Segment, ...]:
    segments, x = [], 0.0
    for name, size in parts:
        width = size / scale * 100
        if size:
            segments.append(Segment(_key(name), _label(name), size, round(x, 3), round(width, 3)))
        x += width
    return tuple(segments)


def _key(name: str) -> str:
    return name.replace("_", "-") if name in PARTS else "other"


def _label(name: str) -> str:
    return PARTS.get(name) or ("Peak allocated" if name == "peak_allocated" else name.replace("_", " "))

"""Geometry of the lengths of rows, and the rows in the order of the slider."""

from __future__ import annotations

from dataclasses import dataclass

from ...facts.data import DataFacts, RowFacts

_ORDER = ("shortest", "median", "longest", "untrained", "left out", "random")


@dataclass(frozen=True)
class Bar:
    """A bin of the histogram; places in percent of the width, sizes in percent of the height."""

    x: float
    width: float
    height: float
    rows: int
    first: int
    last: int
    cut: bool
    """All of its rows are longer than the limit."""


@dataclass(frozen=True)
class RowsView:
    """What the section draws.

    Attributes:
        limit_at: place of the limit in percent of the width; None where no row is as long.
        top: rows of the highest bar.
        end: tokens at the right end.
    """

    rows: tuple[RowFacts, ...]
    bars: tuple[Bar, ...]
    limit_at: float | None
    limit: int | None
    top: int
    end: int
    spoken: str


def rows_view(data: DataFacts) -> RowsView | None:
    """Rows and lengths; None where no row was formed."""
    counts, width = data.lengths or [], data.lengths_bin or 0
    if not counts or not width:
        return None
    used = next(index for index, count in enumerate(counts) if count)
    begin = used if used > len(counts) // 2 else 0  # rows of nearly one length fill the picture
    shown = counts[begin:]
    share, top = 100 / len(shown), max(shown)
    start, end = begin * width, len(counts) * width
    limit = data.limit
    bars = tuple(
        Bar(
            x=round(index * share + 0.15 * share / 2, 3),
            width=round(share * 0.85, 3),
            height=round(100 * count / top, 2),
            rows=count,
            first=start + index * width,
            last=start + (index + 1) * width - 1,
            cut=limit is not None and start + index * width >= limit,
        )
        for index, count in enumerate(shown)
    )
    inside = limit is not None and start < limit < end
    spoken = f"Lengths of rows: {sum(counts)} rows of {start} to {end} tokens"
    if limit is not None:
        spoken += f"; a row ends at {limit} tokens"
    return RowsView(
        rows=tuple(sorted(data.shown or (), key=_place)),
        bars=bars,
        limit_at=round(100 * (limit - start) / (end - start), 3) if inside and limit is not None else None,
        limit=limit,
        top=top,
        end=end,
        spoken=spoken + ".",
    )


def _place(row: RowFacts) -> tuple[int, int]:
    first = min((_ORDER.index(name) for name in row.which if name in _ORDER), default=len(_ORDER))
    return first, row.length

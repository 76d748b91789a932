"""The line of the user's file that a finding points at, cut at the marked columns."""

from __future__ import annotations

from ..core.place import Place
from . import _words as words

_MOST = 160
_BEFORE = 60
"""Columns kept before the mark where the line is too long to be shown whole."""


def marked(location: Place) -> tuple[str, str, str] | None:
    """The excerpt before, at and after the marked columns, as it will be seen; None where there is none.

    A mark that ends on a later line, or nowhere, goes to the end of this one. Tabs become four columns. Of a long line,
    such as a JSON file written without breaks, the part around the mark is shown.
    """
    text = location.excerpt
    if text is None or location.line is None:
        return None
    text = text.rstrip()
    start = min(max(0, (location.column or 1) - 1), len(text))
    same_line = location.end_line in (None, location.line)
    end = location.end_column - 1 if location.end_column is not None and same_line else len(text)
    end = min(max(end, start + 1), max(len(text), start))
    cut = max(0, start - _BEFORE) if end > _MOST else 0
    before = ("…" if cut else "") + text[cut:start]
    clipped, room = [], _MOST
    for raw in (before, text[start:end], text[end:]):
        part = words.visible(raw.replace("\t", "    ").replace("\n", " "))
        clipped.append(part if len(part) <= room else f"{part[: max(0, room - 1)]}…" if room else "")
        room = max(0, room - len(part))
    return clipped[0], clipped[1], clipped[2]

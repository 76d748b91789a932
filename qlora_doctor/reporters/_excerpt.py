"""The line of the user's file that a finding points at, cut at the marked columns."""

from __future__ import annotations

from ..report import Location
from . import _words as words

_MOST = 160


def marked(location: Location) -> tuple[str, str, str] | None:
    """The excerpt before, at and after the marked columns, as it will be seen; None where there is none.

    A mark that ends on a later line, or nowhere, goes to the end of this one. Tabs become four columns.
    """
    text = location.excerpt
    if text is None or location.line is None:
        return None
    text = text.rstrip()
    start = min(max(0, (location.column or 1) - 1), len(text))
    same_line = location.end_line in (None, location.line)
    end = location.end_column - 1 if location.end_column is not None and same_line else len(text)
    end = min(max(end, start + 1), max(len(text), start))
    clipped, room = [], _MOST
    for raw in (text[:start], text[start:end], text[end:]):
        part = words.visible(raw.replace("\t", "    ").replace("\n", " "))
        clipped.append(part if len(part) <= room else f"{part[: max(0, room - 1)]}…" if room else "")
        room = max(0, room - len(part))
    return clipped[0], clipped[1], clipped[2]

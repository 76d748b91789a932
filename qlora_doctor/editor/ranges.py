"""Places in a text, as the protocol counts them: lines from 0 that end at LF, CRLF or CR, columns in UTF-16 units."""

from __future__ import annotations

import re
from bisect import bisect_right
from dataclasses import dataclass
from functools import cached_property

Range = tuple[tuple[int, int], tuple[int, int]]
"""(line, column) of the start and of the end, which is exclusive."""
_ENDS = re.compile("\r\n|\n|\r")


@dataclass(frozen=True)
class Text:
    """One version of a file's text."""

    text: str

    @cached_property
    def _starts(self) -> list[int]:
        """Offsets at which the editor's lines start."""
        return [0, *(end.end() for end in _ENDS.finditer(self.text))]

    @cached_property
    def _rows(self) -> list[int]:
        """Offsets at which our lines start, which end at LF alone."""
        return [0, *(index + 1 for index, character in enumerate(self.text) if character == "\n")]

    def offset(self, line: int | None, column: int | None) -> int:
        """The offset of a line and a column that count from 1; the nearest one where there is no such place."""
        row = min(max((line or 1) - 1, 0), len(self._rows) - 1)
        start = self._rows[row]
        end = self._rows[row + 1] - 1 if row + 1 < len(self._rows) else len(self.text)
        return min(start + max((column or 1) - 1, 0), max(end, start))

    def position(self, offset: int) -> tuple[int, int]:
        """An offset as the editor counts it."""
        line = bisect_right(self._starts, offset) - 1
        return line, units(self.text[self._starts[line] : offset])

    def offset_at(self, line: int, character: int) -> int:
        """The offset of an editor's position; the nearest one where there is no such place."""
        line = min(max(line, 0), len(self._starts) - 1)
        start = self._starts[line]
        end = self._starts[line + 1] if line + 1 < len(self._starts) else len(self.text)
        seen = 0
        for offset in range(start, end):
            if seen >= character or self.text[offset] in "\r\n":
                return offset
            seen += 2 if self.text[offset] > "\uffff" else 1
        return end

    def range(self, start: int, end: int) -> Range:
        """Two offsets as the editor counts them."""
        return self.position(start), self.position(end)


def units(text: str) -> int:
    """Length in UTF-16 code units."""
    return len(text) + sum(character > "\uffff" for character in text)

"""How many rows a data file has, where that can be told at once without a library."""

from __future__ import annotations

import json
from pathlib import Path

_LARGEST = 64 << 20
"""Bytes that are read: some tens of milliseconds."""
_LARGEST_PARSED = 4 << 20
"""Bytes of a JSON file, which has to be parsed whole."""


def count_rows(file: Path) -> int | None:
    """Rows of a JSON Lines, JSON, CSV or TSV file; None for other files, larger ones, and what cannot be read."""
    import csv  # lazy: most data is not in a file here

    try:
        size = file.stat().st_size if file.is_file() else _LARGEST + 1
        kind = file.suffix.lower()
        if size > _LARGEST:
            return None
        if kind in (".jsonl", ".ndjson"):
            return _lines(file)
        if kind in (".csv", ".tsv"):
            with file.open(newline="", encoding="utf-8-sig") as text:
                rows = sum(bool(row) for row in csv.reader(text, delimiter="\t" if kind == ".tsv" else ","))
            return max(0, rows - 1)
        if kind == ".json":
            return _of_json(file, size)
    except (OSError, ValueError, RecursionError, csv.Error):
        return None
    return None


def longest_line(file: Path | None) -> int | None:
    """Bytes of the longest line of a JSON Lines file, which no row has more tokens than; None of other files."""
    try:
        if file is None or file.suffix.lower() not in (".jsonl", ".ndjson") or file.stat().st_size > _LARGEST:
            return None
        with file.open("rb") as content:
            return max(map(len, content), default=0)
    except OSError:
        return None


def _lines(file: Path) -> int:
    """Lines that are not empty."""
    with file.open("rb") as content:
        return sum(1 for line in content if line.strip())


def _of_json(file: Path, size: int) -> int | None:
    """A list of rows, or lines of rows in a file of that name."""
    with file.open("rb") as content:
        first = content.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()[:1]
    if first == b"[" and size <= _LARGEST_PARSED:
        rows = json.loads(file.read_text("utf-8-sig"))
        return len(rows) if isinstance(rows, list) else None
    if first != b"{":
        return None
    with file.open("rb") as content:
        head = content.readline()
    try:
        json.loads(head)
    except ValueError:
        return None  # one mapping over several lines
    return _lines(file)

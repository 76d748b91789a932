"""Rows of a file: all of a small one, of a large one a sample that always has its longest rows.

The sample has a fixed seed. Of a large file windows at random places are read, so that the time does not grow with it.
"""

from __future__ import annotations

import bz2
import csv
import gzip
import importlib
import io
import json
import lzma
import os
import random
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from ...core.errors import StageError
from ..failures import first_sentence

BUILDERS = {
    ".jsonl": "json",
    ".json": "json",
    ".ndjson": "json",
    ".csv": "csv",
    ".tsv": "csv",
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".txt": "text",
}
"""Kinds of files that are read, by what their names end in: the datasets library's word for each."""
_PACKED: dict[str, Any] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
"""Compressed files, which are read from their beginning on."""
_SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "dev", "val"),
    "test": ("test", "testing", "eval", "evaluation"),
}
"""Words in names of files and folders by which load_dataset tells splits (datasets 4.8: ``data_files.py``)."""
WHOLE = 16 << 20
"""Bytes up to which a file is read to its end."""
WHOLE_DOCUMENT = 64 << 20
"""Bytes up to which a JSON document is read; it has no lines to sample."""
WINDOW, WINDOWS = 256 << 10, 48
_LONGEST = 2
"""Rows of a sample that are the longest ones; more of them would make what holds for a few look like a share of all."""
_READ = 2048
"""Rows of a table that are read, of which the sample is taken."""
_SLICE = re.compile(r"(\w+)(?:\[(-?\d*)(%?):(-?\d*)(%?)\])?\Z")


@dataclass
class Read:
    """Rows with their numbers (None of a sampled file), and how many the file has (None where nobody counted)."""

    rows: list[tuple[int | None, dict[str, Any]]]
    total: int | None
    columns: list[str]


def not_at_hand(name: str, error: Exception) -> str:
    """Why a data set of the hub is not looked at: it is not in the cache, and the hub was not reached."""
    why = "the hub was not reached" if isinstance(error, ConnectionError) else first_sentence(error).rstrip(".")
    return f"{name} is not in the hub's cache of this machine ({why})."


def read_files(paths: list[Path], rows: int, split: str | None = None) -> Read:
    """A sample of the rows of some files of one kind.

    Args:
        rows: as many at most.
        split: as load_dataset takes it, ``train[:80%]``; only its slice counts, since files have no splits.

    Raises:
        StageError: a file cannot be read, is empty, or is of a kind that is not known.
    """
    found = [_read(path, rows) for path in paths]
    counted = all(each.total is not None for each in found)
    offsets, passed = [], 0
    for each in found:
        offsets.append(passed)
        passed += each.total or 0
    every = [
        (number + start if number is not None and counted else None, row)
        for each, start in zip(found, offsets, strict=True)
        for number, row in each.rows
    ]
    total = passed if counted else None
    begin, end = slice_of(split, total)
    if total is not None and (begin, end) != (0, total):
        every = [(number, row) for number, row in every if number is None or begin <= number < end]
        if end <= begin:
            raise StageError(f"{split} takes none of the {total} rows of {paths[0].name}.")
        total = end - begin
    columns = list(dict.fromkeys(column for each in found for column in each.columns))
    return Read(chosen(every, rows), total, columns)


def slice_of(split: str | None, total: int | None) -> tuple[int, int]:
    """First row and the one behind the last that a split takes of ``total`` rows; all of them where it is no slice."""
    whole = (0, total or 0)
    if split is None or total is None:
        return whole
    match = _SLICE.match(split.strip())
    if match is None or match[2] is None:
        return whole

    def place(number: str, percent: str, default: int) -> int:
        if number == "":
            return default
        value = int(number)
        value = round(total * value / 100) if percent else value
        return max(0, min(total, value + total if value < 0 else value))

    return place(match[2], match[3], 0), place(match[4], match[5], total)


def chosen(rows: list[tuple[int | None, dict[str, Any]]], most: int) -> list[tuple[int | None, dict[str, Any]]]:
    """A sample with a fixed seed, in the order of the rows, the longest of them among it."""
    if len(rows) <= most:
        return rows
    by_length = sorted(range(len(rows)), key=lambda index: -len(str(rows[index][1])))
    kept = set(by_length[: min(_LONGEST, most)])
    others = [index for index in range(len(rows)) if index not in kept]
    kept.update(random.Random(0).sample(others, most - len(kept)))
    return [rows[index] for index in sorted(kept)]


def builder_of(path: Path) -> str | None:
    """The datasets library's word for a file's kind; None where it is not read."""
    return BUILDERS.get(suffix_of(path))


def suffix_of(path: Path) -> str:
    """What a name ends in, without the ending of a compressed text."""
    last = path.suffix.lower()
    inner = Path(path.stem).suffix.lower()
    return inner if last in _PACKED and BUILDERS.get(inner) in ("json", "csv", "text") else last


def _opened(path: Path) -> BinaryIO:
    return cast(BinaryIO, _PACKED.get(path.suffix.lower(), open)(path, "rb"))


def _begins(path: Path, most: int) -> tuple[bytes, bool]:
    """(what a file begins with, whether that is all of it)."""
    try:
        with _opened(path) as file:
            data = file.read(most + 1)
    except (OSError, EOFError, lzma.LZMAError) as error:
        raise StageError(f"The data {path.name!r} cannot be read: {error}.") from error
    return data[:most], len(data) <= most


def _read(path: Path, rows: int) -> Read:
    kind = builder_of(path)
    if kind == "json":
        return _lines(path, rows, _json_line) if _has_lines(path) else _document(path)
    if kind == "text":
        return _lines(path, rows, lambda line, number: {"text": line.rstrip("\r\n")})
    if kind == "csv":
        return _table(path, rows, "\t" if suffix_of(path) == ".tsv" else ",")
    if kind == "parquet":
        return _parquet(path, rows)
    if kind == "arrow":
        return _arrow(path, rows)
    raise StageError(f"{path.name} is of a kind that is not read: JSON Lines, JSON, CSV, text and Parquet are.")


def _has_lines(path: Path) -> bool:
    """JSON Lines, whatever the file is called: an object ends on the first line that is not empty."""
    head = _begins(path, WINDOW)[0].lstrip(b"\xef\xbb\xbf \t\r\n")
    if not head.startswith(b"{"):
        return False
    line, _, rest = head.partition(b"\n")
    line = line.strip()
    if not rest and len(head) >= WINDOW // 2:  # a line longer than what was read
        return True
    try:
        json.loads(line)
    except ValueError:
        return len(line) > 2 and line.endswith(b"}")  # a damaged line of objects; a document opens with a brace alone
    return True


def _json_line(line: str, number: int | None) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        where = f"line {number + 1}" if number is not None else "a line"
        raise StageError(f"The data cannot be read: {where} is no JSON ({error}).") from error
    if not isinstance(row, dict):
        where = f"line {number + 1}" if number is not None else "a line"
        raise StageError(f"The data cannot be read: {where} is {type(row).__name__}, no object.")
    return row


def _lines(path: Path, rows: int, parse: Any) -> Read:
    numbered: list[tuple[int | None, str]]
    total: int | None
    size, packed = path.stat().st_size, path.suffix.lower() in _PACKED
    data, whole = _begins(path, WHOLE) if packed or size <= WHOLE else (b"", False)
    if packed and not whole:
        texts = _text(data[: data.rfind(b"\n") + 1], path).split("\n")
        numbered, total = [(None, line) for line in texts if line.strip()], None
    elif whole:
        texts = _text(data, path).split("\n")
        lines = [(number, line) for number, line in enumerate(texts) if line.strip()]
        numbered, total = [(place, line) for place, (_, line) in enumerate(lines)], len(lines)
    else:
        numbered, total = [(None, line) for line in _windows(path, size)], None
    if not numbered:
        raise StageError(f"The data {path.name!r} is empty.")
    if len(numbered) > rows:
        by_length = sorted(range(len(numbered)), key=lambda index: -len(numbered[index][1]))
        kept = set(by_length[: min(_LONGEST, rows)])
        kept.update(random.Random(0).sample([i for i in range(len(numbered)) if i not in kept], rows - len(kept)))
        numbered = [numbered[index] for index in sorted(kept)]
    found = [(number, parse(line, number)) for number, line in numbered]
    return Read(found, total, list(dict.fromkeys(column for _, row in found for column in row)))


def _windows(path: Path, size: int) -> list[str]:
    """Whole lines of windows at the beginning and at random places."""
    places = sorted({0, *(random.Random(0).randrange(size) for _ in range(WINDOWS))})
    lines: list[str] = []
    with path.open("rb") as file:
        behind = 0
        for place in places:
            if place < behind:
                continue
            file.seek(place)
            piece = file.read(WINDOW)
            behind = place + len(piece)
            parts = piece.split(b"\n")
            parts = parts[1:] if place else parts
            parts = parts[:-1] if behind < size else parts
            lines += [part.decode("utf-8", "replace") for part in parts if part.strip()]
    if not lines:
        raise StageError(f"{path.name} has lines of more than {WINDOW >> 10} KiB, which are not sampled.")
    return lines


def _text(data: bytes, path: Path) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise StageError(
            f"The data {path.name!r} is no UTF-8: byte {error.start} is 0x{data[error.start]:02x}.",
            remedy="Save the file as UTF-8.",
        ) from error


def _document(path: Path) -> Read:
    data, whole = _begins(path, WHOLE_DOCUMENT)
    if not whole:
        raise StageError(
            f"{path.name} is one JSON document of more than {WHOLE_DOCUMENT >> 20} MiB, of which no part can be read.",
            remedy="Write one object a line (JSON Lines).",
        )
    text = _text(data, path)
    if not text.strip():
        raise StageError(f"The data {path.name!r} is empty.")
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise StageError(f"The data {path.name!r} is no JSON: {error}.") from error
    if isinstance(found, dict):
        lists = [value for value in found.values() if isinstance(value, list) and value and isinstance(value[0], dict)]
        found = lists[0] if len(lists) == 1 else [found]
    rows = [row for row in found if isinstance(row, dict)] if isinstance(found, list) else []
    if not rows:
        raise StageError(f"The data {path.name!r} is empty." if found in ([], {}) else f"{path.name} holds no rows.")
    numbered: list[tuple[int | None, dict[str, Any]]] = list(enumerate(rows))
    return Read(numbered, len(rows), list(dict.fromkeys(column for row in rows for column in row)))


def _table(path: Path, rows: int, separator: str) -> Read:
    data, whole = _begins(path, WHOLE)
    if not whole:
        data = data[: data.rfind(b"\n") + 1]
    reader = csv.DictReader(io.StringIO(_text(data, path), newline=""), delimiter=separator)
    found: list[tuple[int | None, dict[str, Any]]] = []
    for number, row in enumerate(reader):
        found.append((number, {name: value for name, value in row.items() if name is not None}))
    if not found:
        raise StageError(f"The data {path.name!r} is empty.")
    return Read(chosen(found, rows), len(found) if whole else None, list(reader.fieldnames or ()))


def _parquet(path: Path, rows: int) -> Read:
    parquet = importlib.import_module("pyarrow.parquet")

    file = parquet.ParquetFile(path)
    groups = list(range(file.num_row_groups))
    picked = sorted(random.Random(0).sample(groups, min(8, len(groups))))
    starts = [0]
    for group in groups:
        starts.append(starts[-1] + file.metadata.row_group(group).num_rows)
    found: list[tuple[int | None, dict[str, Any]]] = []
    for group in picked:
        batch = next(file.iter_batches(batch_size=1024, row_groups=[group]), None)
        found += [(starts[group] + index, row) for index, row in enumerate(batch.to_pylist() if batch else [])]
    if not found:
        raise StageError(f"The data {path.name!r} is empty.")
    return Read(chosen(found, rows), file.metadata.num_rows, list(file.schema_arrow.names))


def _arrow(path: Path, rows: int) -> Read:
    from datasets import Dataset

    data = Dataset.from_file(str(path))
    picked = of_table(data, rows)
    if not picked:
        raise StageError(f"The data {path.name!r} is empty.")
    return Read(list(picked), len(data), list(data.column_names))


def of_table(data: Any, rows: int) -> list[tuple[int, dict[str, Any]]]:
    """Rows of a ``datasets.Dataset`` with their numbers: a sample, the longest of those that were read among it."""
    read = min(len(data), max(rows, _READ))
    places = sorted(random.Random(0).sample(range(len(data)), read))
    found: list[tuple[int | None, dict[str, Any]]] = [(place, data[place]) for place in places]
    return [(int(place or 0), row) for place, row in chosen(found, rows)]


def files_below(path: Path, split: str | None = None) -> list[Path]:
    """The data files of a folder, or the file itself.

    Args:
        split: where load_dataset reads the folder, the one it is asked for; names of files and folders tell them apart.

    Raises:
        StageError: the folder has splits, and not this one.
    """
    if not path.is_dir():
        return [path]
    found = (Path(top) / name for top, _, names in os.walk(path) for name in names)
    files = sorted(file for file in found if builder_of(file) is not None)
    if split is None:
        return files
    asked = split.partition("[")[0].strip()
    for of_file in (True, False):
        names = {file: _split_of(file.relative_to(path), of_file=of_file) for file in files}
        known = {name for name in names.values() if name is not None}
        if known and asked not in known:
            raise StageError(
                f"{path.name} has no split {asked}; the names of its files say {', '.join(sorted(known))}."
            )
        if known:
            return [file for file in files if names[file] == asked]
    return files


def _split_of(path: Path, *, of_file: bool) -> str | None:
    """The split that the name of a file, or one of the folders above it, stands for."""
    text = path.name if of_file else path.parent.as_posix()
    for split, words in _SPLITS.items():
        ending = r"[-._ 0-9]" if of_file else r"(?:[-._ 0-9/]|\Z)"
        if re.search(rf"(?:\A|[-._ 0-9/])(?:{'|'.join(words)}){ending}", text):
            return split
    return None

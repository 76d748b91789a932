"""What every command has in common in a terminal: colour, width, and how an error is shown."""

from __future__ import annotations

import os
import re
import shutil
import sys
from typing import TYPE_CHECKING, TextIO

import click

from ..core.errors import DoctorError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..core.place import Place

_SGR = re.compile(r"\x1b\[[0-9;]*m")
_WORDS = re.compile(r"( *)([^ ]+)")


def wants_color(stream: TextIO, no_color: bool = False) -> bool:
    """NO_COLOR (no-color.org) and --no-color switch colour off, FORCE_COLOR on; else a terminal decides."""
    if no_color or os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR") not in (None, "", "0"):
        return True
    return is_terminal(stream)


def is_terminal(stream: TextIO) -> bool:
    """True where a person reads along."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def width() -> int:
    """Columns to wrap at."""
    return min(100, shutil.get_terminal_size((100, 24)).columns)


def show(text: str, *, color: bool | None = None, err: bool = False) -> None:
    """Print a text for people; where the columns are known, no line breaks inside a word.

    A pipe gets the lines as they are: what reads it counts lines.
    """
    if is_terminal(sys.stderr if err else sys.stdout) or os.environ.get("COLUMNS", "").isdecimal():
        text = narrowed(text, shutil.get_terminal_size().columns)
    click.echo(text.removesuffix("\n"), color=color, err=err)


def narrowed(text: str, columns: int) -> str:
    """Lines that are longer than ``columns`` broken between words; colour codes take no room."""
    return "\n".join(piece for line in text.split("\n") for piece in _pieces(line, columns))


def _pieces(line: str, columns: int) -> Iterator[str]:
    if len(line) <= columns:
        yield line
        return
    indent = len(line) - len(line.lstrip(" "))
    rest = " " * min(indent + 2, columns // 2)
    piece, room = "", columns
    for gap, word in _WORDS.findall(line):
        taken = len(_SGR.sub("", gap + word))
        if piece.strip() and taken > room:
            yield piece
            piece, room = rest + word, columns - len(rest) - taken + len(gap)
        else:
            piece, room = piece + gap + word, room - taken
    yield piece


def show_error(error: DoctorError, *, no_color: bool = False) -> None:
    """Tell an error on stderr: the sentence, the place in the user's file, the remedy."""
    color = wants_color(sys.stderr, no_color)
    label = click.style("error", fg="red", bold=True) if color else "error"
    lines = [f"{label}: {one_line(error.message)}"]
    if error.place is not None and (error.place.line is not None or error.place.pointer is not None):
        lines += _frame(error.place)
    if error.remedy:
        lines.append(f"  help: {one_line(error.remedy)}")
    click.echo("\n".join(lines), err=True, color=color)


def _frame(place: Place) -> list[str]:
    where = [str(part) for part in (place.file, place.line, place.column) if part is not None]
    lines = [f"  --> {one_line(':'.join(where) or 'the config')} {place.pointer or ''}".rstrip()]
    if place.excerpt is not None and place.line is not None:
        margin = " " * len(str(place.line))
        lines += [f"{margin} |", f"{place.line} | {one_line(place.excerpt.expandtabs(1), 160)}"]
        if place.column is not None and place.column < 160:
            same = place.end_column is not None and place.end_line == place.line
            length = place.end_column - place.column if same and place.end_column is not None else 1
            lines.append(f"{margin} | {' ' * (place.column - 1)}{'^' * max(1, min(length, 160 - place.column))}")
    return lines


def one_line(text: str, limit: int = 2000) -> str:
    """Text from outside, made harmless for a terminal: no control characters, no second line, no end in sight."""
    clean = "".join(character if character.isprintable() else " " for character in text)
    return clean if len(clean) <= limit else clean[: limit - 1] + "…"

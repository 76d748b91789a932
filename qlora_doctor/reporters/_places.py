"""Where a finding stands, as forges want it: paths from the repository's root, columns in UTF-16 units."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from ..core.place import Place
from ..core.report import Finding, Report


def repository_path(file: str | None) -> str | None:
    """A path from the root of its repository, with ``/`` and symlinks resolved.

    The root is the nearest folder above that holds ``.git``, else the working directory; what lies outside of it keeps
    its path as it was given.
    """
    if file is None:
        return None
    try:
        path = Path(file).resolve()
        root = _root(path.parent)
        return path.relative_to(root).as_posix()
    except (OSError, ValueError, RuntimeError):  # outside, or no path that this system could have
        return file.replace("\\", "/")


def file_of(report: Report, finding: Finding | None = None) -> str | None:
    """The file that a finding (or the whole report) is about, from the repository's root."""
    file = finding.location.file if finding is not None else None
    return repository_path(file or (report.setup or {}).get("file"))


def utf16_columns(location: Place) -> tuple[int | None, int | None]:
    """Start and end column in UTF-16 code units, from 1, the end exclusive; None where it is not known.

    An end on a later line is None: the report holds the text of the first line alone.
    """
    text = location.excerpt
    same_line = location.end_line in (None, location.line)
    end = location.end_column if same_line else None
    if text is None:
        return location.column, end
    return _units(text, location.column), _units(text, end)


def _units(text: str, column: int | None) -> int | None:
    if column is None:
        return None
    before = text[: column - 1]
    return column + sum(ord(character) > 0xFFFF for character in before)


@cache
def _root(folder: Path) -> Path:
    for parent in (folder, *folder.parents):
        if (parent / ".git").exists():
            return parent
    return Path.cwd().resolve()

"""The files beside a script that it may import or read: found within bounds, read as text, never run.

A script is started in its own folder or in one above it, so both are where its imports and paths begin. Nothing outside
the project is looked at: the project is the clone that the script is in, else the highest of the next folders with a
mark of one, else the folder above the script.
"""

from __future__ import annotations

import os
import sys
from functools import cached_property
from pathlib import Path

from ...core.errors import ConfigError
from ..document import Document, read_document
from .scopes import LIBRARIES

MOST_FILES = 48
"""Files that are read for one script."""
MOST_BYTES = 512 * 1024
"""Of one of them."""
_MARKS = ("pyproject.toml", "setup.py", "setup.cfg", "requirements.txt", "environment.yml", "Makefile")
_HIGHEST = 4
"""Folders above the script in which a mark is looked for."""
DATA_SUFFIXES = (".yaml", ".yml", ".json", ".toml", "")


class Neighbours:
    """The files beside one script."""

    def __init__(self, script: Path | None) -> None:
        """Look around a script; without a path it has no neighbours."""
        self._shown_whole = script is None or script.is_absolute()
        self.script = Path(os.path.normpath(Path.cwd() / script)) if script is not None else None
        self.read: list[Path] = []
        self._documents: dict[Path, Document | None] = {}

    @cached_property
    def root(self) -> Path | None:
        """The project's folder."""
        if self.script is None:
            return None
        folder = self.script.parent
        near = [folder, *folder.parents][: _HIGHEST + 1]
        clone = next((above for above in near if _exists(above / ".git")), None)
        marked = [above for above in near if any(_exists(above / mark) for mark in _MARKS)]
        if clone is not None or marked:
            return clone or marked[-1]
        return folder.parent if folder.parent != Path(folder.anchor) else folder

    @cached_property
    def folders(self) -> list[Path]:
        """The script's folder and those above it, up to the project's."""
        if self.script is None or self.root is None:
            return []
        found: list[Path] = []
        for folder in [self.script.parent, *self.script.parent.parents]:
            found.append(folder)
            if folder == self.root:
                break
        return found

    def module(self, dotted: str, importer: Path | None) -> Path | None:
        """The file of a module of the project; a package's is its ``__init__.py``, or its folder where it has none."""
        level = len(dotted) - len(dotted.lstrip("."))
        parts = [part for part in dotted.lstrip(".").split(".") if part]
        if level:
            home = (importer or self.script or Path()).parent
            for _ in range(level - 1):
                home = home.parent
            starts = [home] if self.script is not None else []
        elif not parts or parts[0] in LIBRARIES or parts[0] in sys.stdlib_module_names:
            return None
        else:
            starts = [*self.folders, *(folder / "src" for folder in self.folders)]
        return next((found for start in starts if (found := self._in(start, parts)) is not None), None)

    def _in(self, start: Path, parts: list[str]) -> Path | None:
        path = start.joinpath(*parts)
        for file in ([path.with_name(path.name + ".py")] if parts else []) + [path / "__init__.py"]:
            if self.may_read(file):
                return file
        is_folder = bool(parts) and path.is_dir() and any(path.glob("*.py"))
        return path if is_folder and self._is_within(path) else None

    def data(self, written: str, importer: Path | None = None) -> Path | str:
        """The one file that a path of the script names; in words why there is none."""
        if self.script is None or "\0" in written or len(written) > 1024:
            return "A file that the script reads decides."
        name = Path(written).name[:80]
        if Path(written).suffix.lower() not in DATA_SUFFIXES:
            return f"A file that the script reads decides: {name}."
        found: list[Path] = []
        for folder in self.folders:
            file = Path(os.path.normpath(folder / written))
            if self.may_read(file) and not any(_same_content(file, other) for other in found):
                found.append(file)
        if not found:
            return f"A file that the script reads decides, and is not beside it: {name}."
        if len(found) > 1:
            return f"A file that the script reads decides, and there are several of the name {name}."
        return found[0]

    def document(self, path: Path) -> Document | None:
        """What a file holds; None where it cannot be read, or too many were."""
        if path not in self._documents:
            if len(self._documents) >= MOST_FILES:
                return None
            try:
                self._documents[path] = read_document(self.shown(path))
            except ConfigError:
                self._documents[path] = None
            self.read.append(path)
        return self._documents[path]

    def shown(self, path: Path) -> Path:
        """A file as a report names it: from the working folder where the script is named so."""
        return path if self._shown_whole else Path(os.path.relpath(path))

    def may_read(self, path: Path) -> bool:
        """True for a file of the project that is not too large."""
        try:
            return path.is_file() and path.stat().st_size <= MOST_BYTES and self._is_within(path)
        except (OSError, ValueError):
            return False

    def _is_within(self, path: Path) -> bool:
        """True inside the project, links followed."""
        try:
            return self.root is not None and path.resolve().is_relative_to(self.root.resolve())
        except (OSError, RuntimeError):
            return False


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:
        return False


def _same_content(one: Path, other: Path) -> bool:
    try:
        return one.read_bytes() == other.read_bytes()
    except OSError:
        return False

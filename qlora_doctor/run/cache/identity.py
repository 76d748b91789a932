"""What makes files the same as before: the content of small ones, the header of weights, size and time of the rest."""

from __future__ import annotations

import hashlib
import os
import struct
from functools import lru_cache
from pathlib import Path
from typing import Any

from ...core.files import in_hub_cache
from ...setup.paths import resolve
from ...setup.setup import Setup

WHOLE = 1 << 20
"""Bytes up to which a file is known by its content alone."""
_HEADER = 100 << 20
"""Bytes that the header of a safetensors file has at most, by the format's own reader."""


def model_identity(name: str | None, revision: str | None, setup: Setup) -> dict[str, Any] | None:
    """The files of a model or an adapter, by name: of its folder, or of its place in the hub's cache.

    None where this machine has neither: what is then known of it comes from the bundled table, or from the hub.
    """
    if not name:
        return None
    folder = find(name, setup) or in_hub_cache(name, revision)
    if folder is None or not folder.is_dir():
        return None
    return {
        "folder": str(folder),
        "files": {path.name: _file(path) for path in sorted(folder.iterdir()) if path.is_file()},
    }


def data_identity(name: str | None, setup: Setup) -> dict[str, Any] | None:
    """The data's file, or the files of its folder; None where it is no path on this machine."""
    path = find(name, setup) if name else None
    if path is None:
        return None
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    return {"path": str(path), "files": {str(file.relative_to(path)): _file(file) for file in files}}


def find(name: str, setup: Setup) -> Path | None:
    """What a path in the config means, made absolute; None where there is nothing of that name."""
    found = resolve(setup, name)
    return found.resolve() if found is not None else None


def tree_identity(folder: Path) -> str:
    """A digest of names, sizes and times of the files below a folder."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.parent.name != "__pycache__":
            status = path.stat()
            name = path.relative_to(folder).as_posix()
            digest.update(f"{name}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _file(path: Path) -> str:
    status = path.stat()
    try:
        return _content(str(path), status.st_size, status.st_mtime_ns)
    except OSError as error:  # unreadable: the stage will say so, and may be allowed to tomorrow
        return f"{status.st_size} {status.st_mtime_ns} {error.errno}"


@lru_cache(maxsize=4096)
def _content(path: str, size: int, modified: int) -> str:
    """A small file's digest; of a large one its size, its time and the digest of what lies at its start and end.

    Weights are not read: nobody replaces some of them and keeps size, time and header as they were.
    """
    with Path(path).open("rb") as stream:
        if size <= WHOLE:
            return hashlib.sha256(stream.read()).hexdigest()
        if path.endswith(".safetensors"):
            (length,) = struct.unpack("<Q", stream.read(8))
            return f"{size} {modified} {hashlib.sha256(stream.read(min(length, _HEADER))).hexdigest()}"
        digest = hashlib.sha256(stream.read(WHOLE // 2))
        stream.seek(-WHOLE // 2, os.SEEK_END)
        digest.update(stream.read())
        return f"{size} {modified} {digest.hexdigest()}"

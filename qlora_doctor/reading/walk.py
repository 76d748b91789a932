"""A folder → the configs in it: by what the files hold, whatever they are called."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path

from ..core.errors import ConfigError
from .dialects import LEAST_SURE, dialect_named, recognise
from .document import MAX_BYTES, read_document
from .kinds import why_left_out

SUFFIXES = frozenset({".yaml", ".yml", ".json", ".toml", ".sh", ".bash", ".py", ".ipynb"})
DEFAULT_EXCLUDES = (
    *(".git", ".hg", ".svn", ".venv", "venv", ".tox", ".nox", "node_modules", "site-packages", "__pycache__"),
    *(".mypy_cache", ".ruff_cache", ".pytest_cache", ".ipynb_checkpoints", ".eggs", "*.egg-info", "wandb", "mlruns"),
)
"""Folders and files that no walk enters; what ``exclude`` names comes on top."""


@dataclass
class Walk:
    """What was found in a folder.

    Attributes:
        configs: the files that a dialect recognises, in the order of their paths.
        left_out: files that look like configs and are none that trains an adapter or a quantized base, with the reason.
        passed_over: how many other files with a config's ending are no config.
        unreadable: why files with a config's ending could not be read: nobody knows whether these are configs.
    """

    configs: list[Path] = field(default_factory=list)
    left_out: list[tuple[Path, str]] = field(default_factory=list)
    passed_over: int = 0
    unreadable: list[str] = field(default_factory=list)


def find_configs(
    folder: Path, *, exclude: Sequence[str] = (), base: Path | None = None, dialect: str | None = None
) -> Walk:
    """Walk a folder; links to folders are not followed.

    Args:
        exclude: globs of names, or of paths below the folder or below ``base``; a folder that fits is not entered.
        base: where paths in ``exclude`` may start as well, beside the folder: that of the settings.
        dialect: take files of this dialect only.

    Raises:
        UsageError: there is no dialect of this name.
    """
    chosen = dialect_named(dialect) if dialect is not None else None
    walk = Walk()
    for path in _files(folder, _Excluded(folder, (*DEFAULT_EXCLUDES, *exclude), base), walk):
        try:
            if path.stat().st_size > MAX_BYTES:
                walk.passed_over += 1  # data, not a config
                continue
            document = read_document(path)
        except ConfigError as error:
            walk.unreadable.append(error.message)
            continue
        except Exception as error:  # one hostile file is no reason to leave the others
            walk.unreadable.append(f"{path}: {getattr(error, 'strerror', None) or type(error).__name__}.")
            continue
        try:
            found, sure = (chosen, chosen.recognise(document)) if chosen is not None else recognise(document)
            why = why_left_out(document, found, sure, path.relative_to(folder)) if sure >= LEAST_SURE else None
        except ConfigError:
            walk.passed_over += 1
            continue
        except Exception as error:
            walk.unreadable.append(f"{path} cannot be recognised: {type(error).__name__}.")
            continue
        if why is not None:
            walk.left_out.append((path, why))
        elif sure >= LEAST_SURE:
            walk.configs.append(path)
        else:
            walk.passed_over += 1
    return walk


class _Excluded:
    """Tells what the walk leaves out."""

    def __init__(self, folder: Path, patterns: Sequence[str], base: Path | None) -> None:
        self._patterns = [pattern.replace("\\", "/").removeprefix("./").rstrip("/") for pattern in patterns]
        self._roots = [os.path.abspath(root) for root in (folder, base or folder, Path())]  # noqa: PTH100 (no links)

    def __call__(self, path: Path) -> bool:
        place = os.path.abspath(path)  # noqa: PTH100
        names = {path.name}
        for root in self._roots:
            if place.startswith(root.rstrip(os.sep) + os.sep):
                names.add(os.path.relpath(place, root).replace(os.sep, "/"))
        return any(fnmatch(name, pattern) for name in names for pattern in self._patterns)


def _files(folder: Path, excluded: _Excluded, walk: Walk) -> Iterator[Path]:
    def told(error: OSError) -> None:
        walk.unreadable.append(f"{error.filename} cannot be read: {error.strerror}.")

    for above, folders, files in os.walk(folder, onerror=told):
        folders[:] = sorted(name for name in folders if not excluded(Path(above, name)))
        for name in sorted(files):
            path = Path(above, name)
            if path.suffix.lower() in SUFFIXES and path.is_file() and not excluded(path):
                yield path

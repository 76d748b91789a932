"""A YAML that a script beside it reads: the fields of that script's own dataclasses, and the versions that it pins."""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Collection, Mapping
from functools import lru_cache
from pathlib import Path

from ..core.versions import version_tuple
from ..setup.setup import Asked
from .pins import asked_of, pins_in
from .python.neighbours import MOST_BYTES, Neighbours
from .python.newer import in_older_words

_PARSES = re.compile(r"\b(?:TrlParser|HfArgumentParser|H4ArgumentParser|parse_yaml_file|parse_yaml_config)\b")
_VERSION = re.compile(r"transformers (\d+(?:\.\d+)*)")
_SUBFOLDERS = (".", "scripts", "src")
_MOST_SCRIPTS = 24
_MOST_MODULES, _DEEPEST = 400, 4
LIBRARIES = ("trl", "transformers")


def own_fields(config: Path, keys: set[str]) -> set[str]:
    """Of these keys, those that a dataclass of a script beside the file declares, which its parser then knows.

    Args:
        config: the file; a script that takes its arguments from a YAML may stand in its folder or in one above.
        keys: what the file sets.
    """
    neighbours = Neighbours(config)
    found: set[str] = set()
    for script in _scripts(neighbours):
        try:
            text = script.read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        if _PARSES.search(text) is None:
            continue
        fields = set(_fields(text))
        for dotted in re.findall(r"^\s*from\s+([.\w]+)\s+import", text, re.MULTILINE)[:32]:
            module = neighbours.module(dotted, script)
            for path in _files_of(module) if module is not None else ():
                fields |= set(_fields(path.read_text(encoding="utf-8", errors="replace")))
        found |= fields & keys
    return found


def declared_by(config: Path, field: str, besides: Collection[str]) -> Path | None:
    """The module of the file's project that declares a field of this name in a dataclass: that project, and not the
    trainer whose keys they are elsewhere, reads the file.

    Args:
        besides: packages of the trainer itself, of which the project may be a clone.
    """
    root = Neighbours(config).root
    if root is None:
        return None
    found = _declaring(root, field)
    return None if any(set(path.parts) & set(besides) for path in found) else next(iter(found), None)


@lru_cache(maxsize=32)
def _declaring(root: Path, field: str) -> tuple[Path, ...]:
    """The modules below a folder with an annotated name like this in a dataclass, as far as the search goes."""
    wanted = re.compile(rf"^[ \t]+{field}[ \t]*:", re.MULTILINE)
    found: list[Path] = []
    seen = 0
    for folder, inner, names in os.walk(root):
        depth = len(Path(folder).relative_to(root).parts)
        inner[:] = [] if depth >= _DEEPEST else sorted(name for name in inner if not name.startswith("."))
        for name in sorted(names):
            path = Path(folder, name)
            if path.suffix != ".py":
                continue
            seen += 1
            if seen > _MOST_MODULES:
                return tuple(found)
            try:
                text = path.read_text(encoding="utf-8", errors="replace") if path.stat().st_size <= MOST_BYTES else ""
            except OSError:
                continue
            if wanted.search(text) is not None and field in _fields(text):
                found.append(path.relative_to(root))
    return tuple(found)


def _files_of(module: Path) -> list[Path]:
    """A module's file; of a package all of its files, whose classes its ``__init__.py`` hands on."""
    if module.name == "__init__.py" or module.is_dir():
        folder = module if module.is_dir() else module.parent
        return [path for path in sorted(folder.glob("*.py"))[:_MOST_SCRIPTS] if path.is_file()]
    return [module]


def _scripts(neighbours: Neighbours) -> list[Path]:
    found: list[Path] = []
    for folder in neighbours.folders:
        for name in _SUBFOLDERS:
            try:
                inner = sorted((folder / name).glob("*.py"))
            except OSError:
                continue
            found += [path for path in inner if path not in found and neighbours.may_read(path)]
    return found[:_MOST_SCRIPTS]


def _fields(text: str) -> list[str]:
    """The annotated names in the bodies of dataclasses."""
    for code in (text, None):
        try:
            tree = ast.parse(code if code is not None else in_older_words(text))
            break
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            continue
    else:
        return []
    classes = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    return [
        statement.target.id
        for owner in classes
        if any("dataclass" in ast.unparse(each) for each in owner.decorator_list)
        for statement in owner.body
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name)
    ]


def asked_beside(config: Path, names: tuple[str, ...] = LIBRARIES) -> dict[str, Asked]:
    """The versions of these packages that the project of a file pins."""
    return asked_of(pins_in(Neighbours(config).folders, names))


def may_be_newer(asked: Asked | None, known: str) -> bool:
    """Whether a project may bring a newer version than the one whose keys are known: of a commit nobody knows."""
    if asked is None:
        return False
    written = version_tuple(asked.exact or asked.below)
    limit = version_tuple(known)
    return written is None or limit is None or written > (*limit, 1)


def brings_older(config: Path, library: str, known: str) -> bool:
    """True where the project of a file pins a library that is older than the one known, or is of a range or a commit.

    Args:
        known: the oldest version that is known here.
    """
    pin = pins_in(Neighbours(config).folders, (library,)).get(library)
    if pin is None or not pin.bounded:
        return False
    pinned, limit = version_tuple(pin.exact), version_tuple(known)
    return pinned is None or limit is None or pinned < limit


def is_gone(since: str | None, note: str | None, asked: Mapping[str, Asked]) -> bool | None:
    """Whether a key that newer versions refuse is refused by those that are asked for, all of them; None where nothing
    is asked for.

    Args:
        since: the version of TRL without it.
        note: says the version of transformers, where it is a key of transformers.
    """
    of_transformers = _VERSION.search(note or "")
    pin = asked.get("transformers" if of_transformers is not None else "trl")
    if pin is None:
        return None
    known = _last_named(note) if of_transformers is not None or since is None else since
    version, limit = version_tuple(pin.exact or pin.at_least), version_tuple(known)
    return False if version is None or limit is None else version >= limit


def _last_named(note: str | None) -> str | None:
    """The last version that a sentence names: "renamed in 0.23 and removed in 0.27" → 0.27."""
    found = re.findall(r"\d+\.\d+(?:\.\d+)?", note or "")
    return found[-1] if found else None

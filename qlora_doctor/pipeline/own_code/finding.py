"""In which Python a config's trainer is installed; known by files alone, nothing runs."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from ...setup.setup import Setup

_COMMANDS = {"axolotl": ("axolotl",), "llamafactory": ("llamafactory-cli", "lmf"), "ms-swift": ("swift",)}
"""Dialect → the commands that its trainer installs."""
_DISTRIBUTIONS = {"axolotl": "axolotl", "llamafactory": "llamafactory", "ms-swift": "ms-swift"}
_PATH = 4096
"""Bytes of a command's file that its Python stands in."""


@dataclass(frozen=True)
class TrainerPython:
    """A Python that has a trainer.

    Attributes:
        trainer: the dialect's name.
        python: the interpreter's file.
        version: of the trainer; None where the files beside the interpreter do not tell.
        changed: when it was installed, in nanoseconds; 0 where the version is not known.
        asked: False where it may not be run without being named: it lies beside a config that may be a stranger's.
    """

    trainer: str
    python: str
    version: str | None = None
    changed: int = 0
    asked: bool = True


def find_trainer(setup: Setup, named: str | None = None) -> TrainerPython | None:
    """The Python whose trainer a config is for.

    In this order: the one that is named, this one, that of the trainer's command on PATH, of the active virtual or
    conda environment. One in the config's own folder is found and not asked: who checks a stranger's repository has
    not asked for what it brings to be run.

    Args:
        named: an interpreter, or the folder of an environment.
    """
    trainer = setup.traits.forms or ""
    if trainer not in _DISTRIBUTIONS:
        return None
    if named is not None:
        python = _interpreter(Path(named)) or named
        return _there(trainer, python) or TrainerPython(trainer, python)
    here = _here(trainer)
    if here is not None:
        return here
    commands = [found for name in _COMMANDS[trainer] if (found := shutil.which(name)) is not None]
    active = [folder for name in ("VIRTUAL_ENV", "CONDA_PREFIX") if (folder := os.environ.get(name))]
    pythons = [_of_command(Path(each)) for each in commands] + [_interpreter(Path(each)) for each in active]
    for each in pythons:
        there = _there(trainer, each) if each is not None else None
        if there is not None:
            return there
    return _beside(trainer, setup)


def _here(trainer: str) -> TrainerPython | None:
    try:
        version = importlib.metadata.version(_DISTRIBUTIONS[trainer])
    except importlib.metadata.PackageNotFoundError:
        return None
    return TrainerPython(trainer, sys.executable, version)


def _there(trainer: str, python: str) -> TrainerPython | None:
    """What the folders below an interpreter's prefix say; None where they have no such trainer."""
    prefix = Path(python).parent.parent
    name = _DISTRIBUTIONS[trainer].replace("-", "_")
    for pattern in ("lib/python3*/site-packages", "Lib/site-packages", "lib/python3*/dist-packages"):
        for folder in sorted(prefix.glob(pattern)):
            for found in sorted(folder.glob(f"{name}-*.dist-info")):
                version = found.name.removeprefix(f"{name}-").removesuffix(".dist-info")
                return TrainerPython(trainer, python, version, found.stat().st_mtime_ns)
    return None


def _beside(trainer: str, setup: Setup) -> TrainerPython | None:
    folder = Path(setup.file).resolve().parent if setup.file else Path()
    for name in (".venv", "venv"):
        python = _interpreter(folder / name)
        found = _there(trainer, python) if python is not None else None
        if found is not None:
            return TrainerPython(trainer, found.python, found.version, found.changed, asked=False)
    return None


def _interpreter(place: Path) -> str | None:
    """The interpreter of an environment's folder, or the file itself; not resolved, since its folder is what counts."""
    for each in (place, place / "bin" / "python", place / "bin" / "python3", place / "Scripts" / "python.exe",
                 place / "python.exe"):  # fmt: skip
        if each.is_file():
            return str(each.absolute())
    return None


def _of_command(command: Path) -> str | None:
    """The Python that a command of pip's is written for: its first line names it, or that of the shell which is asked
    where the path is too long for one; on Windows it lies beside."""
    command = command.resolve()  # uv and pipx link to it
    try:
        head = command.open("rb").read(_PATH).decode("utf-8", "replace").splitlines()
    except OSError:
        return None
    if head and head[0].startswith("#!"):
        words = head[0][2:].strip() if "python" in head[0] else " ".join(head[1:2]).partition("exec'")[2].strip()
        if words.startswith('"'):
            words = words[1:].partition('"')[0]
        found = _interpreter(Path(words.split(" -")[0].strip()))
        return found if found is not None and Path(found).is_absolute() else None
    return _interpreter(command.parent) or _interpreter(command.parent.parent)

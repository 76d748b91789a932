"""The commands of a project that start a config or a script by ``accelerate launch``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from ..setup.resolved import Resolved
from ..setup.setup import Origin, Setup
from .accelerate import LEFT_OPEN, config_named, says_something, with_launch
from .document import Document


class Launch(NamedTuple):
    """One command line with ``accelerate launch``.

    Attributes:
        file: where it stands.
        action: the path or module that it starts.
        options: the launcher's own.
        words: what follows.
    """

    file: Path
    action: str
    options: tuple[tuple[str, str], ...]
    words: tuple[str, ...]


def started_by_accelerate(setup: Setup, path: Path) -> Setup:
    """The setup of a config or a script as its project's own files start it by ``accelerate launch``, with a config of
    its own or with options alone.

    Where several of them start it in different ways, what they differ in stays unknown.
    """
    from .python.neighbours import Neighbours

    neighbours = Neighbours(path)
    script = neighbours.script
    if script is None:
        return setup
    made = []
    for launch in _launches(neighbours):
        if not _is_meant(launch, script, [launch.file.parent, *neighbours.folders]):
            continue
        options, folders = dict(launch.options), [launch.file.parent, *neighbours.folders]
        config = config_named(options.get("config_file"), folders)
        if config is None and "config_file" in options:
            continue
        if config is not None:
            config = Document(neighbours.shown(config.path or path), config.text, config.format, config.data)
        made.append(with_launch(setup, config, options, folders))
    if not made:
        return setup
    first = made[0]
    differing = {
        path
        for path in ("hardware.count", *LEFT_OPEN, "training.fsdp_config", "training.bf16", "training.fp16")
        if any(Resolved(other)[path] != Resolved(first)[path] for other in made)
    }
    why = Origin(source="unknown", note="The project starts it by several Accelerate configs.")
    return first.model_copy(update={"origins": {**first.origins, **dict.fromkeys(differing, why)}})


def _is_meant(launch: Launch, path: Path, folders: Sequence[Path]) -> bool:
    """True where a command starts this script, or hands it this config."""
    written = launch.action if launch.action.endswith(".py") else launch.action.replace(".", "/") + ".py"
    named = [written] if path.suffix == ".py" else [word.rpartition("=")[2] for word in launch.words]
    for name in named:
        if Path(name).name != path.name or any(sign in name for sign in "{<$*"):
            continue  # a placeholder that a reader fills in
        there = [folder / name for folder in folders if (folder / name).is_file()]
        if not there or any(each.resolve() == path.resolve() for each in there):
            return True
    return False


def _launches(neighbours: Any) -> Iterator[Launch]:
    from .python.starts import starters

    for file in starters(neighbours):
        try:
            state = file.stat()
        except OSError:
            continue
        yield from _launches_in(file, state.st_mtime_ns, state.st_size)


@lru_cache(maxsize=256)
def _launches_in(file: Path, changed: int, size: int) -> tuple[Launch, ...]:
    """The commands of one file; the configs of a folder share them."""
    from .dialects.shell import runs_in
    from .dialects.shell_launch import options_of
    from .python.starts import commands_in

    text = commands_in(file)
    if "accelerate" not in text:
        return ()
    found = []
    for run in runs_in(text):
        options = options_of(run.options)
        if run.launcher == "accelerate" and says_something(options):
            words = tuple(word.text for word in run.arguments if word.known)
            found.append(Launch(file, run.action, tuple(options.items()), words))
    return tuple(found)

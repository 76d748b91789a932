"""What is known of a run, written as it comes: one folder a run, two files for each training of each process.

``rank-0.4711.1.json`` holds the state and the facts so far and is replaced whole; ``rank-0.4711.1.jsonl`` holds what
the trainer logged, a line each time. What was written before a process is killed stays. Imports neither torch nor
pydantic: also the command that waits for the run reads with it.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..core.files import write_whole

OPTIONS = "options.json"
HEARD = "torch"
"""An empty file: a process of the run has imported torch within the watching."""


@dataclass(frozen=True)
class Options:
    """What the command line says to the processes of a run.

    Attributes:
        steps: optimizer steps that are looked at closely.
        stop_after: optimizer steps after which the training ends; None lets it go on.
        stop_file: where this file appears, the training ends; None looks for none.
        keep_outputs: after a save and at the end, keep what the model says to a few fixed tokens.
    """

    steps: int = 2
    stop_after: int | None = None
    stop_file: str | None = None
    keep_outputs: bool = True

    @classmethod
    def read(cls, folder: Path) -> Options:
        """The options of a run; the defaults where they cannot be read."""
        try:
            return cls(**json.loads((folder / OPTIONS).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return cls()

    def write(self, folder: Path) -> None:
        """Leave them for the processes of the run.

        Raises:
            OSError: they cannot be written.
        """
        write_whole(folder / OPTIONS, json.dumps(vars(self)).encode())


@dataclass
class Writer:
    """Writes what one training of this process gives. Never raises: what could not be written is reported once.

    Args:
        folder: of the run.
        name: of the files, without a suffix.
        tell: given one sentence where writing fails.
    """

    folder: Path
    name: str
    tell: Callable[[str], None]
    _failed: bool = False

    def state(self, document: Mapping[str, Any]) -> None:
        """Replace what is known."""
        text = json.dumps({**document, "updated": time.time()}, separators=(",", ":"), default=str)
        self._try(lambda: write_whole(self.folder / f"{self.name}.json", text.encode()))

    def line(self, record: Mapping[str, Any]) -> None:
        """Append one record of the series."""
        text = json.dumps(dict(record), separators=(",", ":"), default=str) + "\n"

        def append() -> None:
            with (self.folder / f"{self.name}.jsonl").open("a", encoding="utf-8") as file:
                file.write(text)

        self._try(append)

    def _try(self, write: Callable[[], object]) -> None:
        try:
            write()
        except OSError as error:
            if not self._failed:
                self._failed = True
                self.tell(f"{self.folder} cannot be written: {error.strerror or error}.")


@dataclass
class Training:
    """One training of one process, as it was written.

    Attributes:
        rank: of the process among those that train together.
        pid: of the process.
        number: of the training in its process, from 1.
        document: what was known last.
        series: what the trainer logged, in its order.
    """

    rank: int
    pid: int
    number: int
    document: dict[str, Any]
    series: list[dict[str, Any]] = field(default_factory=list)

    @property
    def facts(self) -> dict[str, Any]:
        """The facts as JSON has them."""
        found: dict[str, Any] = self.document.get("facts") or {}
        return found


def trainings(folder: Path) -> list[Training]:
    """Everything that was written, in the order in which it began; a file that is damaged is passed over."""
    found = []
    for path in folder.glob("rank-*.json"):
        try:
            rank, pid, number = path.stem.removeprefix("rank-").split(".")
            document = json.loads(path.read_text(encoding="utf-8"))
            found.append(Training(int(rank), int(pid), int(number), document, list(_lines(path.with_suffix(".jsonl")))))
        except (OSError, ValueError):
            continue
    return sorted(found, key=lambda each: (each.number, each.document.get("started") or 0.0, each.rank))


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """The records of a series; a last line that was cut off is left out."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError:
        return
    for line in text.splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict):
            yield record


def rank_of() -> tuple[int, int, int]:
    """Rank, world size and local rank, as launchers say them."""

    def number(*names: str, default: int) -> int:
        for name in names:
            text = os.environ.get(name, "")
            if text.isdecimal():
                return int(text)
        return default

    return number("RANK", default=0), number("WORLD_SIZE", default=1), number("LOCAL_RANK", default=0)

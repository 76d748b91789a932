"""A run that goes on, in one line: read from the records that its processes write."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..core.errors import UsageError
from ..core.files import write_whole
from ..watching.records import Training, trainings
from .watched import Ended, runs_folder

ENDED = "ended.json"
STARTED = "started.json"
_POLL = 0.5


def newest_run() -> Path:
    """The folder of the run that began last.

    Raises:
        UsageError: there is none.
    """
    folder = runs_folder()
    found = sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime) if folder.is_dir() else []
    if not found:
        raise UsageError(f"There is no run in {folder}.", remedy="qlora-doctor run -- python train.py")
    return found[-1]


def is_run(path: Path) -> bool:
    """Whether a folder holds the records of a run."""
    return path.is_dir() and (path / STARTED).is_file()


def note_start(folder: Path, command: list[str]) -> None:
    """Say who waits for the run.

    Raises:
        UsageError: it cannot be written.
    """
    try:
        write_whole(folder / STARTED, json.dumps({"pid": os.getpid(), "command": command}).encode())
    except OSError as error:
        raise UsageError(f"{folder} cannot be written: {error.strerror or error}.") from error


def note_end(folder: Path, ended: Ended) -> None:
    """Say how the run ended; a folder that is gone or full is no reason to fail."""
    try:
        write_whole(folder / ENDED, json.dumps({"code": ended.code, "aborted": ended.aborted}).encode())
    except OSError:
        return


def ended_of(folder: Path) -> Ended | None:
    """How a run ended; None where nobody has said so, or it goes on."""
    written = _read(folder / ENDED)
    return Ended(int(written["code"]), bool(written["aborted"])) if written else None


def command_of(folder: Path) -> list[str]:
    """The command of a run."""
    return [str(part) for part in _read(folder / STARTED).get("command", [])]


def follow(folder: Path) -> Iterator[str]:
    """The line of a run each time that it changes, until the run has ended."""
    last = ""
    while True:
        over = (folder / ENDED).exists() or not _is_alive(_read(folder / STARTED).get("pid"))
        line = line_of(trainings(folder))
        if line != last:
            last = line
            yield line
        if over:
            return
        time.sleep(_POLL)


def line_of(found: list[Training]) -> str:
    """Where the last training of a run is: steps, what it logged last, and what was found by now."""
    if not found:
        return "waiting for a training"
    number = max(each.number for each in found)
    first = min((each for each in found if each.number == number), key=lambda each: each.rank)
    run = first.facts.get("run") or {}
    latest: dict[str, Any] = {}
    for record in first.series:
        latest |= {name: value for name, value in record.items() if value is not None}
    step = max(int(latest.get("step") or 0), int(run.get("steps") or 0))
    of = run.get("max_steps")
    parts = [f"step {step:,}" + (f" of {of:,}" if isinstance(of, int) and of > 0 else "")]
    for name, label in (("loss", "loss"), ("eval_loss", "evaluation"), ("learning_rate", "rate"),
                        ("grad_norm", "gradient")):  # fmt: skip
        value = latest.get(name)
        if isinstance(value, (int, float)):
            parts.append(f"{label} {value:.4g}")
    seconds = _seconds_per_step(first.series)
    if seconds is not None:
        parts.append(f"{seconds:.3g} s a step")
    if isinstance(latest.get("allocated_bytes"), int):
        parts.append(f"{latest['allocated_bytes'] / 2**30:.3g} GiB")
    if (run.get("world_size") or 1) > 1:
        parts.append(f"{len({each.rank for each in found if each.number == number})} ranks")
    parts.append(str(run.get("ended") or first.document.get("state") or "running"))
    return " · ".join(parts)


def _seconds_per_step(series: list[dict[str, Any]]) -> float | None:
    """Over the last records that have both."""
    timed = [(r["step"], r["time"]) for r in series if isinstance(r.get("step"), int) and "time" in r][-8:]
    if len(timed) < 2 or timed[-1][0] <= timed[0][0]:
        return None
    return float((timed[-1][1] - timed[0][1]) / (timed[-1][0] - timed[0][0]))


def _is_alive(pid: Any) -> bool:
    if not isinstance(pid, int):
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # somebody else's process
        return True
    return True


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}

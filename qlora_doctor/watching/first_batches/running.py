"""The parent's side: starts the child, holds it to its bounds, tells in a sentence how it ended."""

from __future__ import annotations

import importlib
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ...core import confining
from .request import Outcome, RunData

_POLL = 0.2
_MOST_OUTPUT = 8000
"""Characters of what a script printed that are shown with --debug."""
_ENTRY = (
    "import sys; sys.path[:] = [p for p in sys.path if p] + [{parent!r}]; "
    "from qlora_doctor.watching.first_batches.child import main; main({folder!r})"
)
_ENVIRONMENT = {
    **confining.ENVIRONMENT, "WANDB_DISABLED": "true", "COMET_MODE": "disabled", "MLFLOW_TRACKING_URI": "",
    "ACCELERATE_USE_CPU": "true", "ACCELERATE_MIXED_PRECISION": "no", "MPLBACKEND": "Agg", "PYTHONUNBUFFERED": "1",
}  # fmt: skip
"""Besides what holds for all confined processes: no tracker, no window."""
_FRAME = re.compile(r'File "(?P<file>.+)", line (?P<line>\d+) in (?P<name>.+)')


def run_to_first_batches(request: RunData, progress: Callable[..., None]) -> Outcome:
    """Run a script up to its training and say what its first batches are.

    Never raises for what the script does: that is the outcome.
    """
    with tempfile.TemporaryDirectory(prefix="qlora-doctor-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        (folder / "request.json").write_text(request.model_dump_json(), encoding="utf-8")
        _adopt_orphans()
        before = {each.pid for each in _below()}
        code = f"{_ENTRY.format(parent=str(Path(__file__).resolve().parents[3]), folder=str(folder))}"
        with (folder / "output.txt").open("wb") as output:
            child = subprocess.Popen(
                [sys.executable, "-c", code],
                cwd=Path(request.script).resolve().parent,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=_environment(folder),
            )
            try:
                bound = _wait(child, request, progress)
            finally:
                _end_all(child, before)
        outcome = _outcome(folder, child.returncode, bound, request)
        if not outcome.drawn:
            sys.stderr.write(_output(folder)[-_MOST_OUTPUT:])
        return outcome


def _environment(folder: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in confining.LEFT_OUT}
    scratch = folder / "tmp"
    scratch.mkdir()
    return {**kept, **_ENVIRONMENT, "TMPDIR": str(scratch)}


def _wait(child: subprocess.Popen[bytes], request: RunData, progress: Callable[..., None]) -> str | None:
    """Wait for the end; ``time`` or ``memory`` where a bound ended it."""
    name = Path(request.script).name
    began = time.monotonic()
    told = -1
    while True:
        try:
            child.wait(_POLL)
            return None
        except subprocess.TimeoutExpired:
            pass
        passed = time.monotonic() - began
        if passed > request.seconds:
            return "time"
        if _resident(child.pid) > request.memory:
            return "memory"
        if int(passed) // 2 > told:
            told = int(passed) // 2
            progress(f"Running {name} up to its training", int(passed), None, "seconds")


def _resident(pid: int) -> int:
    """Bytes that a process and all that it started hold; 0 where nobody can tell."""
    total = 0
    for each in _below(pid):
        try:
            total += int(each.memory_info().rss)
        except Exception:  # it has ended meanwhile
            continue
    return total


def _below(pid: int | None = None) -> list[Any]:
    """A process and what it has started, and what that has; nothing where nobody can tell.

    Args:
        pid: of the process; None is this one.
    """
    try:
        process = importlib.import_module("psutil").Process(pid)  # accelerate brings it
        return [process, *process.children(recursive=True)]
    except Exception:  # psutil is missing, or a process has gone in between
        return []


def _adopt_orphans() -> None:
    """What the script leaves behind becomes this process's child, so that it can be ended (Linux)."""
    if sys.platform != "linux":
        return
    import ctypes

    try:
        ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER
    except (OSError, AttributeError):
        return


def _end_all(child: subprocess.Popen[bytes], before: set[int]) -> None:
    """End the child and whatever it started, also what has gone to the background; none that was there before."""
    left = [each for each in _below() if each.pid not in before and each.pid != child.pid]
    if child.poll() is None:
        child.kill()
    child.wait()
    for each in left:
        try:
            each.kill()
            os.waitpid(each.pid, 0)
        except Exception:  # it has ended meanwhile, or is not ours to wait for
            continue


# -- how it ended


def _outcome(folder: Path, code: int, bound: str | None, request: RunData) -> Outcome:
    found = []
    for path in sorted(folder.glob("outcome-*.json"), key=lambda path: path.stat().st_mtime_ns):
        try:
            found.append(Outcome.model_validate_json(path.read_text(encoding="utf-8")))
        except (OSError, ValueError):
            continue
    drawn = next((each for each in found if each.drawn), None)
    if drawn is not None:
        return drawn
    if bound == "time":
        return Outcome(
            reason=f"The script did not come to its training within {request.seconds:.0f} seconds"
            f"{_where_it_hung(folder, request)}.",
            remedy="Give it longer: --script-seconds.",
        )
    if bound == "memory":
        return Outcome(
            reason=f"The script took more than {request.memory / 2**30:.3g} GiB of memory before its training.",
            remedy="Give it more: --script-memory.",
        )
    if found:
        last = found[-1]
        words = _last_words(folder) if last.remedy is None and "exit code" in (last.reason or "") else None
        return last.model_copy(update={"remedy": words}) if words is not None else last
    return Outcome(reason=_ended_otherwise(folder, code), remedy=_last_words(folder))


def _ended_otherwise(folder: Path, code: int) -> str:
    if code < 0:
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"
        return f"The script's process was ended by {name} before its training."
    return f"The script ended its process (os._exit, exit code {code}) before it came to a training."


def _last_words(folder: Path) -> str | None:
    lines = [line for line in _output(folder).splitlines() if line.strip()]
    return f"Its last words were: {' '.join(lines[-1].split())[:300]}" if lines else None


def _output(folder: Path) -> str:
    try:
        return (folder / "output.txt").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _where_it_hung(folder: Path, request: RunData) -> str:
    """The innermost frame of the script's own folder that the dump of the stacks names."""
    try:
        text = (folder / "stacks.txt").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    own = str(Path(request.script).resolve().parent)
    for match in _FRAME.finditer(text):  # innermost first, in the thread that ran
        file = match["file"]
        if file.startswith(own) and "site-packages" not in file and "qlora_doctor" not in file:
            line = int(match["line"])
            cell = request.cells[line - 1] if request.cells and line <= len(request.cells) else None
            place = f"cell {cell}" if cell is not None else f"{Path(file).name}:{line}"
            inside = "" if match["name"].startswith("<") else f" in {match['name']}"
            return f"; it was{inside} at {place}"
    return ""

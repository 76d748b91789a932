"""A worker process as its parent sees it: started, given jobs, listened to, ended; imports nothing heavy."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections import deque
from pathlib import Path
from typing import IO

from ..core.processes import kill_group
from .job import Job

_TAIL = 200
"""Lines of the child's stderr that are kept for a reason."""
_GRACE = 5.0
_LOOK = "Run it again with --debug, which shows what the libraries print."
# As `python -m qlora_doctor.worker.worker`, with this very package, and without the working directory on the
# path: a folder of the user's called `datasets` must not stand in for the library.
_ENTRY = (
    "import sys; sys.path[:] = [p for p in sys.path if p] + [{parent!r}]; "
    "from qlora_doctor.worker.worker import main; main()"
)


class Reason:
    """Why a child ended before its work was done."""

    def __init__(self, kind: str, message: str, remedy: str | None = None) -> None:
        self.kind, self.message, self.remedy = kind, message, remedy


class WorkerProcess:
    """The child: its stdin keeps it alive and brings jobs, its stdout carries events, its stderr what libraries print.

    Lines of its stdout are put into ``inbox`` with the worker they came from; None says that it has ended.
    """

    def __init__(
        self,
        inbox: queue.Queue[tuple[WorkerProcess, bytes | None]],
        *,
        offline: bool = False,
        debug: bool = False,
        threads: int | None = None,
    ) -> None:
        self._inbox, self._debug = inbox, debug
        self._oom_kills = 0
        self._tail: deque[str] = deque(maxlen=_TAIL)
        self._scratch = _scratch_folder()
        self._process = subprocess.Popen(
            [sys.executable, "-c", _ENTRY.format(parent=str(Path(__file__).resolve().parents[2]))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=self._environment(offline, threads),
            # Its own process group: Ctrl-C goes to the parent, which ends the child and all that the child started.
            start_new_session=True,
        )
        self._threads = [
            threading.Thread(target=self._read_events, daemon=True),
            threading.Thread(target=self._read_stderr, daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    @property
    def lives(self) -> bool:
        """Whether the process still runs."""
        return self._process.poll() is None

    def give(self, job: Job) -> None:
        """Hand it a job; one at a time."""
        self._oom_kills = _oom_kills()
        try:
            stdin = _stream(self._process.stdin)
            stdin.write(job.line())
            stdin.flush()  # and it stays open: its end tells the child that the parent is gone
        except BrokenPipeError:
            pass  # the child died at once; its exit code says why

    def note(self, line: bytes) -> None:
        """Keep a line that was no event."""
        self._tail.append(line.decode(errors="replace").rstrip())

    def why_it_ended(self) -> Reason:
        """The reason for the stages that it did not finish."""
        try:
            code = self._process.wait(_GRACE)
        except subprocess.TimeoutExpired:
            return Reason("other", "The child process closed its pipe and did not end.")
        if code == -getattr(signal, "SIGKILL", 9):
            if _oom_kills() > self._oom_kills:
                return Reason(
                    "host-out-of-memory",
                    "The system ran out of host memory and killed the child process.",
                    "Check on a machine with more memory, or fewer configs at a time with --jobs.",
                )
            return Reason(
                "killed",
                "The child process was killed (SIGKILL), by the system or by somebody.",
                "Look into the system's log for who killed it (dmesg, the container's events); often memory is short.",
            )
        self._threads[1].join(_GRACE)  # its last words may still be under way
        if code < 0:
            return Reason(
                "killed", f"The child process ended by signal {_signal_name(-code)}.", self._last_words() or _LOOK
            )
        return Reason("other", f"The child process ended with exit code {code}.", self._last_words() or _LOOK)

    def end(self) -> None:
        """End the child and all that it started, and reap it."""
        if self._process.poll() is None:
            kill_group(self._process)
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            try:
                _stream(stream).close()
            except OSError:
                continue
        for thread in self._threads:
            thread.join(_GRACE)
        if self._scratch is not None:
            self._scratch.cleanup()

    def _environment(self, offline: bool, threads: int | None) -> dict[str, str]:
        environment = {
            **os.environ,
            "PYTHONUNBUFFERED": "1",
            **({"TMPDIR": self._scratch.name} if self._scratch is not None else {}),
            "TOKENIZERS_PARALLELISM": os.environ.get("TOKENIZERS_PARALLELISM", "false"),
        }
        if offline:
            environment |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
        if threads is not None:
            environment.setdefault("OMP_NUM_THREADS", str(threads))
        return environment

    def _last_words(self) -> str | None:
        words = [line for line in self._tail if line.strip()]
        return f"Its last words were: {words[-1].strip()[:300]}" if words else None

    def _read_events(self) -> None:
        try:
            for line in _stream(self._process.stdout):
                self._inbox.put((self, line))
        except ValueError:
            pass  # closed by end()
        self._inbox.put((self, None))

    def _read_stderr(self) -> None:
        for raw in _stream(self._process.stderr):
            line = raw.decode(errors="replace")
            self._tail.append(line.rstrip("\n"))
            if self._debug:
                sys.stderr.write(line)


def _scratch_folder() -> tempfile.TemporaryDirectory[str] | None:
    """Where the child keeps temporary files: they go with it, also when it is killed."""
    try:
        return tempfile.TemporaryDirectory(prefix="qlora-doctor-", ignore_cleanup_errors=True)
    except OSError:
        return None


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)


def _oom_kills() -> int:
    """How often the kernel has killed for want of memory: in this container, or on the whole machine."""
    for file in (Path("/sys/fs/cgroup/memory.events"), Path("/proc/vmstat")):
        try:
            for line in file.read_text().splitlines():
                if line.startswith("oom_kill "):
                    return int(line.split()[1])
        except (OSError, ValueError, IndexError):
            continue
    return 0


def _stream(stream: IO[bytes] | None) -> IO[bytes]:
    assert stream is not None  # Popen was given pipes
    return stream

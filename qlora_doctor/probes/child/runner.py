"""Run the stages on a built model in a child process, and tell what it tells; imports nothing heavy.

A child, because a real load can be killed, hang or take the device down with it: the parent outlives it, says which
stage was under way and why it ended, and keeps what was learned before.
"""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from ...config.setup import Setup
from ...facts import Facts, LoadFacts, ModelFacts, StepFacts
from ...facts.load import LoadFailure
from ...report import StageRecord
from .events import End, Event, Learned, Progress, Start, decode
from .job import Job

_TAIL = 200
"""Lines of the child's stderr that are kept for a reason."""
_GRACE = 5.0
# As `python -m qlora_doctor.probes.child.worker`, with this very package, and without the working directory on the
# path: a folder of the user's called `datasets` must not stand in for the library.
_ENTRY = (
    "import sys; sys.path[:] = [p for p in sys.path if p] + [{parent!r}]; "
    "from qlora_doctor.probes.child.worker import main; main()"
)


def run_stages(
    setup: Setup,
    stages: Sequence[str],
    *,
    device: str | None = None,
    timeout: float | None = None,
    offline: bool = False,
    trust_remote_code: bool = False,
    requested: Sequence[str] | None = None,
    facts: Facts | None = None,
    debug: bool = False,
) -> Iterator[Event]:
    """Run stages in one child process and yield its events; every stage of ``stages`` gets its ``End``.

    Args:
        timeout: seconds that all stages may take together; None is no limit.
        requested: stages asked for by name: on a CPU they run however long they take.
        facts: what is known already.
        debug: pass the child's stderr on as it comes.

    Closing the iterator, or an exception in its consumer (Ctrl-C), ends the child.
    """
    job = Job(
        setup=setup,
        stages=tuple(stages),
        device=device,
        offline=offline,
        trust_remote_code=trust_remote_code,
        requested=tuple(requested) if requested is not None else None,
        facts=facts or Facts(),
    )
    child = _Child(job, debug=debug)
    watch = _Watch(stages)
    try:
        for event in child.events(timeout):
            watch.see(event)
            yield event
        reason = child.why_it_ended(timeout)
        yield from watch.unfinished(reason)
    finally:
        child.end()


class _Reason:
    """Why a child ended before its work was done."""

    def __init__(self, kind: str, message: str, remedy: str | None = None) -> None:
        self.kind, self.message, self.remedy = kind, message, remedy


class _Child:
    """The worker process: its stdin keeps it alive, its stdout carries events, its stderr what libraries print."""

    def __init__(self, job: Job, *, debug: bool) -> None:
        self._debug = debug
        self._began = time.monotonic()
        self._oom_kills = _oom_kills()
        self._timed_out = False
        self.tail: deque[str] = deque(maxlen=_TAIL)
        self._scratch = _scratch_folder()
        environment = {
            **os.environ,
            "PYTHONUNBUFFERED": "1",
            **({"TMPDIR": self._scratch.name} if self._scratch is not None else {}),
            "TOKENIZERS_PARALLELISM": os.environ.get("TOKENIZERS_PARALLELISM", "false"),
        }
        if job.offline:
            environment |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
        self._process = subprocess.Popen(
            [sys.executable, "-c", _ENTRY.format(parent=str(Path(__file__).resolve().parents[3]))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            # Its own process group: Ctrl-C goes to the parent, which ends the child and all that the child started.
            start_new_session=True,
        )
        self._lines: queue.Queue[bytes | None] = queue.Queue()
        self._threads = [
            threading.Thread(target=self._read_events, daemon=True),
            threading.Thread(target=self._read_stderr, daemon=True),
        ]
        for thread in self._threads:
            thread.start()
        try:
            stdin = _stream(self._process.stdin)
            stdin.write(job.model_dump_json().encode() + b"\n")
            stdin.flush()  # and it stays open: its end tells the child that the parent is gone
        except BrokenPipeError:
            pass  # the child died at once; its exit code says why

    def events(self, timeout: float | None) -> Iterator[Event]:
        """Events until the child ends, or its time is up."""
        while True:
            left = None if timeout is None else timeout - (time.monotonic() - self._began)
            if left is not None and left <= 0:
                self._timed_out = True
                return
            try:
                line = self._lines.get(timeout=left)
            except queue.Empty:
                continue
            if line is None:
                return
            try:
                yield decode(line)
            except ValueError:
                self.tail.append(line.decode(errors="replace").rstrip())

    def why_it_ended(self, timeout: float | None) -> _Reason:
        """The reason for those stages that the child did not finish."""
        if self._timed_out:
            return _Reason("timeout", f"It took longer than {timeout:g} s.", "Allow more time with --timeout.")
        try:
            code = self._process.wait(_GRACE)
        except subprocess.TimeoutExpired:
            return _Reason("other", "The child process closed its pipe and did not end.")
        if code == -getattr(signal, "SIGKILL", 9):
            if _oom_kills() > self._oom_kills:
                return _Reason(
                    "host-out-of-memory",
                    "The system ran out of host memory and killed the child process.",
                    "Check on a machine with more memory.",
                )
            return _Reason("killed", "The child process was killed (SIGKILL), by the system or by somebody.", None)
        if code < 0:
            return _Reason("killed", f"The child process ended by signal {_signal_name(-code)}.", self._last_words())
        return _Reason("other", f"The child process ended with exit code {code}.", self._last_words())

    def end(self) -> None:
        """End the child and all that it started, and reap it."""
        if self._process.poll() is None:
            _kill_group(self._process)
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

    def _last_words(self) -> str | None:
        words = [line for line in self.tail if line.strip()]
        return f"Its last words were: {words[-1].strip()[:300]}" if words else None

    def _read_events(self) -> None:
        try:
            for line in _stream(self._process.stdout):
                self._lines.put(line)
        except ValueError:
            pass  # closed by end()
        self._lines.put(None)

    def _read_stderr(self) -> None:
        for raw in _stream(self._process.stderr):
            line = raw.decode(errors="replace")
            self.tail.append(line.rstrip("\n"))
            if self._debug:
                sys.stderr.write(line)


class _Watch:
    """Which stages ended, which was under way, and what is known of it."""

    def __init__(self, stages: Sequence[str]) -> None:
        self._open = list(stages)
        self._running: str | None = None
        self._began = time.monotonic()
        self._facts: dict[str, Any] = {}
        self._doing: str | None = None

    def see(self, event: Event) -> None:
        if isinstance(event, Start):
            self._running, self._began, self._doing = event.name, time.monotonic(), None
        elif isinstance(event, Progress):
            self._doing = event.text
        elif isinstance(event, Learned):
            self._facts[event.subject] = event.value
        else:
            self._open = [name for name in self._open if name != event.record.name]
            self._running = None if self._running == event.record.name else self._running

    def unfinished(self, reason: _Reason) -> Iterator[Event]:
        """Ends for the stages that have none: the one under way failed, those after it were not reached."""
        failed = self._running or (self._open[0] if self._open else None)
        for name in self._open:
            if name != failed:
                why = f"Stage {failed} ended the child process before it."
                yield End(record=StageRecord(name=name, status="skipped", reason=why))
                continue
            doing = f" It was busy with: {self._doing[:1].lower()}{self._doing[1:]}." if self._doing else ""
            yield from self._failure(name, LoadFailure(kind=reason.kind, message=reason.message, phase=None))
            yield End(
                record=StageRecord(
                    name=name,
                    status="failed",
                    reason=f"{reason.message}{doing}",
                    remedy=reason.remedy,
                    seconds=time.monotonic() - self._began,
                )
            )

    def _failure(self, stage: str, failure: LoadFailure) -> Iterator[Event]:
        """The failure as a fact, together with what the stage had told before."""
        if stage == "load":
            known = self._facts.get("load") or LoadFacts()
            yield Learned(subject="load", value=known.model_copy(update={"failure": failure}))
        elif stage == "step":
            step = self._facts.get("step") or StepFacts()
            yield Learned(subject="step", value=step.model_copy(update={"failure": failure}))
        elif stage == "structure" and "model" not in self._facts:
            yield Learned(subject="model", value=ModelFacts(build_error=failure.message, build_error_kind=failure.kind))


def _scratch_folder() -> tempfile.TemporaryDirectory[str] | None:
    """Where the child keeps temporary files: they go with it, also when it is killed."""
    try:
        return tempfile.TemporaryDirectory(prefix="qlora-doctor-", ignore_cleanup_errors=True)
    except OSError:
        return None


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except (AttributeError, ProcessLookupError, PermissionError):
        process.kill()


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

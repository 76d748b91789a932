"""Progress on stderr: one line that moves for a person, plain lines for a log; begun before anything heavy is read."""

from __future__ import annotations

import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import click

from ..run.observer import Observer
from ._terminal import is_terminal, one_line, show

if TYPE_CHECKING:
    from ..core.report import Finding, StageRecord
    from ..setup.setup import Setup
    from ._stream import TextStream

PATIENCE = 10.0
"""Seconds of silence after which a log shows that the command is still at work."""


class Told(Observer):
    """Hands what becomes known to ``document``, where there is one; shows nothing else."""

    def __init__(self) -> None:
        self.document: TextStream | None = None

    def on_setup(self, setup: Setup) -> None:
        """Pass it on."""
        if self.document is not None:
            self.document.on_setup(setup)

    def on_findings(self, findings: Sequence[Finding]) -> None:
        """Pass them on."""
        if self.document is not None:
            self.document.on_findings(findings)

    def on_end_of(self, text: str, how: str) -> None:
        """One of several has ended: which, and how."""

    def room(self) -> AbstractContextManager[Any]:
        """Nothing moves on the screen within; for what others write there."""
        return nullcontext()

    def close(self) -> None:
        """The work is over: nothing is left on the screen."""

    def __enter__(self) -> Told:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Alive(Told):
    """Has a pulse: what is under way, and since when, is shown again while nothing new is taken.

    Args:
        text: what is under way before the first stage.
        every: seconds between two beats.
        clock: tells the time, in seconds.
    """

    def __init__(self, text: str, every: float, clock: Callable[[], float]) -> None:
        super().__init__()
        self._stage, self._what, self._clock = "", text, clock
        self._since = clock()
        self._lock = threading.RLock()
        self._ended = threading.Event()
        self._every = every
        self._pulse = threading.Thread(target=self._run, daemon=True, name="progress")

    def beat(self) -> None:
        """Show that the work goes on."""
        raise NotImplementedError

    def on_part(self, text: str) -> None:
        """Show it."""
        self._begin("", text)

    def on_stage_start(self, name: str) -> None:
        """Show it."""
        self._begin(name, "")

    def on_progress(self, text: str, done: int | None, total: int | None, unit: str | None) -> None:
        """Note how far it is."""
        with self._lock:
            self._what = describe(text, done, total, unit)

    def close(self) -> None:
        """Stop."""
        self._ended.set()
        if self._pulse.is_alive():
            self._pulse.join()

    def _begin(self, stage: str, what: str) -> None:
        with self._lock:
            self._stage, self._what, self._since = stage, one_line(what, 120), self._clock()

    def _doing(self) -> str:
        return ": ".join(part for part in (self._stage, self._what) if part) or "at work"

    def _waited(self) -> str:
        return f"{self._clock() - self._since:.0f} s"

    def _run(self) -> None:
        while not self._ended.wait(self._every):
            self.beat()


class Lines(_Alive):
    """Plain lines, for a log: each part and stage once, and a word every ten seconds where one takes long."""

    def __init__(self, text: str, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(text, 1.0, clock)
        self._last = clock()
        self._say(f"{self._doing()} …")
        self._pulse.start()

    def beat(self) -> None:
        """Say that it goes on, not more often than a reader of logs wants."""
        with self._lock:
            if self._clock() - self._last >= PATIENCE:
                self._last = self._clock()
                show(f"still {self._doing()} ({self._waited()})", err=True)

    def on_known(self, text: str) -> None:
        """Say it at once: what follows may take minutes, or be ended."""
        self._say(one_line(text))

    def on_stage(self, record: StageRecord) -> None:
        """Say how it ended; what was not asked for goes without saying."""
        if record.status != "skipped" or record.requested:
            took = f" ({record.seconds:.1f} s)" if record.seconds is not None else ""
            took = " (known from before)" if record.cached else took
            reason = f": {one_line(record.reason)}" if record.reason else ""
            self._say(f"{record.name} {record.status}{took}{reason}")

    def on_trouble(self, text: str) -> None:
        """Say it."""
        self._say(f"note: {one_line(text)}")

    def on_end_of(self, text: str, how: str) -> None:
        """Say it."""
        self._say(f"{one_line(text)}: {how}")

    def _begin(self, stage: str, what: str) -> None:
        super()._begin(stage, what)
        self._say(f"{self._doing()} …")

    def _say(self, line: str) -> None:
        with self._lock:
            self._last = self._clock()
            click.echo(line, err=True)


class Moving(_Alive):
    """One line that moves, and goes when there is something to read."""

    def __init__(self, text: str, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(text, 0.125, clock)
        unicode = (sys.stderr.encoding or "").lower().startswith("utf")
        self._frames, self._frame = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏" if unicode else "|/-\\", 0
        self.beat()
        self._pulse.start()

    def beat(self) -> None:
        """Draw the line again, its end cut off where the screen ends."""
        with self._lock:
            self._frame = (self._frame + 1) % len(self._frames)
            line = f"{self._frames[self._frame]} {self._doing()} · {self._waited()}"
            line = line[: shutil.get_terminal_size().columns - 1]
            # Without wrapping, for characters that are two columns wide.
            click.echo(f"\r\x1b[K\x1b[?7l{line}\x1b[?7h\r", nl=False, err=True, color=True)

    def on_known(self, text: str) -> None:
        """Say it above the line."""
        with self.room():
            click.echo(one_line(text), err=True)

    def on_setup(self, setup: Setup) -> None:
        """Make room for it."""
        with self.room():
            super().on_setup(setup)

    def on_findings(self, findings: Sequence[Finding]) -> None:
        """Make room for them."""
        with self.room():
            super().on_findings(findings)

    def on_trouble(self, text: str) -> None:
        """Say it above the line."""
        with self.room():
            click.echo(f"note: {one_line(text)}", err=True)

    def on_end_of(self, text: str, how: str) -> None:
        """Show it."""
        self._begin("", text)

    @contextmanager
    def room(self) -> Iterator[None]:
        """The line is gone within."""
        with self._lock:
            click.echo("\r\x1b[K", nl=False, err=True, color=True)
            yield

    def close(self) -> None:
        """Leave the screen as it was."""
        if not self._ended.is_set():
            super().close()
            with self.room():
                pass

    def _begin(self, stage: str, what: str) -> None:
        with self._lock:
            super()._begin(stage, what)
            self.beat()


def progress(text: str, *, quiet: bool) -> Told:
    """What fits where stderr goes; ``text``, what is under way, stands there at once."""
    if quiet:
        return Told()
    return Moving(text) if is_terminal(sys.stderr) else Lines(text)


def describe(text: str, done: int | None, total: int | None, unit: str | None) -> str:
    """``loading 3.1 of 13.5 GiB``, ``attaching 96 of 224 modules``."""
    text = one_line(text, 120)
    if done is None:
        return text
    if unit == "bytes":
        amount = f"{done / 2**30:.1f}" + (f" of {total / 2**30:.1f}" if total else "") + " GiB"
    else:
        amount = f"{done:,}" + (f" of {total:,}" if total else "") + (f" {unit}" if unit else "")
    return f"{text} {amount}".strip()

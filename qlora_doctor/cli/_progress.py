"""Progress on stderr: a spinner for a person, plain lines for a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from ..core.report import Finding, StageRecord
from ..run.session import Observer
from ._terminal import is_terminal, one_line

if TYPE_CHECKING:
    from ..setup.setup import Setup
    from ._stream import TextStream

_PATIENCE = 10.0
"""Seconds after which a stage says that it is still at work."""


class Told(Observer):
    """Hands what becomes known to the document; shows nothing else."""

    def __init__(self, document: TextStream | None = None) -> None:
        self._document = document

    def on_setup(self, setup: Setup) -> None:
        """Pass it on."""
        if self._document is not None:
            self._document.on_setup(setup)

    def on_findings(self, findings: Sequence[Finding]) -> None:
        """Pass them on."""
        if self._document is not None:
            self._document.on_findings(findings)

    def on_trouble(self, text: str) -> None:
        """Say it, where anything but the document is said."""

    def close(self) -> None:
        """Nothing is left on the screen."""


class Lines(Told):
    """Plain lines, for a log: each stage once, and a word every ten seconds where one takes long."""

    def __init__(self, document: TextStream | None = None) -> None:
        super().__init__(document)
        self._last = time.monotonic()

    def on_stage_start(self, name: str) -> None:
        """Say that it begins."""
        self._say(f"{name} …")

    def on_progress(self, text: str, done: int | None, total: int | None, unit: str | None) -> None:
        """Say how far it is, not more often than a reader of logs wants."""
        if time.monotonic() - self._last >= _PATIENCE:
            self._say(f"still {describe(text, done, total, unit)}")

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

    def _say(self, line: str) -> None:
        self._last = time.monotonic()
        click.echo(line, err=True)


class Spinner(Told):
    """One line that moves, and goes when there is something to read."""

    def __init__(self, document: TextStream | None = None, *, color: bool = True) -> None:
        super().__init__(document)
        from rich.console import Console  # lazy: half of the start-up of a check that shows no spinner
        from rich.live import Live
        from rich.spinner import Spinner as Dots

        self._stage = self._what = ""
        self._since = time.monotonic()
        self._dots = Dots("dots")
        console = Console(stderr=True, no_color=not color, highlight=False)
        self._live = Live(get_renderable=self._line, console=console, transient=True, refresh_per_second=8)

    def _line(self) -> Any:
        waited = time.monotonic() - self._since
        still = f" · still at it, {waited:.0f} s" if waited > _PATIENCE else ""
        self._dots.update(text=_plain(f"{self._stage}{': ' + self._what if self._what else ''}{still}"))
        return self._dots

    def on_stage_start(self, name: str) -> None:
        """Spin for it."""
        self._stage, self._what, self._since = name, "", time.monotonic()
        self._live.start()

    def on_progress(self, text: str, done: int | None, total: int | None, unit: str | None) -> None:
        """Show how far it is."""
        self._what = describe(text, done, total, unit)

    def on_known(self, text: str) -> None:
        """Say it above the spinner."""
        self._live.stop()
        click.echo(one_line(text), err=True)
        self._live.start()

    def on_stage(self, record: StageRecord) -> None:
        """Stop; the document tells how it ended."""
        self._live.stop()

    def on_findings(self, findings: Sequence[Finding]) -> None:
        """Make room for them."""
        running = self._live.is_started
        self._live.stop()
        super().on_findings(findings)
        if running:
            self._live.start()

    def on_trouble(self, text: str) -> None:
        """Say it above the spinner."""
        self._live.stop()
        click.echo(f"note: {one_line(text)}", err=True)

    def close(self) -> None:
        """Leave the screen as it was."""
        self._live.stop()


def observer(document: TextStream | None, *, quiet: bool, color: bool) -> Told:
    """The observer that fits where stderr goes."""
    if quiet:
        return Told(document)
    if is_terminal(sys.stderr):
        return Spinner(document, color=color)
    return Lines(document)


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


def _plain(text: str) -> Any:
    from rich.text import Text

    return Text(text, no_wrap=True, overflow="ellipsis")

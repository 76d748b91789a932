"""Several configs in a terminal: each one's text in one piece and in order, however they end."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..core.errors import ConfigError, DoctorError
from ..core.report import Finding, Report
from ..run.observer import Observer
from ._stream import TextStream
from ._terminal import one_line, show_error

if TYPE_CHECKING:
    from ..run.many import Result
    from ..run.session import CheckOptions
    from ..setup.setup import Setup
    from ._progress import Told
    from ._shown import Shown


def check_all(
    sources: Sequence[Path],
    options: Sequence[CheckOptions | ConfigError],
    jobs: int | None,
    shown: Shown,
    watcher: Told,
) -> dict[int, Report | DoctorError]:
    """Check configs and write the text document, where that is the format; results by the number of their source.

    Args:
        options: of each config, or why its settings cannot be read.
        jobs: workers at most; None takes as many as processors and memory allow.
        watcher: shows which have ended.
    """
    from ..run.many import check_many

    documents = _Documents(sources, shown, watcher)
    entries = list(zip(sources, options, documents.observers, strict=True))
    try:
        return check_many(entries, jobs=jobs, finished=documents.finished)
    finally:
        documents.close()


class _Held(Observer):
    """Keeps one config's part of the document until it is its turn."""

    def __init__(self, watcher: Told) -> None:
        self._watcher = watcher
        self._document: TextStream | None = None
        self._setup: Setup | None = None
        self._findings: list[Finding] = []

    def write_to(self, document: TextStream) -> None:
        """It is its turn: write what is known, and from now on what becomes known."""
        self._document = document
        if self._setup is not None:
            document.on_setup(self._setup)
        document.on_findings(self._findings)

    def on_setup(self, setup: Setup) -> None:
        """Keep it, or pass it on."""
        self._setup = setup
        if self._document is not None:
            with self._watcher.room():
                self._document.on_setup(setup)

    def on_findings(self, findings: Sequence[Finding]) -> None:
        """Keep them, or pass them on."""
        self._findings += findings
        if self._document is not None:
            with self._watcher.room():
                self._document.on_findings(findings)

    def on_trouble(self, text: str) -> None:
        """Not a part of the document."""
        with self._watcher.room():
            click.echo(f"note: {one_line(text)}", err=True)


class _Documents:
    """Writes documents in the order of the configs, and progress as it comes."""

    def __init__(self, sources: Sequence[Path], shown: Shown, watcher: Told) -> None:
        self.observers = [_Held(watcher) for _ in sources]
        self._sources, self._shown, self._watcher = sources, shown, watcher
        self._results: dict[int, Result] = {}
        self._head = -1
        self._document: TextStream | None = None
        self._open_next()

    def finished(self, number: int, result: Result) -> None:
        """A config has its result."""
        self._results[number] = result
        self._tell_progress(number, result)
        with self._watcher.room():
            while self._head in self._results:
                self._write(self._head, self._results[self._head])
                self._open_next()

    def close(self) -> None:
        """Write what came to an end behind one that did not."""
        with self._watcher.room():
            for number in sorted(self._results):
                if number >= self._head:
                    self._head = number
                    self._open()
                    self._write(number, self._results[number])

    def _open_next(self) -> None:
        self._head += 1
        self._open()

    def _open(self) -> None:
        if self._shown.format != "text" or self._head >= len(self.observers):
            return
        self._document = TextStream(color=self._shown.color())
        self.observers[self._head].write_to(self._document)

    def _write(self, number: int, result: Result) -> None:
        if isinstance(result, DoctorError):
            show_error(result, no_color=self._shown.no_color)
        elif self._document is not None:
            self._document.end(result)
            click.echo()

    def _tell_progress(self, number: int, result: Result) -> None:
        count = f"[{len(self._results)}/{len(self._sources)}]"
        self._watcher.on_end_of(f"{count} {one_line(str(self._sources[number]), 200)}", _told(result))


def _told(result: Result) -> str:
    if isinstance(result, DoctorError):
        return "not read" if isinstance(result, ConfigError) else "failed"
    parts = []
    for record in result.stages:
        if record.status == "done":
            parts.append(f"{record.name} {'known' if record.cached else f'{record.seconds or 0:.1f} s'}")
        elif record.status == "failed":
            parts.append(f"{record.name} failed")
    return ", ".join(parts)

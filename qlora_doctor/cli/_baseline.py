"""``--baseline FILE``: what was known before does not count; ``--write-baseline`` and ``--prune-baseline`` keep it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..core.errors import UsageError
from ..run.outputs import write_file

if TYPE_CHECKING:
    from ..core.report import Report
    from ..engine.baseline import Baseline
    from ..engine.suppression import Suppression


class KnownFindings:
    """The baseline of one command, or none.

    Raises:
        UsageError: it is to be written, and no file is named.
    """

    def __init__(self, baseline: Path | None, *, write: bool, prune: bool) -> None:
        self._path, self._write, self._prune = baseline, write, prune
        if self._path is None and (self._write or self._prune):
            raise UsageError("The baseline's file is not named.", remedy="--baseline qlora-doctor-baseline.json")
        self._before = self._read()

    def _read(self) -> Baseline | None:
        if self._path is None or (self._write and not self._path.exists()):
            return None
        from ..engine.baseline import read_baseline

        return read_baseline(self._path)

    def suppressions(self) -> tuple[Suppression, ...]:
        """What does not count; nothing while a baseline is being written."""
        if self._before is None or self._path is None or self._write:
            return ()
        from ..engine.baseline import suppressions_of

        return tuple(suppressions_of(self._before, self._path))

    def end(self, reports: Sequence[Report], *, quiet: bool) -> None:
        """Write the file where that was asked for, and tell which entries are stale."""
        if self._path is None:
            return
        from ..engine.baseline import baseline_of, pruned, stale_entries, text_of

        if self._write:
            baseline = baseline_of(reports, self._before)
            write_file(self._path, text_of(baseline))
            if not quiet:
                click.echo(f"wrote {self._path}: {len(baseline.findings)} known", err=True)
            return
        assert self._before is not None
        stale = stale_entries(self._before, reports)
        if self._prune and stale:
            write_file(self._path, text_of(pruned(self._before, reports)))
        for entry in () if quiet else stale:
            verb = "removed" if self._prune else "stale, --prune-baseline removes it"
            click.echo(f"{self._path}: {entry.rule} {entry.name} in {entry.file} is no longer found: {verb}", err=True)

    def exit_code(self, reports: Sequence[Report]) -> int:
        """That of the reports; what has just been written down as known is no new finding."""
        codes = [report.exit_code for report in reports]
        return max(0 if self._write and code == 1 else code for code in codes)

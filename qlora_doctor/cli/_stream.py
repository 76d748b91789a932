"""The text document, written while the check is running: findings as they become known, then what is left to say."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..core.report import Finding, Report
from ..reporters import text
from ..reporters.verdict import dialect
from ._terminal import one_line, show, width

if TYPE_CHECKING:
    from ..setup.setup import Setup


class TextStream:
    """Writes one config's text document to stdout."""

    def __init__(self, *, color: bool, verbose: bool = False) -> None:
        self._color, self._verbose = color, verbose
        self._width = width()
        self._stage: str | None = None
        self._told: set[str] = set()

    def on_setup(self, setup: Setup) -> None:
        """Say what was read, and how sure its dialect is."""
        fields = ("dialect", "dialect_confidence", "dialect_named")
        told = dialect({name: getattr(setup, name) for name in fields})
        self._say(f"{one_line(setup.file or 'objects in memory')} · {told}")

    def on_findings(self, findings: Sequence[Finding]) -> None:
        """Tell findings that have just become known."""
        for finding in text.joined(findings):
            if finding.suppressed is not None or finding.fingerprint in self._told:
                continue
            self._told.add(finding.fingerprint)
            if finding.stage != self._stage:
                self._stage = finding.stage
                self._say(text.render_stage(finding.stage, color=self._color, width=self._width))
            self._say(text.render_finding(finding, color=self._color, width=self._width, verbose=self._verbose))

    def end(self, report: Report) -> None:
        """Print the rest; a finding that was not printed while the check ran is printed now."""
        self.on_findings(report.findings)
        rest = text.render_rest(report, color=self._color, width=self._width, verbose=self._verbose)
        show(rest, color=self._color)

    def _say(self, block: str) -> None:
        show(block + "\n\n", color=self._color)
        sys.stdout.flush()

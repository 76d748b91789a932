"""Is called with what happens while it happens; imports nothing, so that a command has one before all else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..core.report import Finding, StageRecord
    from ..setup.setup import Setup


class Observer:
    """Told what happens while it happens; does nothing. Subclass it to show progress."""

    def on_part(self, text: str) -> None:
        """A part of the work begins that is no stage, or holds several."""

    def on_setup(self, setup: Setup) -> None:
        """The config was read."""

    def on_stage(self, record: StageRecord) -> None:
        """A stage ended."""

    def on_stage_start(self, name: str) -> None:
        """A stage begins."""

    def on_progress(self, text: str, done: int | None, total: int | None, unit: str | None) -> None:
        """Something moved within a stage."""

    def on_known(self, text: str) -> None:
        """A stage that goes on has a result."""

    def on_findings(self, findings: Sequence[Finding]) -> None:
        """Findings that became known since the last call."""

    def on_trouble(self, text: str) -> None:
        """Something of the tool's own that costs time and no result."""

"""What is asked of the child, and what it answers; imports nothing heavy."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from ...facts import BatchFacts, DataFacts

SECONDS = 300.0
"""Time that a script may take up to its training."""
MEMORY = 8 << 30
"""Bytes that it and what it starts may take together."""
ROWS = 256
"""Rows that are drawn at the most."""


class RunData(BaseModel):
    """A script that is to be run up to its training.

    Attributes:
        script: its file.
        code: what is run in place of the file: a notebook's cells as one text.
        cells: of ``code``, the notebook's cell of each line, from 1.
        arguments: of its command line.
        seconds: that it may take.
        memory: bytes that it may take.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    script: str
    code: str | None = None
    cells: tuple[int | None, ...] = ()
    arguments: tuple[str, ...] = ()
    seconds: float = SECONDS
    memory: int = MEMORY


class Outcome(BaseModel):
    """How it ended.

    Attributes:
        data, batch: facts of what was drawn; None where nothing was.
        reason: why nothing was drawn, in a sentence.
        remedy: what to do about it.
        asked_network: hosts that were asked for.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    data: DataFacts | None = None
    batch: BatchFacts | None = None
    reason: str | None = None
    remedy: str | None = None
    asked_network: tuple[str, ...] = ()

    @property
    def drawn(self) -> bool:
        """Whether there is something to judge."""
        return self.data is not None

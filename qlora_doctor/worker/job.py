"""What the child is asked to do."""

from __future__ import annotations

import json
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from ..core.report import StageRecord
from ..facts import Facts
from ..setup.setup import Setup
from ..watching.first_batches.request import RunData
from .options import RunOptions


class PlanRequest(BaseModel):
    """A table that stage memory makes on top.

    Attributes:
        cards: names of the table of cards, or memory sizes such as ``24GiB``; none takes the card that the config names
            or that is here.
        batches, sequences: of the table; None takes a range around the setup's own.
        kept: the file that holds traces of this setup, and takes new ones; None keeps none.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kept: str | None = None
    cards: tuple[str, ...] = ()
    batches: tuple[int, ...] | None = None
    sequences: tuple[int, ...] | None = None


class CureRequest(BaseModel):
    """A search for changes with which the setup fits, on top of stage memory.

    Attributes:
        levers: the changes that may be made, by their words (``memory.levers``).
        prefer: which combination is taken first.
        alters: changes of what is learned count as any other; otherwise they are made where nothing else is left.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    levers: tuple[str, ...] = ()
    prefer: Literal["closest", "quality", "speed", "memory"] = "closest"
    alters: bool = False


class Job(BaseModel):
    """One run of the stages on a built model.

    Attributes:
        number: whose events they are, where one child does several jobs.
        stages: which to run, in the order of a run.
        options: how to run them.
        facts: what is known already (config, environment, and what earlier stages saw).
        ended: stages that are not to be run again, and how they ended.
        plan: the table that stage memory makes instead of one prediction; None makes none.
        cure: the search that stage memory makes on top of its prediction; None makes none.
        run_data: the script that stage data runs up to its training; None runs none.
        turns: folder of the locks that keep two jobs from working on one device; None where nobody else works.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)  # most answers start no child

    number: int = 0
    setup: Setup
    stages: tuple[str, ...]
    options: RunOptions = RunOptions()
    facts: Facts = Field(default_factory=Facts)
    ended: tuple[StageRecord, ...] = ()
    plan: PlanRequest | None = None
    cure: CureRequest | None = None
    turns: str | None = None
    run_data: RunData | None = None

    def line(self) -> bytes:
        """The job as a line of JSON; a file's name that is no UTF-8 goes as escapes, so that it can still be opened."""
        try:
            return self.model_dump_json().encode() + b"\n"
        except ValueError:
            return json.dumps(self.model_dump(mode="json")).encode() + b"\n"

    @classmethod
    def of_line(cls, line: bytes) -> Job:
        """The job of such a line.

        Raises:
            ValueError: it is none.
        """
        try:
            return cls.model_validate_json(line)
        except ValueError:
            return cls.model_validate(json.loads(line))

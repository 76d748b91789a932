"""What the child is asked to do."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from ...config.setup import Setup
from ...facts import Facts
from ...report import StageRecord


class Job(BaseModel):
    """One run of the stages on a built model.

    Attributes:
        number: whose events they are, where one child does several jobs.
        stages: which to run, in the order of a run.
        device: ``cpu``, ``cuda``, ``cuda:1``; None takes CUDA where there is one.
        requested: stages that the user asked for by name; None where nothing was said.
        facts: what is known already (config, environment, and what earlier stages saw).
        ended: stages that are not to be run again, and how they ended.
        turns: folder of the locks that keep two jobs from working on one device; None where nobody else works.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    number: int = 0
    setup: Setup
    stages: tuple[str, ...]
    device: str | None = None
    offline: bool = False
    trust_remote_code: bool = False
    requested: tuple[str, ...] | None = None
    facts: Facts = Facts()
    ended: tuple[StageRecord, ...] = ()
    turns: str | None = None

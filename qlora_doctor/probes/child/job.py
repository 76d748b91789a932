"""What the child is asked to do."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from ...config.setup import Setup
from ...facts import Facts


class Job(BaseModel):
    """One run of the stages on a built model.

    Attributes:
        stages: which to run, in the order of a run.
        device: ``cpu``, ``cuda``, ``cuda:1``; None takes CUDA where there is one.
        requested: stages that the user asked for by name; None where nothing was said.
        facts: what is known already (config, environment).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    setup: Setup
    stages: tuple[str, ...]
    device: str | None = None
    offline: bool = False
    trust_remote_code: bool = False
    requested: tuple[str, ...] | None = None
    facts: Facts = Facts()

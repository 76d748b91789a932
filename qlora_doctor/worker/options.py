"""How the stages on a built model are run: the same values from the command line down to the worker."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, eq=False, repr=False)  # neither is asked for, and each is compiled at every start
class RunOptions:
    """How stages are run.

    Attributes:
        stages: stages asked for by name; None runs every stage that this machine can run. One that was asked for by
            name runs however long it takes.
        device: ``cpu``, ``cuda``, ``cuda:1``; None takes CUDA where there is one.
        timeout: seconds that the stages on a built model may take together; None is no limit.
        offline: download nothing.
        trainer_python: an interpreter, or an environment's folder, whose trainer forms the rows of the data.
        trust_remote_code: run Python code that stands in the model's folder.
        debug: show tracebacks and what libraries print.
    """

    stages: tuple[str, ...] | None = None
    device: str | None = None
    timeout: float | None = None
    offline: bool = False
    trainer_python: str | None = None
    trust_remote_code: bool = False
    debug: bool = False

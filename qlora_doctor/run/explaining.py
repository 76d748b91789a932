"""What a config and its data say of a run that learns nothing: looked at once it has ended, where its batches ask why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..core.errors import DoctorError
from ..facts import DataFacts, Facts
from .session import CheckOptions

if TYPE_CHECKING:
    from ..setup.setup import Setup

_CONFIGS = (".yaml", ".yml", ".json", ".toml")
_LAUNCHERS = ("accelerate", "deepspeed")
"""Dialects of files that say how to launch, and not what to train."""


def config_in(command: Sequence[str]) -> Setup | None:
    """The config that a command is given, as ``axolotl train FILE`` and ``llamafactory-cli train FILE`` are; None where
    no argument is one, or several are."""
    from ..reading.dialects import read_setup

    found = []
    for text in command[1:]:
        path = Path(text)
        if path.suffix.lower() not in _CONFIGS or not path.is_file():
            continue
        try:
            setup = read_setup(path)
        except DoctorError:
            continue
        if setup.dialect not in _LAUNCHERS and setup.model.name_or_path:
            found.append(setup)
    return found[0] if len(found) == 1 else None


def needs_data(facts: Facts) -> bool:
    """Whether the run leaves open why nothing was to be learnt: no label counts, or it died before its first step."""
    batch, run, step = facts.batch, facts.run, facts.step
    if batch is not None and batch.trained_tokens is not None:
        return batch.trained_tokens == 0
    failed = run is not None and (run.ended == "failed" or bool(run.exit_code))
    return failed and (step is None or not step.steps)


def data_of(setup: Setup, check: CheckOptions) -> DataFacts | None:
    """The data as stage ``data`` of a check sees it; None where it cannot be looked at."""
    from .checking import run_check

    options = replace(check, stages=("config", "data"), offline=True, facts=None, suppressions=(), budgets=())
    try:
        return run_check(setup, options).facts.data
    except DoctorError:
        return None

"""One setup → a Report whose memory facts hold tables of predicted peaks by batch and sequence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.errors import StageError, UsageError
from ..core.report import Report, StageRecord
from ..memory.plan_stage import card_named, recalled_plan
from ..probes.config.settle import settled
from ..setup.meant_for import counted
from ..tables.cards import UnknownCard
from ..worker.events import End, Learned
from ..worker.job import PlanRequest
from .cache import trace_key
from .checking import conclude_config, missing_packages, open_session, predict, results_folder
from .observer import Observer
from .session import CheckOptions

if TYPE_CHECKING:
    from ..setup.setup import Setup

MOST_VALUES = 40
"""Batches or sequences of one table at most."""
MOST = {"batch": 1024, "sequence": 1 << 20}
"""What a table may ask about, samples on one device and tokens of a sample: a trace of more fills the host's memory."""


def run_plan(
    source: Path | Setup,
    asked: PlanRequest,
    options: CheckOptions,
    *,
    values: Sequence[tuple[str, Any]] = (),
    observer: Observer | None = None,
) -> Report:
    """Predict a table of peaks and tell the observer what happens on the way.

    Args:
        source: a config file or a Setup.
        asked: what to plan.
        options: how to read the config and run stage memory; its stages are not asked for.
        values: canonical paths and what is to stand there in place of the config's own.

    The report holds what the config alone says and stage memory; ``facts.memory.plans`` are the tables. Where the step
    cannot be traced, stage memory says why and the report's exit code is 3.

    Raises:
        ConfigError: the config cannot be read or is invalid.
        UsageError: a card is not known, or a batch or length makes no sense.
        StageError: a package that it needs is missing.
    """
    count, asked = _of_one(asked)
    values = (*values, ("hardware.count", count)) if count is not None else values
    request = _request(asked)
    options = replace(options, stages=("memory",), fail_on="never")
    session = open_session(_setup_of(source, options, values), options, observer or Observer(), rules=())
    conclude_config(session)
    assert session.setup is not None and session.facts.config is not None
    setup = settled(session.setup, session.facts.config)
    folder = results_folder(options)
    if folder is not None and not options.trust_remote_code:
        key = trace_key(setup, options, session.facts.environment)
        request = request.model_copy(update={"kept": str(folder / f"{key}.traces")})
    missing = missing_packages("memory", session.facts)
    if (options.cache or missing) and not options.trust_remote_code:
        session.begin("memory")
        recalled = recalled_plan(setup, session.facts, request)
        if recalled is not None:
            record = StageRecord(name="memory", status="done", cached=True)
            session.take([Learned(subject="memory", value=recalled), End(record=record)])
            return session.report()
    if missing:
        verb = "is" if len(missing) == 1 else "are"
        raise StageError(
            f"A plan needs {', '.join(missing)}, which {verb} not installed.",
            remedy="pip install 'qlora-doctor[probe]'",
        )
    predict(session, setup, plan=request)
    return session.report()


def _setup_of(source: Path | Setup, options: CheckOptions, values: Sequence[tuple[str, Any]]) -> Path | Setup:
    """The setup with the values that were set beside it."""
    if not values:
        return source
    from ..reading import read_setup
    from ..reading.native import ALIASES
    from ..setup.changed import with_value

    setup = read_setup(source, dialect=options.dialect) if isinstance(source, Path) else source
    for path, value in values:
        path = ALIASES.get(path) or ALIASES.get(f"training.{path}") or path
        setup = with_value(setup, path, value)
    return setup


def _of_one(asked: PlanRequest) -> tuple[int | None, PlanRequest]:
    """How many cards of a kind the run is meant for, ``2xrtx-4090``, and the request with each card alone.

    Raises:
        UsageError: the counts differ: a table is of one setup.
    """
    named = [counted(card) for card in asked.cards]
    counts = {count for count, _ in named}
    if len(counts) > 1:
        raise UsageError("A plan is of one number of cards.", remedy="--gpu 2xrtx-4090 --gpu 2xa100-80gb")
    cards = tuple(card for _, card in named)
    return next(iter(counts), None), asked.model_copy(update={"cards": cards})


def _request(asked: PlanRequest) -> PlanRequest:
    """The same with its numbers in order, each once.

    Raises:
        UsageError: a card is not known, or a number makes no sense.
    """
    for name in asked.cards:
        try:
            card_named(name)
        except UnknownCard as error:
            raise UsageError(str(error), remedy="--memory 24GiB stands for any card.") from error
    for what, values in (("batch", asked.batches), ("sequence", asked.sequences)):
        if values is not None and (not values or min(values) < 1):
            raise UsageError(f"--{what} takes positive numbers.", remedy=f"--{what} 1,2,4")
        if values is not None and max(values) > MOST[what]:
            raise UsageError(f"--{what} takes numbers up to {MOST[what]:,}, not {max(values):,}.")
        if values is not None and len(set(values)) > MOST_VALUES:
            raise UsageError(f"--{what} takes at most {MOST_VALUES} values.")
    return asked.model_copy(update={"batches": _sorted(asked.batches), "sequences": _sorted(asked.sequences)})


def _sorted(values: tuple[int, ...] | None) -> tuple[int, ...] | None:
    return None if values is None else tuple(sorted(set(values)))

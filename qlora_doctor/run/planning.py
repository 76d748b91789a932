"""One setup → a Report whose memory facts hold tables of predicted peaks by batch and sequence."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..core.errors import StageError, UsageError
from ..core.report import Report
from .checking import conclude_config, missing_packages, open_session
from .session import CheckOptions, Observer

if TYPE_CHECKING:
    from ..setup.setup import Setup
    from ..worker.job import PlanRequest

MOST_VALUES = 40
"""Batches or sequences of one table at most."""


@dataclass(frozen=True)
class PlanOptions:
    """What to plan.

    Attributes:
        cards: names of the table of cards, or memory sizes such as ``24GiB``; none takes the card that the config names
            or that is here.
        batches, sequences: of the table; None takes a range around the setup's own.
        timeout: seconds that it may take; None is no limit.
    """

    cards: tuple[str, ...] = ()
    batches: tuple[int, ...] | None = None
    sequences: tuple[int, ...] | None = None
    timeout: float | None = None
    offline: bool = False
    trust_remote_code: bool = False
    dialect: str | None = None
    debug: bool = False
    command: str | None = None


def run_plan(source: Path | Setup, options: PlanOptions, observer: Observer | None = None) -> Report:
    """Predict a table of peaks and tell the observer what happens on the way.

    The report holds what the config alone tells and stage memory; ``facts.memory.plans`` are the tables. Where the step
    cannot be traced, stage memory says why and the report's exit code is 3.

    Raises:
        ConfigError: the config cannot be read or is invalid.
        UsageError: a card is not known, or a batch or length makes no sense.
        StageError: a package that it needs is missing.
    """
    request = _request(options)
    how = CheckOptions(
        stages=("memory",),
        offline=options.offline,
        trust_remote_code=options.trust_remote_code,
        dialect=options.dialect,
        timeout=options.timeout,
        debug=options.debug,
        command=options.command,
        fail_on="never",
    )
    session = open_session(source, how, observer or Observer())
    conclude_config(session)
    missing = missing_packages("memory", session.facts)
    if missing:
        verb = "is" if len(missing) == 1 else "are"
        raise StageError(
            f"A plan needs {', '.join(missing)}, which {verb} not installed.",
            remedy="pip install 'qlora-doctor[probe]'",
        )
    from ..worker.runner import run_stages

    assert session.setup is not None
    events = run_stages(
        session.setup,
        ["memory"],
        timeout=options.timeout,
        offline=options.offline,
        trust_remote_code=options.trust_remote_code,
        requested=("memory",),
        facts=session.facts,
        plan=request,
        debug=options.debug,
    )
    for event in events:
        session.take([event])
    return session.report()


def _request(options: PlanOptions) -> PlanRequest:
    from ..memory.plan_stage import card_named
    from ..tables.cards import UnknownCard
    from ..worker.job import PlanRequest

    for name in options.cards:
        try:
            card_named(name)
        except UnknownCard as error:
            raise UsageError(str(error), remedy="--memory 24GiB stands for any card.") from error
    for what, values in (("batch", options.batches), ("sequence", options.sequences)):
        if values is not None and (not values or min(values) < 1):
            raise UsageError(f"--{what} takes positive numbers.", remedy=f"--{what} 1,2,4")
        if values is not None and len(set(values)) > MOST_VALUES:
            raise UsageError(f"--{what} takes at most {MOST_VALUES} values.")
    return PlanRequest(
        cards=options.cards,
        batches=_sorted(options.batches),
        sequences=_sorted(options.sequences),
    )


def _sorted(values: tuple[int, ...] | None) -> tuple[int, ...] | None:
    return None if values is None else tuple(sorted(set(values)))

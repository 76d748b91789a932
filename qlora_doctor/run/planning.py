"""One setup → a Report whose memory facts hold tables of predicted peaks by batch and sequence."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.errors import StageError, UsageError
from ..core.report import Report, StageRecord
from ..memory.plan_stage import card_named, recalled_plan
from ..probes.config.settle import settled
from ..tables.cards import UnknownCard
from ..worker.events import End, Learned
from ..worker.job import PlanRequest
from .cache import Surroundings, trace_key
from .checking import conclude_config, missing_packages, open_session, predict, results_folder
from .observer import Observer
from .session import CheckOptions

if TYPE_CHECKING:
    from ..setup.setup import Setup

MOST_VALUES = 40
"""Batches or sequences of one table at most."""
MOST = {"batch": 1024, "sequence": 1 << 20}
"""What a table may ask about, samples on one device and tokens of a sample: a trace of more fills the host's memory."""


@dataclass(frozen=True)
class PlanOptions:
    """What to plan.

    Attributes:
        cards: names of the table of cards, or memory sizes such as ``24GiB``; none takes the card that the config names
            or that is here.
        batches, sequences: of the table; None takes a range around the setup's own.
        values: canonical paths and what is to stand there in place of the config's own.
        timeout: seconds that it may take; None is no limit.
        cache: take traces from, and leave them in, the cache.
    """

    cards: tuple[str, ...] = ()
    batches: tuple[int, ...] | None = None
    sequences: tuple[int, ...] | None = None
    values: tuple[tuple[str, Any], ...] = ()
    timeout: float | None = None
    cache: bool = True
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
        cache=options.cache,
    )
    session = open_session(_setup_of(source, options), how, observer or Observer(), rules=())
    conclude_config(session)
    assert session.setup is not None and session.facts.config is not None
    setup = settled(session.setup, session.facts.config)
    around = Surroundings(
        session.facts.environment, ("memory",), None, None, options.offline, options.trust_remote_code
    )
    folder = results_folder(how)
    if folder is not None and not options.trust_remote_code:
        request = request.model_copy(update={"kept": str(folder / f"{trace_key(setup, around)}.traces")})
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


def _setup_of(source: Path | Setup, options: PlanOptions) -> Path | Setup:
    """The setup with the values that were set beside it."""
    if not options.values:
        return source
    from ..reading import read_setup
    from ..reading.native import ALIASES
    from ..setup.changed import with_value

    setup = read_setup(source, dialect=options.dialect) if isinstance(source, Path) else source
    for path, value in options.values:
        path = ALIASES.get(path) or ALIASES.get(f"training.{path}") or path
        setup = with_value(setup, path, value)
    return setup


def _request(options: PlanOptions) -> PlanRequest:
    for name in options.cards:
        try:
            card_named(name)
        except UnknownCard as error:
            raise UsageError(str(error), remedy="--memory 24GiB stands for any card.") from error
    for what, values in (("batch", options.batches), ("sequence", options.sequences)):
        if values is not None and (not values or min(values) < 1):
            raise UsageError(f"--{what} takes positive numbers.", remedy=f"--{what} 1,2,4")
        if values is not None and max(values) > MOST[what]:
            raise UsageError(f"--{what} takes numbers up to {MOST[what]:,}, not {max(values):,}.")
        if values is not None and len(set(values)) > MOST_VALUES:
            raise UsageError(f"--{what} takes at most {MOST_VALUES} values.")
    return PlanRequest(
        cards=options.cards,
        batches=_sorted(options.batches),
        sequences=_sorted(options.sequences),
    )


def _sorted(values: tuple[int, ...] | None) -> tuple[int, ...] | None:
    return None if values is None else tuple(sorted(set(values)))

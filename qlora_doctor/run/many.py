"""Many setups in one run: their workers, their cache and their shared work."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..core.errors import ConfigError, DoctorError, Fault, UsageError
from ..core.report import STAGES, Report
from .checking import open_session, rules_of, store_of, tell_trouble, work_of
from .observer import Observer
from .session import CheckOptions

if TYPE_CHECKING:
    from ..engine import Rule
    from ..facts.environment import EnvironmentFacts
    from ..worker.pool import Pool
    from .gathering import Work
    from .session import Session

Entry = tuple[Path, CheckOptions | ConfigError, Observer]
"""A config, how to check it (or why its settings do not say), its observer. What concerns the workers is the same
for all: device, timeout, …"""
Result = Report | DoctorError
"""A report, or why there is none: the config could not be read, or is one that the tool itself fails on."""


def check_many(
    entries: Sequence[Entry], *, jobs: int | None = None, finished: Callable[[int, Result], None]
) -> dict[int, Result]:
    """Check configs, several at a time; what one of them does to its worker leaves the others standing.

    Args:
        jobs: workers at most; None takes as many as processors and memory allow.
        finished: is called with the number of each entry and its result, in the order in which they end.

    Returns the results by number. Ctrl-C ends all workers: configs that were begun have a report that says so, the
    others have none.

    Raises:
        UsageError: an option cannot be served.
    """
    return _Many(entries, jobs, finished).run() if entries else {}


class _Many:
    def __init__(self, entries: Sequence[Entry], jobs: int | None, finished: Callable[[int, Result], None]) -> None:
        self._entries, self._jobs, self._finished = entries, jobs, finished
        said = [options for _, options, _ in entries if isinstance(options, CheckOptions)]
        self._options = said[0] if said else CheckOptions()
        self._rules: dict[tuple[Path, ...], Sequence[Rule]] = {}
        self._environment: EnvironmentFacts | None = None
        self._open: dict[int, Session] = {}
        self._results: dict[int, Result] = {}
        self._store = store_of(self._options)

    def run(self) -> dict[int, Result]:
        from .gathering import gather

        last: Session | None = None
        try:
            for work in gather(self._works(), self._store, self._open_pool):
                last = self._open[work.number]
                self._end(work.number, work.fault)
        except KeyboardInterrupt:  # it has ended the workers
            for number, session in list(self._open.items()):
                session.interrupt([name for name in STAGES if name not in session.stages])
                self._end(number)
        if last is not None:
            tell_trouble(self._store, last)
        return self._results

    def _works(self) -> Iterator[Work]:
        """Read the configs one by one; those with something to do for the stages on a built model are yielded."""
        for number, (source, options, observer) in enumerate(self._entries):
            try:
                if isinstance(options, ConfigError):
                    raise options
                session = open_session(source, options, observer, rules=self._rules_of(options))
                session.environment = self._environment
                work = work_of(session, number)
                self._environment = session.facts.environment  # looked at once for all
                if work is not None:
                    work.recall(self._store)
                    if work.left:
                        session.judge()
            except ConfigError as error:
                self._tell(number, error)
                continue
            except UsageError:  # of the options, which are those of all
                raise
            except Exception as error:  # what nobody foresaw of one config is that config's alone
                fault = Fault.of(error, source)
                fault.__cause__ = error
                self._tell(number, fault)
                continue
            self._open[number] = session
            if work is None:
                self._end(number)
            else:
                yield work

    def _rules_of(self, options: CheckOptions) -> Sequence[Rule]:
        if options.rules not in self._rules:
            self._rules[options.rules] = rules_of(options)
        return self._rules[options.rules]

    def _end(self, number: int, fault: Exception | None = None) -> None:
        session = self._open.pop(number)
        try:
            if fault is not None:
                raise fault
            session.hold_budgets()
            result: Result = session.report()
        except Exception as error:
            result = Fault.of(error, self._entries[number][0])
            result.__cause__ = error
        self._tell(number, result)

    def _tell(self, number: int, result: Result) -> None:
        self._results[number] = result
        self._finished(number, result)

    def _open_pool(self) -> Pool:
        from ..worker.pool import Pool
        from ..worker.turns import ONE_AT_A_TIME
        from .gathering import default_jobs

        options = self._options
        environment = next(iter(self._open.values())).facts.environment
        size = self._jobs or default_jobs(len(self._entries), environment)
        real = options.stages is None or {"load", "step"}.intersection(options.stages)
        if real and ONE_AT_A_TIME:
            size = 1
        # Stages without weights run on one thread each. A real stage has its device to itself, and all its threads.
        threads = None if real or size == 1 else 1
        return Pool(size, options, threads=threads)

"""Where the real stages' results come from: the cache, another config's work, or a worker process."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..core.report import StageRecord
from ..facts import EnvironmentFacts, Facts
from ..worker.events import End, Event, Finished, Learned, Start
from .cache import Kept, Store, stage_keys

if TYPE_CHECKING:
    from ..setup.setup import Setup
    from ..watching.first_batches.request import RunData
    from ..worker.job import Job
    from ..worker.options import RunOptions
    from ..worker.pool import Pool

WORKER_BYTES = 2 << 30
"""Host memory that a worker is given: torch, transformers, peft and bitsandbytes take some 0.7 GiB, a traced model of
100 layers on meta as much again."""


@dataclass
class Work:
    """What the real stages have to find out about one setup.

    Attributes:
        stages: that can be served, in their order.
        facts: what is known by now.
        tell: takes events as they come, or several that were known before.
        run_data: the script that stage data runs up to its training; None runs none.
        left: stages that have not ended.
        fault: what went wrong with this setup in the tool itself; nothing more is looked at then.
    """

    number: int
    setup: Setup
    stages: tuple[str, ...]
    options: RunOptions
    environment: EnvironmentFacts | None
    facts: Callable[[], Facts]
    tell: Callable[[Sequence[Event]], None]
    run_data: RunData | None = None
    left: list[str] = field(init=False)
    keys: dict[str, str] = field(init=False)
    ended: list[StageRecord] = field(default_factory=list)
    fault: Exception | None = None
    _learned: dict[str, Any] = field(default_factory=dict)
    _lasting: bool = True

    def __post_init__(self) -> None:
        self.left = list(self.stages)
        self.keys = self._keys()

    def _keys(self) -> dict[str, str]:
        scripts = self.run_data is not None
        return stage_keys(self.setup, self.stages, self.options, self.environment, runs_script=scripts)

    def recall(self, store: Store) -> None:
        """Take from the store what is known already; what is still ``left`` has to be looked at."""
        found = {name: kept for name in self.left if (kept := store.get(self.keys[name])) is not None}
        if "step" in self.left and "step" not in found:
            found.pop("load", None)  # it is the loaded base that is trained
        events: list[Event] = []
        for kept in found.values():
            events += [Learned(subject=subject, value=value) for subject, value in kept.facts.items()]
            events.append(End(record=kept.record.model_copy(update={"cached": True})))
            self._ended(kept.record)
        if events:
            self.tell(events)

    def take(self, event: Event, store: Store) -> None:
        """An event of a worker: passed on, and kept once a stage has ended in a way that lasts."""
        if isinstance(event, Start):
            self._learned = {}
        elif isinstance(event, Learned):
            self._learned[event.subject] = event.value
        elif isinstance(event, End):
            self._ended(event.record)
            self._keep(event, store)
        self.tell([event])

    def _ended(self, record: StageRecord) -> None:
        self.ended.append(record)
        if record.name in self.left:
            self.left.remove(record.name)

    def _keep(self, event: End, store: Store) -> None:
        name = event.record.name
        if name in ("structure", "load"):
            self._lasting = self._lasting and event.lasting  # what follows, follows from it
        if not (event.lasting and self._lasting) or name not in self.keys:
            return
        if self._keys()[name] != self.keys[name]:
            return  # a file changed meanwhile: nobody can tell which of the two was seen
        store.put(self.keys[name], Kept(event.record, dict(self._learned)))

    def job(self) -> Job:
        """What a worker is asked."""
        from ..worker.job import Job

        return Job(
            number=self.number,
            setup=self.setup,
            stages=tuple(self.left),
            options=self.options,
            facts=self.facts(),
            ended=tuple(self.ended),
            run_data=self.run_data,
        )


def gather(works: Iterable[Work], store: Store, open_pool: Callable[[], Pool]) -> Iterator[Work]:
    """Do all works, several at a time, and yield each when nothing of it is left.

    Works are taken from the iterable while others run; two that need the same result do not both look: the second
    waits for the first. The pool is opened when a worker is needed, and closed whatever happens.
    """
    source = iter(works)
    waiting: list[Work] = []
    running: dict[int, Work] = {}
    pool: Pool | None = None
    more = True
    try:
        while more or waiting or running:
            if more:
                work = next(source, None)
                more = work is not None
                if work is not None:
                    _recall(work, store)
                    waiting.append(work)
            for work in [work for work in waiting if not work.left or work.fault]:
                waiting.remove(work)
                yield work
            if pool is None and waiting:
                pool = open_pool()
            if pool is None:
                continue
            _begin(pool, waiting, running)
            if any(work.fault for work in waiting):
                continue
            # While there are setups to be read, only what has already happened is heard.
            event = pool.next(0 if more else None)
            if event is None:
                continue
            if not isinstance(event, Finished):
                _take(running[event.job], event, store)
                continue
            yield running.pop(event.job)
            for work in waiting:
                _recall(work, store)
    finally:
        if pool is not None:
            pool.close()


def _recall(work: Work, store: Store) -> None:
    if work.fault is None:
        try:
            work.recall(store)
        except Exception as error:
            work.fault = error


def _take(work: Work, event: Event, store: Store) -> None:
    """An event of a worker; behind a fault its worker is only waited for."""
    if work.fault is None:
        try:
            work.take(event, store)
        except Exception as error:
            work.fault = error


def _begin(pool: Pool, waiting: list[Work], running: dict[int, Work]) -> None:
    """Start what can be started: there is a worker for it, and nobody is finding out the same."""
    for work in [work for work in waiting if not work.fault]:
        if not pool.has_room:
            return
        sought = {other.keys[name] for other in running.values() for name in other.left}
        if not sought.intersection(work.keys[name] for name in work.left):
            try:
                pool.begin(work.job())
            except Exception as error:
                work.fault = error  # it is yielded from among those that wait
                continue
            waiting.remove(work)
            running[work.number] = work


def default_jobs(configs: int, environment: EnvironmentFacts | None) -> int:
    """As many workers as there are configs, processors, and room for in memory."""
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    available = environment.host_available_bytes if environment is not None else None
    room = processors if available is None else available // WORKER_BYTES
    return max(1, min(configs, processors, room))

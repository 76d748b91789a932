"""What the parent remembers of a job while it runs, and what it says of the stages that a dead child left open."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from typing import Any

from ..core.report import StageRecord
from ..facts import LoadFacts, ModelFacts, StepFacts
from ..facts.load import LoadFailure
from .events import End, Event, Learned, Progress, Start
from .process import Reason


class Watch:
    """Which stages of a job ended, which was under way, what is known of it, and how much time is left."""

    def __init__(self, stages: Sequence[str], timeout: float | None) -> None:
        self._open = list(stages)
        self._running: str | None = None
        self._began = time.monotonic()
        self._deadline = math.inf if timeout is None else self._began + timeout
        self._waiting_since: float | None = None
        self._facts: dict[str, Any] = {}
        self._doing: str | None = None

    @property
    def left(self) -> float:
        """Seconds until the job's time is up; infinite where there is no limit, or where it waits for its turn."""
        return self._deadline - time.monotonic() if self._waiting_since is None else math.inf

    def see(self, event: Event) -> None:
        """Take note of an event."""
        self._count_waiting(isinstance(event, Progress) and event.waits)
        if isinstance(event, Start):
            self._running, self._began, self._doing = event.name, time.monotonic(), None
        elif isinstance(event, Progress):
            self._doing = event.text
        elif isinstance(event, Learned):
            self._facts[event.subject] = event.value
        elif isinstance(event, End):
            self._open = [name for name in self._open if name != event.record.name]
            self._running = None if self._running == event.record.name else self._running

    def _count_waiting(self, waits: bool) -> None:
        now = time.monotonic()
        if self._waiting_since is not None:
            self._deadline += now - self._waiting_since
        self._waiting_since = now if waits else None

    def unfinished(self, reason: Reason) -> Iterator[Event]:
        """Ends for the stages that have none: the one under way failed, those after it were not reached."""
        failed = self._running or (self._open[0] if self._open else None)
        for name in self._open:
            if name != failed:
                why = f"Stage {failed} ended the child process before it."
                yield End(record=StageRecord(name=name, status="skipped", reason=why))
                continue
            doing = f" It was busy with: {self._doing[:1].lower()}{self._doing[1:]}." if self._doing else ""
            yield from self._failure(name, LoadFailure(kind=reason.kind, message=reason.message, phase=None))
            yield End(
                record=StageRecord(
                    name=name,
                    status="failed",
                    reason=f"{reason.message}{doing}",
                    remedy=reason.remedy,
                    seconds=time.monotonic() - self._began,
                )
            )

    def _failure(self, stage: str, failure: LoadFailure) -> Iterator[Event]:
        """The failure as a fact, together with what the stage had reported before."""
        if stage == "load":
            known = self._facts.get("load") or LoadFacts()
            yield Learned(subject="load", value=known.model_copy(update={"failure": failure}))
        elif stage == "step":
            step = self._facts.get("step") or StepFacts()
            yield Learned(subject="step", value=step.model_copy(update={"failure": failure}))
        elif stage == "structure" and "model" not in self._facts:
            yield Learned(subject="model", value=ModelFacts(build_error=failure.message, build_error_kind=failure.kind))

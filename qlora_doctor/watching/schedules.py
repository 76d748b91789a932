"""The learning-rate schedulers of a training that is watched: how often they are stepped, and by what rate it runs."""

from __future__ import annotations

from typing import Any

from ..probes.step.optimizer import unwrapped as unwrapped_optimizer
from .optimizers import steps_taken
from .training import Training

_LOW_RATE = 0.5
"""Share of the rate that was asked for below which a step says little about the updates that the run will make."""


class Schedules:
    """All schedulers of the process: which of them drive an optimizer of the training shows when it steps.

    Attributes:
        taken_before: steps that a loop's optimizer had taken when the watching began.
        rates: of each watched step, the rate of each group.
    """

    def __init__(self, training: Training) -> None:
        self._training = training
        self._schedulers: list[Any] = []
        self._counts: list[int] = []
        self.taken_before = 0
        self.rates: list[list[float | None]] = []

    def take(self) -> None:
        """Those that there are now."""
        self._schedulers = list(self._training.found["LRScheduler"])
        self._counts = [_count(each) for each in self._schedulers]

    def drop(self) -> None:
        """Hold them no longer."""
        self._schedulers = []

    def know_resumed(self) -> None:
        """Whether a training that goes on has the optimizer and the schedule that it stopped with."""
        training, run = self._training, self._training.run
        done = run.get("resumed_step")
        if done is None or run.get("resumed_done"):
            return
        inner = [unwrapped_optimizer(each) for each in training.optimizers]
        run["resumed_without_optimizer"] = bool(done and inner) and not any(each.state for each in inner)
        counts = self._own_counts() if inner else self._counts
        run["resumed_without_schedule"] = bool(done and counts) and max(counts) <= 1

    def know_continued(self) -> None:
        """A loop of one's own that goes on: its optimizer has stepped before, or its schedule has."""
        training, run = self._training, self._training.run
        if run.get("resumed_step") is not None:
            return
        done = steps_taken(training.optimizers)
        if done is None:
            return
        counts = self._own_counts()
        scheduled = max(counts, default=1) - 1
        self.taken_before = done
        run["resumed_step"] = max(done, scheduled if scheduled > 1 else 0)
        run["resumed_without_schedule"] = done > 0 and bool(counts) and scheduled < 1
        run["resumed_without_optimizer"] = done == 0 and scheduled > 1

    def conclude(self) -> None:
        """How often a watched step stepped them, and at what rate."""
        training, run = self._training, self._training.run
        assert training.onlooker is not None
        held = training.held()
        own = [id(unwrapped_optimizer(each.optimizer)) in held for each in self._schedulers]
        now = [_count(each) for each in self._schedulers]
        steps = [count - before for count, before in zip(now, self._counts, strict=True)]
        moved = [count for count, ours in zip(steps, own, strict=True) if ours]
        # One that nobody steps is of another training of this process, or forgotten.
        run["scheduler_elsewhere"] = bool(held) and not any(own) and any(steps)
        several = min(training.onlooker.micro_batches[: training.steps] or [0])
        if moved and training.steps:
            each = max(moved) / training.steps
            run["scheduler_steps"] = each
            # accelerate steps a prepared scheduler once for every process, which is what it documents.
            run["scheduler_per_micro_batch"] = several > 1 and each == several and training.world != several
        run["rates_zero"] = bool(self.rates) and not any(any(rates) for rates in self.rates)

    def _own_counts(self) -> list[int]:
        held = self._training.held()
        pairs = zip(self._schedulers, self._counts, strict=True)
        return [count for each, count in pairs if id(unwrapped_optimizer(each.optimizer)) in held]


def know_low_rates(training: Training) -> None:
    """Whether the watched steps ran at a fraction of the rate that the run is for."""
    rates = [rate for rate in training.rates_now if rate is not None]
    peak = training.run.get("learning_rate_asked")
    training.run["rates_during_warmup"] = None
    if rates and peak:
        training.run["rates_during_warmup"] = max(rates) < _LOW_RATE * peak


def _count(scheduler: Any) -> int:
    return int(getattr(scheduler, "_step_count", getattr(scheduler, "last_epoch", 0)))

"""The closest setup that fits: combinations of changes, each predicted as a whole.

A full prediction takes seconds, a stack of few layers a fraction (:mod:`.savings`): so combinations are looked at in
the order of preference at small depths, and those that come out near are predicted in full. Only these are shown.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

from ..facts.memory import Change, Cure
from . import Progress
from .levers import Combination, Lever, Prefer, applied, combinations, speed_of
from .machine import Machine
from .predict import Prediction, PredictionError, prediction_of
from .replay import replay
from .shipped import shipped_for

if TYPE_CHECKING:
    from ..setup.setup import Setup
    from .folded_tapes import FoldedTapes
    from .traced_once import TracedOnce

MOST_ESTIMATES = 48
"""Combinations that are looked at, at small depths."""
MOST_PREDICTIONS = 16
"""Combinations that are predicted in full."""
NEAR = 1.05
"""Share of the room up to which a combination is predicted in full."""


class Predicted(Protocol):
    """What of a prediction is held against the room."""

    @property
    def peak_allocated_bytes(self) -> int | None: ...
    @property
    def peak_reserved_bytes(self) -> int | None: ...


class WithBand(Protocol):
    """A prediction that knows its error band."""

    @property
    def peak_allocated_bytes(self) -> int: ...
    @property
    def peak_reserved_bytes(self) -> int: ...
    @property
    def margin(self) -> float: ...


@dataclass(frozen=True)
class Room:
    """What a run may take; bytes. None where nothing limits it.

    Attributes:
        reserved: what the card can give.
        allocated: the budget of the config.
    """

    reserved: int | None = None
    allocated: int | None = None

    def is_below(self, floor: int | None) -> bool:
        """Whether what is needed at the least is more than this."""
        return floor is not None and any(each is not None and floor > each for each in (self.reserved, self.allocated))

    def holds(self, prediction: Predicted, margin: float) -> bool:
        """Whether it fits with this error band."""
        reserved, allocated = prediction.peak_reserved_bytes, prediction.peak_allocated_bytes
        if reserved is None or allocated is None:
            return False
        fits = self.reserved is None or reserved * (1 + margin) <= self.reserved
        return fits and (self.allocated is None or allocated <= self.allocated)


@dataclass
class Search:
    """Looks for changes with which a setup fits.

    Attributes:
        machine_of: the machine of a changed setup: the allocator's settings are among the changes.
        evaluation_batch_of: samples of its evaluation batch.
        room: what it may take.
        floor: bytes that no change of the training takes away (``predict.lasting_bytes``), where that is known.
        known: what was traced before; takes what is traced here.
        folded_of: the folded tapes of a changed setup; None where there are none.
        tried: every combination that was predicted in full.
    """

    setup: Setup
    machine_of: Callable[[Setup], Machine]
    evaluation_batch_of: Callable[[Setup], int | None]
    room: Room
    architecture: Any
    offline: bool = True
    told: Progress = lambda text: None
    floor: int | None = None
    known: TracedOnce | None = None
    folded_of: Callable[[Setup], FoldedTapes | None] = shipped_for
    tried: dict[tuple[str, ...], Cure] = field(default_factory=dict)

    def found(
        self, levers: Sequence[Lever], prefer: Prefer, *, alone: bool = False, strictly: bool = False
    ) -> Cure | None:
        """The preferred combination that fits; None where none of those that were looked at does.

        Args:
            alone: predict each lever alone in full first, to be shown beside the others.
            strictly: end with None where a combination cannot be looked at: it might have been the preferred one.

        Raises:
            PredictionError: the setup as it is cannot be predicted.
        """
        if alone:
            for lever in levers:
                self.predicted((lever,))
        estimate: Callable[[Combination], float] | None = None  # traces of its own: made where they are asked for
        estimates = 0
        for combination in filter(self.may_fit, combinations(levers, prefer)):
            if estimates >= MOST_ESTIMATES or len(self.tried) >= MOST_PREDICTIONS + (len(levers) if alone else 0):
                break
            cure = self.tried.get(_key(combination))
            if cure is None:
                estimates += 1
                estimate = estimate or self._estimates()
                share = estimate(combination)
                if strictly and share == float("inf"):
                    return None
                if share > NEAR:
                    continue
                cure = self.predicted(combination)
            if cure is not None and cure.fits:
                return cure
        return None if strictly else self._most_of_all(levers)

    def may_fit(self, combination: Combination) -> bool:
        """Whether it is not certain that the base alone is more than there is room for."""
        return not self.room.is_below(self.floor) or any(lever.kind == "base" for lever in combination)

    def _most_of_all(self, levers: Sequence[Lever]) -> Cure | None:
        """All levers at once, the last of each kind; then without those that it fits without."""
        last = {lever.kind: lever for lever in levers}
        whole = tuple(last.values())
        cure = self.predicted(whole) if whole else None
        if cure is None or not cure.fits:
            return None
        for lever in sorted(whole, key=lambda each: -each.speed):
            less = tuple(each for each in whole if each is not lever)
            without = self.predicted(less) if less else None
            if without is not None and without.fits:
                whole, cure = less, without
        return cure

    def predicted(self, combination: Combination) -> Cure | None:
        """The setup with these changes; None where it cannot be predicted, or is certain not to fit."""
        if not self.may_fit(combination):
            return None
        key = _key(combination)
        if key not in self.tried:
            self.told(f"predicting {', '.join(lever.change for lever in combination)}")
            try:
                prediction = self.prediction(applied(self.setup, combination))
            except Exception:  # whatever the libraries raise for a combination that they do not take
                return None
            self.tried[key] = cure_of(combination, prediction, self.room)
        return self.tried[key]

    def prediction(self, setup: Setup) -> Prediction:
        """The prediction of a changed setup: from folded tapes where there are any.

        Raises:
            PredictionError: it cannot be traced.
            StageError: its model cannot be built.
        """
        machine, evaluation_batch = self.machine_of(setup), self.evaluation_batch_of(setup)
        folded = self.folded_of(setup) if evaluation_batch is None else None
        batch, sequence = setup.training.per_device_train_batch_size, setup.training.max_length
        if folded is not None and batch and sequence:
            tape = folded.tape(machine, batch, sequence)
            if tape is not None:
                outline = replace(folded.outline, batch=batch, sequence=sequence)
                return prediction_of(outline, machine, replay(tape, machine))
        return self._known().prediction(setup, machine, evaluation_batch)

    def _known(self) -> TracedOnce:
        if self.known is None:
            from .traced_once import TracedOnce

            self.known = TracedOnce(self.setup, self.architecture, offline=self.offline)
        return self.known

    def _estimates(self) -> Callable[[Combination], float]:
        """How full the room would be with a combination, by small depths; 0 where that cannot be known."""
        from .savings import TOLERANCE, peak_by_depth

        whole = self.prediction(self.setup)
        by_depth = peak_by_depth(self.architecture, self.machine_of(self.setup), self.offline, self._known())
        beyond = whole.step_reserved_bytes / whole.step_allocated_bytes
        try:
            here = by_depth(self.setup)
        except (PredictionError, LookupError, ValueError, ArithmeticError, AttributeError):
            return lambda combination: 0.0
        if abs(here - whole.step_allocated_bytes) > TOLERANCE * whole.step_allocated_bytes:
            return lambda combination: 0.0

        def estimate(combination: Combination) -> float:
            try:
                allocated = by_depth(applied(self.setup, combination))
            except Exception:  # as above
                return 0.0
            tight = any(lever.kind == "segments" for lever in combination)
            reserved = allocated * (1.0 if tight else min(beyond, 1.1))
            room = self.room
            shares = [reserved / room.reserved] if room.reserved else []
            shares += [allocated / room.allocated] if room.allocated else []
            return max(shares, default=0.0)

        return estimate


def _key(combination: Combination) -> tuple[str, ...]:
    return tuple(sorted(lever.change for lever in combination))


def cure_of(combination: Combination, prediction: WithBand, room: Room) -> Cure:
    """A predicted combination as a fact."""
    notes = [lever.speed_note for lever in combination if lever.speed_note]
    alters = [lever.alters for lever in combination if lever.alters]
    changes = [
        Change(change=lever.change, pointer=operation.pointer, value=_as_text(operation.value))
        for lever in combination
        for operation in lever.operations
    ]
    return Cure(
        changes=changes,
        peak_allocated_bytes=prediction.peak_allocated_bytes,
        peak_reserved_bytes=prediction.peak_reserved_bytes,
        fits=room.holds(prediction, prediction.margin),
        speed=round(speed_of(combination), 2),
        speed_note="; ".join(notes) or None,
        alters=bool(alters),
        alters_note="; ".join(alters) or None,
    )


def _as_text(value: Any) -> str:
    """As it would stand in a config."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return ", ".join(f"{name}: {_as_text(each)}" for name, each in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)

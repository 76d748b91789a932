"""A search for a cure among the setups whose folded tapes are there: a replay for each, and no torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .cure import Search, cure_of
from .kept import NotKept
from .levers import Combination, Lever, Operation, applied
from .predict import MARGIN
from .replay import replay_peaks

if TYPE_CHECKING:
    from ..facts.memory import Cure
    from ..setup.setup import Setup
    from .folded_tapes import FoldedTapes
    from .machine import Machine
    from .tape import Tape


@dataclass(frozen=True)
class Peaks:
    """What a combination is held against the room by; bytes."""

    peak_allocated_bytes: int
    peak_reserved_bytes: int
    margin: float = MARGIN


class FoldedSearch(Search):
    """As :class:`.cure.Search`; a combination whose tapes are not there is passed over."""

    def predicted(self, combination: Combination) -> Cure | None:
        """The setup with these changes; None where its tapes are not there."""
        key = tuple(sorted(lever.change for lever in combination))
        if key not in self.tried:
            try:
                tape, machine = self._tape(applied(self.setup, combination))
            except NotKept:
                return None
            self.tried[key] = cure_of(combination, Peaks(*replay_peaks(tape, machine)), self.room)
        return self.tried[key]

    def _tape(self, setup: Setup) -> tuple[Tape, Machine]:
        folded, batch, sequence = self._of(setup)
        machine = self.machine_of(setup)
        tape = folded.tape(machine, batch, sequence)
        if tape is None:
            raise NotKept("tapes for the card's kind are not there")
        return tape, machine

    def _of(self, setup: Setup) -> tuple[FoldedTapes, int, int]:
        """The tapes of a setup, its batch and its length."""
        folded = self.folded_of(setup)
        batch, sequence = setup.training.per_device_train_batch_size, setup.training.max_length
        if folded is None or not batch or not sequence:
            raise NotKept("its tapes are not there")
        if self.evaluation_batch_of(setup) is not None:
            raise NotKept("evaluations are not folded")
        return folded, batch, sequence

    def _estimates(self) -> Callable[[Combination], float]:
        """How full the room is at the least, by rounded sums; beyond all bounds where nothing says it."""
        known: dict[str, float] = {}  # segments change no sum

        def estimate(combination: Combination) -> float:
            rest = tuple(lever for lever in combination if lever.kind != "segments")
            name = ", ".join(lever.change for lever in rest)
            if name not in known:
                known[name] = self._share(rest)
            return known[name]

        return estimate

    def _share(self, combination: Combination) -> float:
        same = Operation("training.gradient_accumulation_steps", self.setup.training.gradient_accumulation_steps)
        try:  # batches that wait are next to nothing, and a tape without them is unfolded once
            folded, batch, sequence = self._of(setup := applied(self.setup, (*combination, Lever("", "", (same,)))))
        except NotKept:
            return float("inf")
        allocated = folded.most_in_use(self.machine_of(setup), batch, sequence)
        if allocated is None:
            return float("inf")
        room = self.room
        shares = [allocated / room.reserved] if room.reserved else []
        return max([*shares, *([allocated / room.allocated] if room.allocated else [])], default=0.0)

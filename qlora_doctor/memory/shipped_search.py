"""A search for a cure among the setups whose traces come with the package: a replay for each, and no torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from .cure import Search
from .families import SMALL_MEMORY_HEAD
from .kept import NotKept
from .levers import Combination, applied
from .moments import most_in_use
from .predict import prediction_of
from .replay import replay
from .scaling import ALIGNED
from .shipped import shipped_for

if TYPE_CHECKING:
    from ..setup.setup import Setup
    from .kept import Outline
    from .machine import Machine
    from .predict import Prediction
    from .tape import Tape


class ShippedSearch(Search):
    """As :class:`.cure.Search`; a combination that does not come with the package is passed over."""

    def prediction(self, setup: Setup) -> Prediction:
        """The prediction of a changed setup.

        Raises:
            NotKept: its traces do not come with the package.
        """
        outline, tape, machine = self._tape(setup)
        return prediction_of(outline, machine, replay(tape, machine))

    def _tape(self, setup: Setup) -> tuple[Outline, Tape, Machine]:
        shipped, machine = shipped_for(setup), self.machine_of(setup)
        batch, sequence = setup.training.per_device_train_batch_size, setup.training.max_length
        if shipped is None or not batch or not sequence or sequence % ALIGNED:
            raise NotKept("its traces do not come with the package")
        if self.evaluation_batch_of(setup) is not None:
            raise NotKept("evaluations do not come with the package")
        found = shipped.scalable(machine.kind(shipped.outline.head > SMALL_MEMORY_HEAD), batch == 1, sequence)
        if found is None:
            raise NotKept("the card's kind does not come with the package")
        return replace(shipped.outline, batch=batch, sequence=sequence), found.at(batch, sequence), machine

    def _estimates(self) -> Callable[[Combination], float]:
        """How full the room is at the least, by rounded sums; beyond all bounds where nothing tells it."""
        known: dict[str, float] = {}  # segments change no sum

        def estimate(combination: Combination) -> float:
            rest = tuple(lever for lever in combination if lever.kind != "segments")
            name = ", ".join(lever.change for lever in rest)
            if name not in known:
                known[name] = self._share(rest)
            return known[name]

        return estimate

    def _share(self, combination: Combination) -> float:
        try:
            _, tape, machine = self._tape(applied(self.setup, combination))
        except NotKept:
            return float("inf")
        allocated = most_in_use(tape, machine)
        room = self.room
        shares = [allocated / room.reserved] if room.reserved else []
        return max([*shares, *([allocated / room.allocated] if room.allocated else [])], default=0.0)

"""Tapes of a setup and of its changes: what savings, estimates and cures ask about in turn is traced once.

A tape is that of every machine of one kind, so the allocator's setting and the size of the card ask for no trace.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .kept import Outline
from .machine import Machine
from .predict import Prediction, prediction_of, traced, traced_evaluation
from .replay import replay
from .subject import subject_of_setup
from .tape import Tape

if TYPE_CHECKING:
    from ..setup.setup import Setup
    from .subject import Subject

MOST = 8
"""Setups whose tapes are held: of a large model they take tens of megabytes each."""


@dataclass(frozen=True)
class Tapes:
    """What a prediction is replayed from.

    Attributes:
        evaluation: None where the run evaluates nothing, or was not asked about it.
    """

    outline: Outline
    step: Tape
    evaluation: Tape | None
    evaluation_batch: int | None

    def prediction(self, machine: Machine, saved: list[int] | None = None) -> Prediction:
        """The prediction for a machine of the kind that they were traced for."""
        return prediction_of(self.outline, machine, replay(self.step, machine, evaluation=self.evaluation, saved=saved))


class TracedOnce:
    """Traces setups that differ in a few values.

    Args:
        setup: the one that they are changes of.
        architecture: that of its model.
    """

    def __init__(self, setup: Setup, architecture: Any = None, *, offline: bool = True) -> None:
        self._model, self._architecture, self._offline = setup.model.name_or_path, architecture, offline
        self._held: OrderedDict[tuple[Any, ...], Tapes] = OrderedDict()
        self.count = 0
        """Steps that were traced."""

    def tapes(
        self, setup: Setup, machine: Machine, evaluation_batch: int | None = None, subject: Subject | None = None
    ) -> Tapes:
        """The tapes of a setup; ``subject`` where it is built already, which is spent then.

        Raises:
            PredictionError: it cannot be traced.
            StageError: its model cannot be built.
        """
        key = _key(setup, machine)
        held = self._held.get(key)
        if held is None or held.evaluation_batch != evaluation_batch is not None:
            held = self._held[key] = self._traced(subject or self._made(setup), machine, evaluation_batch)
            if len(self._held) > MOST:
                self._held.popitem(last=False)
        self._held.move_to_end(key)
        if evaluation_batch is None and held.evaluation is not None:
            return Tapes(held.outline, held.step, None, None)
        return held

    def prediction(self, setup: Setup, machine: Machine, evaluation_batch: int | None = None) -> Prediction:
        """The prediction of a setup on a machine.

        Raises:
            PredictionError: it cannot be traced.
            StageError: its model cannot be built.
        """
        return self.tapes(setup, machine, evaluation_batch).prediction(machine)

    def _made(self, setup: Setup) -> Subject:
        same = setup.model.name_or_path == self._model
        return subject_of_setup(setup, architecture=self._architecture if same else None, offline=self._offline)

    def _traced(self, subject: Subject, machine: Machine, evaluation_batch: int | None) -> Tapes:
        self.count += 1
        step = traced(subject, machine)
        evaluation = None if evaluation_batch is None else traced_evaluation(subject, machine, evaluation_batch)
        return Tapes(subject.outline, step, evaluation, evaluation_batch)


def _key(setup: Setup, machine: Machine) -> tuple[Any, ...]:
    """What decides the course of a step: the setup's values, and of the machine its kind."""
    of_the_replay = {"gpu": None, "memory": None, "expandable_segments": None}
    plain = setup.model_copy(update={"hardware": setup.hardware.model_copy(update=of_the_replay)})
    told = plain.model_dump_json(exclude={"origins"})
    return told, machine.kind(True), machine.kind(False), machine.cudnn_attention

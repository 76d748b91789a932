"""The tape of any batch and sequence of a setup, from few traces.

Where a step takes the same course for all lengths, traces of the shortest and the longest tell every size
(:mod:`.scaling`) and a third, between them, tells whether that holds. Where it does not (a sliding window that needs a
mask only beyond its own length), the lengths are halved until each piece has one course. Batch 1 has a course of its
own and is traced apart.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from .machine import Machine
from .predict import traced, traced_evaluation
from .scaling import ALIGNED, MANY, NotScalable, ScalableTape, scalable
from .subject import Subject
from .tape import Tape

Maker = Callable[[], Subject]
Size = tuple[int, int]
"""Batch and sequence."""


class Tracer:
    """Traces a setup's step, and counts; one model serves all traces where a trace leaves it as it was."""

    def __init__(self, make: Maker, told: Callable[[str], None] = lambda text: None) -> None:
        self.make = make
        self.told = told
        self.count = 0
        self._kept: Subject | None = None
        self._latest: Subject | None = None

    @property
    def subject(self) -> Subject:
        """The setup's subject, for what does not change with batch and sequence; not to be traced."""
        if self._latest is None:
            self._kept = self._latest = self.make()
        return self._latest

    def tape(self, machine: Machine, batch: int, sequence: int) -> Tape:
        """The tape of this batch and sequence.

        Raises:
            PredictionError: it cannot be traced.
        """
        subject = self._kept or self.make()
        self._latest = subject
        self._kept = subject if unchanged_by_tracing(subject) else None
        self.count += 1
        self.told(f"tracing a step of {batch} × {sequence:,} tokens (trace {self.count})")
        return traced(replace(subject, step=replace(subject.step, batch=batch, sequence=sequence)), machine)


class EvaluationTracer(Tracer):
    """Traces evaluation batches of a setup instead of its steps."""

    def tape(self, machine: Machine, batch: int, sequence: int) -> Tape:
        """The tape of an evaluation batch of these samples and tokens.

        Raises:
            PredictionError: it cannot be traced.
        """
        subject = self.make()
        self.count += 1
        self.told(f"tracing an evaluation of {batch} × {sequence:,} tokens")
        subject = replace(subject, step=replace(subject.step, batch=batch, sequence=sequence))
        return traced_evaluation(subject, machine, batch, made_ready=False)


def unchanged_by_tracing(subject: Subject) -> bool:
    """Whether a trace leaves the model as it was: trl casts the adapter, bitsandbytes the biases of 4-bit layers."""
    if subject.step.trainer == "trl":
        return False
    return not any(
        getattr(module, "bias", None) is not None and getattr(module, "quant_state", None) is not None
        for module in subject.model.modules()
    )


@dataclass(frozen=True)
class Piece:
    """Sequences up to ``last`` in which a step has one course, and the tape of each."""

    last: int
    at: Callable[[int, int], Tape]


class Courses:
    """Tapes of one setup on one kind of machine.

    Attributes
    ----------
    own: tapes of cells of the table that were traced themselves, to verify the others by.
    notes: how the sizes were found; one sentence each.
    """

    def __init__(self, tracer: Tracer, machine: Machine, batches: Sequence[int], sequences: Sequence[int]) -> None:
        self._tracer, self._machine = tracer, machine
        self._traced: dict[Size, Tape] = {}
        self.own: dict[Size, Tape] = {}
        self.notes: list[str] = []
        self._pieces: dict[bool, list[Piece]] = {}
        self._single: dict[tuple[bool, int], Piece] = {}
        self._smallest = min((batch for batch in batches if batch > 1), default=2)
        aligned = sorted(length for length in sequences if length % ALIGNED == 0)
        for alone in sorted({batch == 1 for batch in batches}, reverse=True):
            if aligned:
                smallest = min(batch for batch in batches if (batch == 1) == alone)
                self._pieces[alone] = self._look(alone, smallest, aligned)
        if len(aligned) < len(sequences):
            self.notes.append(f"Lengths that are no multiple of {ALIGNED} are padded on the way and were traced apart.")

    def at(self, batch: int, sequence: int) -> Tape:
        """The tape of this batch and sequence; between two pieces that of the longer sequences."""
        alone = batch == 1
        pieces = self._pieces.get(alone)
        if pieces is None or sequence % ALIGNED:
            if (alone, sequence) not in self._single:
                self._single[alone, sequence] = self._piece(1 if alone else self._smallest, sequence)
            return self._single[alone, sequence].at(batch, sequence)
        return _at_piece(pieces, (batch, sequence))

    def _look(self, alone: bool, smallest: int, sequences: list[int]) -> list[Piece]:
        """The pieces of all lengths; one of the cells between the ends is traced to see that the sizes hold."""
        who = "Batch 1" if alone else "Batches above 1"
        check = smallest, sequences[len(sequences) // 2]
        pieces = self._split(smallest, sequences)
        own = self.own[check] = self._trace(*check)
        if len(pieces) == 1 and len(sequences) > 1 and _at_piece(pieces, check).sizes != own.sizes:
            pieces = [self._piece(smallest, length) for length in sequences]
        if len(pieces) > 1:
            said = ", ".join(f"{piece.last:,}" for piece in pieces)
            self.notes.append(
                f"{who}: the step takes another course at some lengths (a mask, a window), so pieces up to {said} "
                "tokens were traced apart."
            )
            return pieces
        ends = (smallest, sequences[0]), (1 if alone else MANY, sequences[-1])
        said = " and ".join(f"{batch} × {sequence:,}" for batch, sequence in dict.fromkeys(ends))
        self.notes.append(
            f"{who}: every size follows from the traces of {said}, checked with that of {check[0]} × {check[1]:,}. "
            f"{_growth(self._scalable(*ends)) if ends[0] != ends[1] else ''}".strip()
        )
        return pieces

    def _split(self, smallest: int, sequences: list[int]) -> list[Piece]:
        """Pieces of one course each, by halves."""
        if len(sequences) == 1:
            return [self._piece(smallest, sequences[0])]
        try:
            ends = (smallest, sequences[0]), (1 if smallest == 1 else MANY, sequences[-1])
            return [Piece(sequences[-1], self._scalable(*ends).at)]
        except NotScalable:
            half = len(sequences) // 2
            return self._split(smallest, sequences[:half]) + self._split(smallest, sequences[half:])

    def _piece(self, smallest: int, sequence: int) -> Piece:
        """One length alone."""
        if smallest > 1:
            try:
                return Piece(sequence, self._scalable((smallest, sequence), (MANY, sequence)).at)
            except NotScalable:
                pass
        return Piece(sequence, self._trace)

    def _scalable(self, first: Size, second: Size) -> ScalableTape:
        return scalable(self._trace(*first), self._trace(*second), first, second)

    def _trace(self, batch: int, sequence: int) -> Tape:
        if (batch, sequence) not in self._traced:
            self._traced[batch, sequence] = self._tracer.tape(self._machine, batch, sequence)
        return self._traced[batch, sequence]


def _at_piece(pieces: list[Piece], size: Size) -> Tape:
    """The tape of a size from the piece that its length belongs to."""
    place = bisect_left([piece.last for piece in pieces], size[1])
    return pieces[min(place, len(pieces) - 1)].at(*size)


def _growth(whole: ScalableTape) -> str:
    """What grows how, in words."""
    linear, quadratic = whole.growth()
    if not quadratic:
        return f"{linear:,} buffers grow linearly with the tokens, none with the square of the sequence."
    return f"{linear:,} buffers grow linearly with the tokens, {quadratic:,} with the square of the sequence."

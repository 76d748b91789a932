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
from typing import TYPE_CHECKING

from .families import SMALL_MEMORY_HEAD
from .kept import NotKept, Outline, Size, Traces
from .machine import Machine
from .moments import most_in_use
from .predict import traced, traced_evaluation
from .scaling import ALIGNED, MANY, NotScalable, ScalableTape, scalable
from .tape import Tape

if TYPE_CHECKING:
    from .subject import Subject

Maker = Callable[[], "Subject"]
NEAR, FAR = 64, 16_384
"""Tokens between which all lengths are listed where one alone is asked about."""


class Tracer:
    """Traces a setup's step, and counts; one model serves all traces where a trace leaves it as it was.

    Args:
        make: builds the subject of a trace; None where nobody can, and only kept traces are to be had.
        told: is called with what is traced.
        traces: those that are kept; new ones are added.
    """

    what = "step"

    def __init__(
        self, make: Maker | None, told: Callable[[str], None] = lambda text: None, traces: Traces | None = None
    ) -> None:
        self.make = make
        self.told = told
        self.count = 0
        self.traces = traces if traces is not None else Traces()
        self._kept: Subject | None = None
        self._latest: Subject | None = None

    @property
    def outline(self) -> Outline:
        """What does not change with batch and sequence.

        Raises:
            NotKept: it is not known yet, and nobody can build the model.
        """
        if self.traces.outline is None:
            if self._latest is None:
                self._kept = self._latest = self.made()
            self.traces.outline = self._latest.outline
        return self.traces.outline

    def made(self) -> Subject:
        """A fresh subject.

        Raises:
            NotKept: nobody can build the model.
        """
        if self.make is None:
            raise NotKept("a trace is needed that is not kept")
        return self.make()

    def known(self, machine: Machine) -> dict[Size, Tape]:
        """The traces that are there for machines of this kind."""
        return self.traces.of(self.what, machine.kind(self.outline.head > SMALL_MEMORY_HEAD))

    def tape(self, machine: Machine, batch: int, sequence: int) -> Tape:
        """The tape of this batch and sequence, kept or traced now.

        Raises:
            PredictionError: it cannot be traced.
            NotKept: it is not kept, and nobody can build the model.
        """
        known = self.known(machine)
        if (batch, sequence) not in known:
            if self.make is None:
                raise NotKept("a trace is needed that is not kept")
            known[batch, sequence] = self._trace(machine, batch, sequence)
            self.count += 1
        return known[batch, sequence]

    def unfolded(self, machine: Machine, batch: int, sequence: int) -> Tape | None:
        """The tape as folded ones tell it; None where they do not."""
        return None if self.traces.folded is None else self.traces.folded.tape(machine, batch, sequence)

    def _trace(self, machine: Machine, batch: int, sequence: int) -> Tape:
        subject = self._kept or self.made()
        self._latest = subject
        self._kept = subject if unchanged_by_tracing(subject) else None
        self.told(f"tracing a step of {batch} × {sequence:,} tokens (trace {self.count + 1})")
        return traced(replace(subject, step=replace(subject.step, batch=batch, sequence=sequence)), machine)


class EvaluationTracer(Tracer):
    """Traces evaluation batches of a setup instead of its steps."""

    what = "evaluation"

    def unfolded(self, machine: Machine, batch: int, sequence: int) -> Tape | None:
        """None: evaluations are not folded."""
        return None

    def _trace(self, machine: Machine, batch: int, sequence: int) -> Tape:
        subject = self.made()
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


class TapesBySize:
    """Tapes of one setup on one kind of machine.

    Attributes
    ----------
    own: tapes of cells of the table that were traced themselves, to verify the others by.
    notes: how the sizes were found; one sentence each.
    """

    def __init__(self, tracer: Tracer, machine: Machine, batches: Sequence[int], sequences: Sequence[int]) -> None:
        self._tracer, self._machine = tracer, machine
        self.own: dict[Size, Tape] = {}
        self.notes: list[str] = []
        self._batches = sorted(set(batches))
        self._lengths = sorted({length for length in sequences if length % ALIGNED == 0})
        self._pieces: dict[bool, list[Piece]] = {}
        self._single: dict[tuple[bool, int], Piece] = {}
        if tracer.traces.folded is None and any(length % ALIGNED for length in sequences):
            self.notes.append(f"Lengths that are no multiple of {ALIGNED} are padded on the way and were traced apart.")

    def at(self, batch: int, sequence: int) -> Tape:
        """The tape of this batch and sequence; between two pieces that of the longer sequences."""
        alone = batch == 1
        unfolded = self._tracer.unfolded(self._machine, batch, sequence)
        if unfolded is not None:
            return unfolded
        if sequence % ALIGNED:
            if (alone, sequence) not in self._single:
                self._single[alone, sequence] = self._piece(1 if alone else self._smallest(), sequence)
            return self._single[alone, sequence].at(batch, sequence)
        if alone not in self._pieces:
            self._pieces[alone] = self._look(alone, 1 if alone else self._smallest(), self._lengths_of(alone))
        return _at_piece(self._pieces[alone], (batch, sequence))

    def most_in_use(self, batch: int, sequence: int) -> int:
        """As :func:`.moments.most_in_use`; where the tapes are folded a little less at times, and fast."""
        folded = self._tracer.traces.folded
        if folded is not None:
            found = folded.most_in_use(self._machine, batch, sequence)
            if found is not None:
                return found
        return most_in_use(self.at(batch, sequence), self._machine)

    def cell(self, batch: int, sequence: int) -> tuple[Tape, bool]:
        """The tape of one batch and sequence, and whether it is a trace of its own: one where none says it yet."""
        known = self._tracer.known(self._machine)
        if (batch, sequence) in known:
            return known[batch, sequence], True
        make, self._tracer.make = self._tracer.make, None
        try:
            return self.at(batch, sequence), False
        except NotKept:
            pass
        finally:
            self._tracer.make = make
        return self._trace(batch, sequence), True

    def _smallest(self) -> int:
        """The batch above 1 that most is known of."""
        known = [batch for batch, _ in self._tracer.known(self._machine) if batch not in (1, MANY)]
        return min(known or [batch for batch in self._batches if batch > 1], default=2)

    def _lengths_of(self, alone: bool) -> list[int]:
        """The lengths that tell all others: the table's and those that are known; of a single one its surroundings."""
        known = {length for batch, length in self._tracer.known(self._machine) if (batch == 1) == alone}
        lengths = {*self._lengths, *(length for length in known if length % ALIGNED == 0)}
        if len(lengths) < 2:
            own, limit = max(lengths, default=ALIGNED), self._tracer.outline.limit
            far = FAR if limit is None else min(FAR, limit // ALIGNED * ALIGNED)
            lengths |= {min(NEAR, own), max(far, own)}
            if len(lengths) == 2:  # a third, between the ends, tells whether they tell all
                lengths.add(sum(lengths) // 2 // ALIGNED * ALIGNED)
        return sorted(lengths)

    def _look(self, alone: bool, smallest: int, sequences: list[int]) -> list[Piece]:
        """The pieces of all lengths; one of the cells between the ends is traced to see that the sizes hold."""
        who = "Batch 1" if alone else "Batches above 1"
        known = {length for batch, length in self._tracer.known(self._machine) if batch == smallest}
        inner = [length for length in sequences[1:-1] if length in known]
        check = smallest, inner[0] if inner else sequences[len(sequences) // 2]
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
        return self._tracer.tape(self._machine, batch, sequence)


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

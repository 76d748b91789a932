"""The tape of any batch and sequence of a setup, from few traces.

Where a step takes the same course for all lengths, two traces tell every size (:mod:`.scaling`) and a third, of the
longest sequence, tells whether that holds. Where it does not (a sliding window that needs a mask only beyond its own
length), the lengths are halved until each piece has one course. Batch 1 has a course of its own and is traced apart.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from .machine import Machine
from .predict import traced
from .scaling import ALONE, FIRST, SECOND, NotScalable, ScalableTape, same_course, scalable
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
        self.own: dict[Size, Tape] = {}
        self.notes: list[str] = []
        self._linear: set[str] = set()
        self._pieces: dict[bool, list[Piece]] = {}
        for alone in sorted({batch == 1 for batch in batches}, reverse=True):
            smallest = min(batch for batch in batches if (batch == 1) == alone)
            self._pieces[alone] = self._look(alone, smallest, sorted(sequences))

    def at(self, batch: int, sequence: int) -> Tape:
        """The tape of this batch and sequence; between two pieces that of the longer sequences."""
        pieces = self._pieces.get(batch == 1)
        if pieces is None:
            return self._trace(batch, sequence)
        place = bisect_left([piece.last for piece in pieces], sequence)
        return pieces[min(place, len(pieces) - 1)].at(batch, sequence)

    def _trace(self, batch: int, sequence: int) -> Tape:
        return self._tracer.tape(self._machine, batch, sequence)

    def _look(self, alone: bool, smallest: int, sequences: list[int]) -> list[Piece]:
        pair = ALONE if alone else (FIRST, SECOND)
        who = "Batch 1" if alone else "Batches above 1"
        longest = (smallest, sequences[-1])
        own = self.own[longest] = self._trace(*longest)
        try:
            one, other = (self._trace(*size) for size in pair)
            whole = scalable(one, other, *pair)
            if not same_course(one, own):
                raise NotScalable("a long sequence takes another course")
        except NotScalable:
            pieces = self._split(alone, sequences, {longest: own})
            said = ", ".join(f"{piece.last:,}" for piece in pieces)
            self.notes.append(
                f"{who}: the step takes another course at some lengths (a mask, a window), so pieces up to {said} tokens "
                "were traced apart."
            )
            return pieces
        said = " and ".join(f"{batch} × {sequence:,}" for batch, sequence in pair)
        self.notes.append(
            f"{who}: every size follows from two traces ({said}), checked with a third ({longest[0]} × {longest[1]:,}). "
            f"{_growth(whole)}"
        )
        return [Piece(sequences[-1], whole.at)]

    def _split(self, alone: bool, sequences: list[int], known: dict[Size, Tape]) -> list[Piece]:
        """Pieces of one course each, by halves."""
        batches = (1, 1) if alone else (FIRST[0], SECOND[0])
        if len(sequences) > 1:
            pair = (batches[0], _prime_from(sequences[0])), (batches[1], _prime_up_to(sequences[-1]))
            if pair[0][1] < pair[1][1]:
                one, other = (self._known(size, known) for size in pair)
                try:
                    return [Piece(sequences[-1], scalable(one, other, *pair).at)]
                except NotScalable:
                    pass
            half = len(sequences) // 2
            return self._split(alone, sequences[:half], known) + self._split(alone, sequences[half:], known)
        (sequence,) = sequences
        if alone:
            tape = self._known((1, sequence), known)
            return [Piece(sequence, lambda batch, length: tape)]
        sizes = (batches[0], sequence), (batches[1], sequence)
        try:
            return [Piece(sequence, scalable(*(self._known(size, known) for size in sizes), *sizes).at)]
        except NotScalable:
            return [Piece(sequence, lambda batch, length: self._known((batch, length), known))]

    def _known(self, size: Size, known: dict[Size, Tape]) -> Tape:
        if size not in known:
            known[size] = self._trace(*size)
        return known[size]


def _growth(whole: ScalableTape) -> str:
    """What grows how, in words."""
    linear, quadratic = whole.growth()
    if not quadratic:
        return f"{linear:,} buffers grow linearly with the tokens, none with the square of the sequence."
    return f"{linear:,} buffers grow linearly with the tokens, {quadratic:,} with the square of the sequence."


def _is_prime(number: int) -> bool:
    return number > 1 and all(number % divisor for divisor in range(2, int(number**0.5) + 1))


def _prime_from(number: int) -> int:
    while not _is_prime(number):
        number += 1
    return number


def _prime_up_to(number: int) -> int:
    while number > 2 and not _is_prime(number):
        number -= 1
    return number

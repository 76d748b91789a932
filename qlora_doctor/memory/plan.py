"""A batch × sequence table of predicted peaks for one card or several, from few traces."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache

from ..tables.cards import CARDS, Card
from .families import SMALL_MEMORY_HEAD
from .kept import Size, Traces
from .machine import Machine
from .moments import most_in_use
from .predict import Prediction, prediction_of
from .replay import replay, replay_peaks
from .tape import Tape
from .tapes_by_size import EvaluationTracer, Maker, TapesBySize, Tracer

BATCHES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
"""Batch sizes of a table where none are asked for."""
SEQUENCES = (256, 512, 1024, 1536, 2048, 3072, 4096, 6144, 8192, 16384)
"""Sequence lengths of a table where none are asked for."""
SHORT_SEQUENCES = (64, 128, 192, 256, 384, 512, 640, 768, 1024)
"""The same for a model that has positions for few tokens."""
BEYOND = 1.25
"""Share of the card from which a cell is not replayed: it does not fit however its memory is cut."""
TOLERANCE = 1e-3
"""Share by which a cell may differ from its own trace and the table still counts as verified."""
MOST_BATCHES = 1024
"""Where the search for the largest batch ends."""
LENGTH_STEP = 64
"""Tokens to which the longest sequence is found."""


@dataclass(frozen=True)
class Cell:
    """One predicted setup; bytes. ``traced`` is true where the cell was traced itself."""

    batch: int
    sequence: int
    peak_allocated_bytes: int
    peak_reserved_bytes: int
    traced: bool = False
    fits: bool | None = None


@dataclass
class Plan:
    """A table of predictions for one card.

    Attributes
    ----------
    cells: every batch with every sequence, by batch, then sequence.
    capacity_bytes: what a process can use of the card: its memory less the CUDA context; None where no card is meant.
    frontier: for each batch that fits at all, the longest sequence that fits.
    traces: how many steps were traced.
    verified: largest relative difference between a cell and its own trace; None where none was compared.
    notes: how the table came about; one sentence each.
    """

    device: str
    capacity_bytes: int | None
    cells: list[Cell]
    traces: int
    verified: float | None
    notes: list[str] = field(default_factory=list)

    @property
    def frontier(self) -> dict[int, int]:
        """Longest sequence that fits, by batch."""
        longest: dict[int, int] = {}
        for cell in self.cells:
            if cell.fits:
                longest[cell.batch] = max(longest.get(cell.batch, 0), cell.sequence)
        return longest

    @property
    def largest_batch(self) -> int | None:
        """Largest batch of the table that fits with the shortest sequence."""
        return max(self.frontier, default=None)

    @property
    def longest_sequence(self) -> int | None:
        """Longest sequence of the table that fits with the smallest batch."""
        return max(self.frontier.values(), default=None)


def capacity(card: Card) -> int:
    """Bytes that PyTorch's allocator can have of a card: what the driver reports less what CUDA itself takes."""
    return card.usable_bytes - card.context_overhead_bytes


def plan(make: Maker, machine: Machine, batches: Sequence[int] = BATCHES, sequences: Sequence[int] = SEQUENCES) -> Plan:
    """The table of ``make``'s setup on ``machine``; ``make`` builds a fresh subject for each trace.

    Raises:
        PredictionError: the step cannot be traced.
    """
    return Planner(make, batches, sequences).table(machine)


class Planner:
    """Tables of one setup for several cards; cards of one kind share their traces.

    Raises, from every method that needs a trace:
        PredictionError: the step cannot be traced.
    """

    def __init__(
        self,
        make: Maker | None,
        batches: Sequence[int] = BATCHES,
        sequences: Sequence[int] = SEQUENCES,
        told: Callable[[str], None] = lambda text: None,
        evaluation_batch: int | None = None,
        traces: Traces | None = None,
    ) -> None:
        self.tracer = Tracer(make, told, traces)
        self.evaluations = EvaluationTracer(make, told, self.tracer.traces)
        self.evaluation_batch = evaluation_batch
        self.batches, self.sequences = sorted(batches), sorted(sequences)
        self._courses: dict[object, TapesBySize] = {}
        self._evaluations: dict[object, TapesBySize] = {}
        self._predictions: dict[tuple[Machine, int, int], Prediction] = {}

    @property
    def traces(self) -> int:
        """How many steps and evaluations were traced."""
        return self.tracer.count + self.evaluations.count

    def table(self, machine: Machine, *, capacity_bytes: int | None = None, held: bool = True) -> Plan:
        """The table for a card; ``held`` says whether the card's memory is a limit at all."""
        space = (capacity_bytes or capacity(machine.card)) if held else None
        courses = self.courses(machine)
        cells, far = self._cells(machine, space)
        notes = list(courses.notes)
        if far:
            notes.append(
                f"Cells above {BEYOND:.2f} times the card are sums of rounded sizes, without the allocator's replay; "
                "their reserved memory is scaled from the last cell that was replayed."
            )
        cells, verified = _compared(cells, courses, machine, lambda sequence: self.evaluation(machine, sequence))
        if verified is not None and verified > TOLERANCE:
            notes.append(f"A cell differed from its own trace by {verified:.2%}; read the table as that exact.")
        return Plan(machine.card.name, space, cells, self.traces, verified, notes)

    def prediction(self, machine: Machine, batch: int, sequence: int) -> Prediction:
        """The whole prediction of one batch and sequence."""
        key = machine, batch, sequence
        if key not in self._predictions:
            self._predictions[key] = self._predict(machine, batch, sequence)
        return self._predictions[key]

    def _predict(self, machine: Machine, batch: int, sequence: int) -> Prediction:
        outline = replace(self.tracer.outline, batch=batch, sequence=sequence)
        evaluation = self.evaluation(machine, sequence)
        courses = self.courses(machine)
        tape = courses.cell(batch, sequence)[0] if self.is_one_cell else courses.at(batch, sequence)
        return prediction_of(outline, machine, replay(tape, machine, evaluation=evaluation))

    @contextmanager
    def tracing(self, allowed: bool) -> Iterator[None]:
        """Within, traces may be made or only taken from those that are kept (else NotKept)."""
        tracers = (self.tracer, self.evaluations)
        makers = [tracer.make for tracer in tracers]
        for tracer in tracers:
            tracer.make = tracer.make if allowed else None
        try:
            yield
        finally:
            for tracer, make in zip(tracers, makers, strict=True):
                tracer.make = make

    @property
    def is_one_cell(self) -> bool:
        """Whether one batch and one length are asked about, which one trace answers."""
        return len(self.batches) == len(self.sequences) == 1

    def evaluation(self, machine: Machine, sequence: int) -> Tape | None:
        """The tape of an evaluation batch with samples of this length; None where the run evaluates nothing."""
        batch = self.evaluation_batch
        if batch is None:
            return None
        kind = machine.kind(self._has_wide_heads())
        if kind not in self._evaluations:
            self._evaluations[kind] = TapesBySize(self.evaluations, machine, [batch], self.sequences)
        courses = self._evaluations[kind]
        return courses.cell(batch, sequence)[0] if self.is_one_cell else courses.at(batch, sequence)

    def largest_batch(self, machine: Machine, sequence: int, space: int) -> int | None:
        """Most samples of this length that fit into ``space`` bytes reserved; None where not even one does."""
        return self._most(machine, space, lambda count: (count, sequence), MOST_BATCHES)

    def reach(self, machine: Machine, batch: int, limit: int) -> int:
        """Tokens up to which the longest sequence is sought: ``limit``, or where folded tapes end before it."""
        folded = self.tracer.traces.folded
        end = None if folded is None else folded.reach(machine, batch == 1)
        return limit if end is None else min(limit, end)

    def longest_sequence(self, machine: Machine, batch: int, space: int, limit: int) -> int | None:
        """Most tokens a sample, in steps of :data:`LENGTH_STEP` up to ``limit``, that fit with this batch."""
        steps = self._most(machine, space, lambda count: (batch, count * LENGTH_STEP), max(1, limit // LENGTH_STEP))
        return None if steps is None else steps * LENGTH_STEP

    def _most(self, machine: Machine, space: int, size: Callable[[int], Size], limit: int) -> int | None:
        """The largest count up to ``limit`` whose size fits: sought by rounded sums, settled by replays."""
        courses = self.courses(machine)

        @cache
        def sums(count: int) -> int:
            return courses.most_in_use(*size(count))

        def reserved(count: int, enough: int | None) -> int:
            batch, sequence = size(count)
            evaluation = self.evaluation(machine, sequence)
            return replay_peaks(courses.at(batch, sequence), machine, evaluation=evaluation, enough=enough)[1]

        own = next(reversed(self._predictions.values()), None)
        beyond = 1.0 if own is None else own.peak_reserved_bytes / own.peak_allocated_bytes
        return largest_within(sums, reserved, space, limit, beyond)

    def courses(self, machine: Machine) -> TapesBySize:
        """Tapes for a machine."""
        kind = machine.kind(self._has_wide_heads())
        if kind not in self._courses:
            self._courses[kind] = TapesBySize(self.tracer, machine, self.batches, self.sequences)
        return self._courses[kind]

    def _has_wide_heads(self) -> bool:
        return self.tracer.outline.head > SMALL_MEMORY_HEAD

    def _one(self, machine: Machine, space: int | None) -> Cell:
        """The only cell, which is the prediction that is asked for."""
        (batch,), (sequence,) = self.batches, self.sequences
        _, traced = self.courses(machine).cell(batch, sequence)
        own = self.prediction(machine, batch, sequence)
        fits = None if space is None else own.peak_reserved_bytes <= space
        return Cell(batch, sequence, own.peak_allocated_bytes, own.peak_reserved_bytes, traced, fits)

    def _cells(self, machine: Machine, space: int | None) -> tuple[list[Cell], bool]:
        """All cells, and whether some lie so far beyond the card that they were not replayed."""
        courses = self.courses(machine)
        if self.is_one_cell:
            return [self._one(machine, space)], False
        cells: list[Cell] = []
        ratio, far = 1.0, False
        full = self.sequences[-1] + 1
        for batch in self.batches:
            for sequence in self.sequences:
                tape = courses.at(batch, sequence)
                # Peaks grow with both, so only what lies beyond a cell that did not fit can be far beyond the card.
                maybe_far = space is not None and sequence >= full and (batch, sequence) not in courses.own
                rough = most_in_use(tape, machine) if maybe_far else 0
                if space is not None and rough > BEYOND * space:
                    far = True
                    cells.append(Cell(batch, sequence, rough, int(rough * ratio), fits=False))
                    continue
                allocated, reserved = replay_peaks(tape, machine, evaluation=self.evaluation(machine, sequence))
                ratio = max(1.0, reserved / allocated)
                if space is not None and allocated > space:
                    full = min(full, sequence)
                fits = None if space is None else reserved <= space
                cells.append(Cell(batch, sequence, allocated, reserved, fits=fits))
        return cells, far


def cards_that_fit(prediction_bytes: int) -> list[Card]:
    """The cards that hold a predicted peak of reserved bytes, smallest first.

    The prediction was made for one card; kernels and workspaces of another can differ by some tens of MiB.
    """
    return sorted((card for card in CARDS if capacity(card) >= prediction_bytes), key=lambda card: card.usable_bytes)


def lengths_for(most: int | None) -> tuple[int, ...]:
    """Sequence lengths of a table for a model with positions for ``most`` tokens."""
    if most is None or most >= SEQUENCES[-1]:
        return SEQUENCES
    every = sorted({*SHORT_SEQUENCES, *SEQUENCES})
    return tuple(length for length in every if length <= most)[-len(SEQUENCES) :] or (most,)


def _compared(
    cells: list[Cell], courses: TapesBySize, machine: Machine, evaluation: Callable[[int], Tape | None]
) -> tuple[list[Cell], float | None]:
    """The cells, marked where they were traced, and the largest relative difference to those traces."""
    own: dict[Size, tuple[int, int]] = {
        size: replay_peaks(tape, machine, evaluation=evaluation(size[1]))
        for size, tape in courses.own.items()
        if size in {(cell.batch, cell.sequence) for cell in cells}
    }
    marked, worst = [], None
    for cell in cells:
        peaks = own.get((cell.batch, cell.sequence))
        if peaks is not None:
            worst = max(worst or 0.0, abs(cell.peak_allocated_bytes - peaks[0]) / peaks[0])
            cell = replace(cell, traced=True)
        marked.append(cell)
    return marked, worst


def largest_within(
    sums: Callable[[int], int], reserved: Callable[[int, int | None], int], space: int, limit: int, beyond: float = 1.0
) -> int | None:
    """The largest number up to ``limit`` of which no more than ``space`` bytes are reserved; None where there is none.

    ``reserved`` takes a replay, which may end once more than its second argument is reserved; ``sums`` takes a fraction
    of one and is never above it. So the place is sought by sums, scaled by what the last replay that fits reserved
    beyond its own; ``beyond`` is that of another one, to begin with.
    """
    guess = _crossing(sums, round(space / beyond), 0, limit + 1)
    low, high = 0, limit + 1  # low is known to fit, high not to
    missed = 0
    while True:
        found = reserved(guess, space if low else None)
        if found <= space or not low:
            beyond = found / sums(guess)
        low, high, missed = (guess, high, 0) if found <= space else (low, guess, missed + 1)
        if high - low <= 1:
            return low or None
        guess = min(_crossing(sums, round(space / beyond), low, high), high - 1)
        if missed > 2:
            guess = (low + high) // 2


def _crossing(sums: Callable[[int], int], space: int, low: int, high: int) -> int:
    """Between two numbers the largest whose sum is within ``space``, at least the one behind ``low``."""
    below, above = low + 1, high - 1
    value = sums(below)
    if value > space or below >= above:
        return below
    top = sums(above)
    if top <= space:
        return above
    halve = False
    while above - below > 1:
        middle = (below + above) // 2 if halve else below + int((space - value) * (above - below) / (top - value))
        middle = min(max(middle, below + 1), above - 1)
        between = sums(middle)
        if between <= space:
            halve = middle - below < (above - below) // 4
            below, value = middle, between
        else:
            halve = above - middle < (above - below) // 4
            above, top = middle, between
    return below

"""A batch × sequence table of predicted peaks, from few traces."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from ..config.cards import CARDS, Card
from .machine import Machine
from .predict import PredictionError, traced
from .replay import replay_peaks
from .savings import moments
from .scaling import ALONE, FIRST, SECOND, NotScalable, ScalableTape, same_course, scalable
from .subject import Subject
from .tape import Tape

BATCHES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
"""Batch sizes of a table where none are asked for."""
SEQUENCES = (256, 512, 1024, 1536, 2048, 3072, 4096, 6144, 8192, 16384)
"""Sequence lengths of a table where none are asked for."""
BEYOND = 1.25
"""Share of the card from which a cell is not replayed: it does not fit however its memory is cut."""
TOLERANCE = 1e-3
"""Share by which a cell may differ from its own trace and the table still counts as verified."""

Maker = Callable[[], Subject]
TapeMaker = Callable[[int, int], Tape]


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
    """A table of predictions.

    Attributes
    ----------
    cells: every batch with every sequence, by batch, then sequence.
    capacity_bytes: what a process can use of the card: its memory less the CUDA context.
    frontier: for each batch that fits at all, the longest sequence that fits.
    traces: how many steps were traced.
    verified: largest relative difference between a cell and its own trace; None where none was compared.
    notes: how the table came about; one sentence each.
    """

    device: str
    capacity_bytes: int
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
    tracer = _Tracer(make, machine)
    tapes, notes = _tapes(tracer, batches, sequences)
    space = capacity(machine.card)
    cells = []
    ratio, far, full = 1.0, False, max(sequences) + 1
    for batch in sorted(batches):
        for sequence in sorted(sequences):
            tape = tapes(batch, sequence)
            # Peaks grow with both, so only what lies beyond a cell that did not fit can be far beyond the card.
            maybe_far = sequence >= full and (batch, sequence) not in tracer.peaks
            rough = max(moments(tape, machine).values()) if maybe_far else 0
            if rough > BEYOND * space:
                far = True
                cells.append(Cell(batch, sequence, rough, int(rough * ratio), fits=False))
                continue
            allocated, reserved = replay_peaks(tape, machine)
            ratio = max(1.0, reserved / allocated)
            full = min(full, sequence) if allocated > space else full
            cells.append(Cell(batch, sequence, allocated, reserved, fits=reserved <= space))
    if far:
        notes.append(
            f"Cells above {BEYOND:.2f} times the card are sums of rounded sizes, without the allocator's replay; their "
            "reserved memory is scaled from the last cell that was replayed."
        )
    cells, verified = tracer.compare(cells)
    if verified is not None and verified > TOLERANCE:
        notes.append(f"A cell differed from its own trace by {verified:.2%}; read the table as that exact.")
    return Plan(machine.card.name, space, cells, tracer.count, verified, notes)


def cards_that_fit(prediction_bytes: int, cards: Sequence[Card] = CARDS) -> list[Card]:
    """The cards that hold a predicted peak of reserved bytes, smallest first.

    The prediction was made for one card; kernels and workspaces of another can differ by some tens of MiB.
    """
    return sorted((card for card in cards if capacity(card) >= prediction_bytes), key=lambda card: card.usable_bytes)


class _Tracer:
    """Traces, counted and compared; one model serves them all where a trace leaves it as it was."""

    def __init__(self, make: Maker, machine: Machine) -> None:
        self.make = make
        self.machine = machine
        self.count = 0
        self.kept: Subject | None = None
        self.peaks: dict[tuple[int, int], tuple[int, int]] = {}

    def tape(self, batch: int, sequence: int) -> Tape:
        subject = self.kept or self.make()
        self.kept = subject if unchanged_by_tracing(subject) else None
        self.count += 1
        step = replace(subject.step, batch=batch, sequence=sequence)
        return traced(replace(subject, step=step), self.machine)

    def own_tape(self, batch: int, sequence: int) -> Tape:
        """The tape of a cell, whose peaks are kept to verify the table by."""
        tape = self.tape(batch, sequence)
        self.peaks[batch, sequence] = replay_peaks(tape, self.machine)
        return tape

    def compare(self, cells: list[Cell]) -> tuple[list[Cell], float | None]:
        """The cells, marked where they were traced, and the largest relative difference to those traces."""
        marked, worst = [], None
        for cell in cells:
            own = self.peaks.get((cell.batch, cell.sequence))
            if own is not None:
                worst = max(worst or 0.0, abs(cell.peak_allocated_bytes - own[0]) / own[0])
                cell = replace(cell, traced=True)
            marked.append(cell)
        return marked, worst


def unchanged_by_tracing(subject: Subject) -> bool:
    """Whether a trace leaves the model as it was: trl casts the adapter, bitsandbytes the biases of 4-bit layers."""
    if subject.step.trainer == "trl":
        return False
    return not any(
        getattr(module, "bias", None) is not None and getattr(module, "quant_state", None) is not None
        for module in subject.model.modules()
    )


def _tapes(tracer: _Tracer, batches: Sequence[int], sequences: Sequence[int]) -> tuple[TapeMaker, list[str]]:
    """A tape for any cell: from two traces where the step's course is one for all, else from two for each sequence.

    Batch 1 has a course of its own and is traced apart; the longest sequence is traced to see that the course holds.
    """
    makers: dict[bool, TapeMaker] = {}
    notes = []
    for alone in sorted({batch == 1 for batch in batches}, reverse=True):
        pair = ALONE if alone else (FIRST, SECOND)
        smallest = min(batch for batch in batches if (batch == 1) == alone)
        longest = (smallest, max(sequences))
        own = tracer.own_tape(*longest)
        try:
            one, other = (tracer.tape(*size) for size in pair)
            whole = scalable(one, other, *pair)
            if not same_course(one, own):
                raise NotScalable("a long sequence takes another course")
        except NotScalable:
            makers[alone] = _by_sequence(tracer, sequences, alone)
            notes.append(f"{_who(alone)}: the course of a step changes with the length, so each length was traced.")
        else:
            makers[alone] = whole.at
            said = " and ".join(f"{batch} × {sequence}" for batch, sequence in pair)
            notes.append(
                f"{_who(alone)}: sizes follow from two traces ({said}), checked with {longest[0]} × {longest[1]}."
            )
    return (lambda batch, sequence: makers[batch == 1](batch, sequence)), notes


def _who(alone: bool) -> str:
    return "Batch 1" if alone else "Batches above 1"


def _by_sequence(tracer: _Tracer, sequences: Sequence[int], alone: bool) -> TapeMaker:
    columns: dict[int, ScalableTape | Tape | None] = {}
    for sequence in sequences:
        if alone:
            columns[sequence] = tracer.tape(1, sequence)
            continue
        pair = (FIRST[0], sequence), (SECOND[0], sequence)
        try:
            columns[sequence] = scalable(tracer.tape(*pair[0]), tracer.tape(*pair[1]), *pair)
        except NotScalable:
            columns[sequence] = None

    def tape(batch: int, sequence: int) -> Tape:
        column = columns[sequence]
        if isinstance(column, Tape):
            return column
        return tracer.tape(batch, sequence) if column is None else column.at(batch, sequence)

    return tape


__all__ = [
    "BATCHES",
    "SEQUENCES",
    "Cell",
    "Plan",
    "PredictionError",
    "capacity",
    "cards_that_fit",
    "plan",
]

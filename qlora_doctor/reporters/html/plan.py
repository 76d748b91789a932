"""The heat map of batch × sequence: a table whose cells say in words, marks and shade how full the card would be."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ...facts.memory import CardPlan, MemoryFacts, PlanCell

LEVELS = 5
"""Shades for what fits, by fifths of the card."""


@dataclass(frozen=True)
class Cell:
    """One place of the table.

    Attributes:
        kind: ``l1`` to ``l5`` by share of the card; ``tight`` where the tensors fit and what the allocator reserves
            around them does not; ``full``; ``l0`` where that is unknown.
        here: this is the setup as it is.
        edge_right, edge_below: the frontier runs along that side: this cell fits, its neighbour does not.
        longest: nothing longer fits at this batch.
    """

    cell: PlanCell | None
    kind: str
    here: bool = False
    edge_right: bool = False
    edge_below: bool = False
    longest: bool = False


@dataclass(frozen=True)
class Row:
    """One batch size."""

    batch: int
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class PlanView:
    """The table of one card and what it comes to.

    Attributes:
        card: None where no card is meant and nothing is held against it.
        emulated: the card has no bfloat16 in hardware.
        sentences: what fits, for who reads one line only.
        derived: how many cells follow from others instead of a trace of their own.
    """

    card: str | None
    card_bytes: int | None
    emulated: bool
    sequences: tuple[int, ...]
    rows: tuple[Row, ...]
    sentences: tuple[str, ...]
    derived: int


def plan_views(memory: MemoryFacts) -> tuple[PlanView, ...]:
    """A table for each card that a plan was made for; cells that were recorded without one stand for the setup's."""
    plans = memory.plans or []
    if not plans and memory.plan:
        plans = [CardPlan(card=memory.card or "", card_bytes=memory.card_bytes, cells=memory.plan, frontier=[])]
    return tuple(_view(memory, plan) for plan in plans)


def _view(memory: MemoryFacts, given: CardPlan) -> PlanView:
    plan, card_bytes = given.cells, given.card_bytes
    cells = {(cell.batch, cell.sequence): cell for cell in plan}
    batches = sorted({batch for batch, _ in cells})
    sequences = tuple(sorted({sequence for _, sequence in cells}))
    picture = memory.predicted or memory.measured
    here = (picture.batch, picture.sequence) if picture else (None, None)

    def fits(batch: int | None, sequence: int | None) -> bool | None:
        found = cells.get((batch, sequence)) if batch is not None and sequence is not None else None
        return found.fits if found else None

    rows = []
    for i, batch in enumerate(batches):
        below = batches[i + 1] if i + 1 < len(batches) else None
        row = []
        for j, sequence in enumerate(sequences):
            right = sequences[j + 1] if j + 1 < len(sequences) else None
            ours = fits(batch, sequence)
            cell = cells.get((batch, sequence))
            row.append(
                Cell(
                    cell,
                    _kind(cell, card_bytes),
                    here=(batch, sequence) == here,
                    edge_right=bool(ours) and fits(batch, right) is False,
                    edge_below=bool(ours) and fits(below, sequence) is False,
                    longest=bool(ours) and not any(fits(batch, longer) for longer in sequences[j + 1 :]),
                )
            )
        rows.append(Row(batch, tuple(row)))
    derived = sum(not cell.traced for cell in plan)
    sentences = tuple(_sentences(given, here))
    return PlanView(given.card or None, card_bytes, given.bf16 is False, sequences, tuple(rows), sentences, derived)


def _kind(cell: PlanCell | None, card: int | None) -> str:
    if cell is None or cell.fits is None or card is None:
        return "l0"
    if not cell.fits:
        return "tight" if cell.peak_allocated_bytes <= card else "full"
    return f"l{min(LEVELS, 1 + int(cell.peak_reserved_bytes / card * LEVELS))}"


def _sentences(given: CardPlan, here: tuple[int | None, int | None]) -> Iterator[str]:
    """The ends of the frontier, beyond the table where they were looked for, and the most tokens a step can take."""
    fitting = [cell for cell in given.cells if cell.fits]
    if not fitting:
        if any(cell.fits is False for cell in given.cells):
            yield "Nothing in this table fits the card."
        return
    own = [cell.batch for cell in fitting if cell.sequence == here[1]]
    if given.largest_batch is not None:
        yield f"At {given.largest_batch.sequence:,} tokens, batch {given.largest_batch.batch} is the largest that fits."
    elif own:
        yield f"At {here[1]:,} tokens, batch {max(own)} is the largest of the table that fits."
    elif any(cell.sequence == here[1] for cell in given.cells):
        yield f"At {here[1]:,} tokens no batch of this table fits."
    smallest = min(cell.batch for cell in given.cells)
    lengths = [cell.sequence for cell in fitting if cell.batch == smallest]
    if given.longest_sequence is not None:
        longest, which = given.longest_sequence, "certain to fit" if given.longest_sequence.at_least else "the longest"
        yield f"At batch {longest.batch}, {longest.sequence:,} tokens are {which}."
    elif lengths:
        yield f"At batch {smallest}, {max(lengths):,} tokens are the longest of the table."
    most = max(fitting, key=lambda cell: (cell.batch * cell.sequence, cell.sequence))
    yield f"The most tokens in one step of this table: {most.batch} × {most.sequence:,}."

"""The heat map of batch × sequence: a table whose cells say in words, marks and shade how full the card would be."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ...facts.memory import MemoryFacts, PlanCell

LEVELS = 5
"""Shades for what fits, by fifths of the card; without a known card there are none."""


@dataclass(frozen=True)
class Cell:
    """One place of the table.

    Attributes:
        level: 1…5 by share of the card, 6 where it does not fit, 0 where that is unknown.
        share: of the card, in percent.
        here: this is the setup as it is.
        edge_right, edge_below: the frontier runs along that side: this cell fits, its neighbour does not.
        longest: nothing longer fits at this batch.
    """

    cell: PlanCell | None
    level: int
    share: float | None
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
    """The table and what it comes to.

    Attributes:
        sentences: what fits, for who reads one line only.
        derived: how many cells follow from others instead of a trace of their own.
    """

    sequences: tuple[int, ...]
    rows: tuple[Row, ...]
    sentences: tuple[str, ...]
    derived: int


def plan_view(memory: MemoryFacts) -> PlanView | None:
    """Lay the cells out; None where there is no plan."""
    if not memory.plan:
        return None
    cells = {(cell.batch, cell.sequence): cell for cell in memory.plan}
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
            share = cell.peak_reserved_bytes / memory.card_bytes * 100 if cell and memory.card_bytes else None
            row.append(
                Cell(
                    cell,
                    _level(cell, share),
                    share,
                    here=(batch, sequence) == here,
                    edge_right=bool(ours) and fits(batch, right) is False,
                    edge_below=bool(ours) and fits(below, sequence) is False,
                    longest=bool(ours) and not any(fits(batch, longer) for longer in sequences[j + 1 :]),
                )
            )
        rows.append(Row(batch, tuple(row)))
    derived = sum(not cell.traced for cell in memory.plan)
    return PlanView(sequences, tuple(rows), tuple(_sentences(memory.plan, here)), derived)


def _level(cell: PlanCell | None, share: float | None) -> int:
    if cell is None or cell.fits is None:
        return 0
    if not cell.fits:
        return LEVELS + 1
    return min(LEVELS, 1 + int(share / 100 * LEVELS)) if share is not None else 0


def _sentences(plan: list[PlanCell], here: tuple[int | None, int | None]) -> Iterator[str]:
    """The ends of the frontier, and what fits at the config's own length."""
    fitting = [cell for cell in plan if cell.fits]
    if not fitting:
        if any(cell.fits is False for cell in plan):
            yield "Nothing in this table fits the card."
        return
    own = [cell.batch for cell in fitting if cell.sequence == here[1]]
    if own:
        yield f"At the config's {here[1]:,} tokens, batch {max(own)} is the largest that fits."
    elif any(cell.sequence == here[1] for cell in plan):
        yield f"At the config's {here[1]:,} tokens no batch of this table fits."
    smallest = min(cell.batch for cell in plan)
    lengths = [cell.sequence for cell in fitting if cell.batch == smallest]
    if lengths:
        yield f"At batch {smallest}, {max(lengths):,} tokens are the longest."
    most = max(fitting, key=lambda cell: (cell.batch * cell.sequence, cell.sequence))
    yield f"The most tokens in one step: {most.batch} × {most.sequence:,}."

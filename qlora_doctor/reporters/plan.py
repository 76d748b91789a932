"""A plan for a terminal and a log: one table a card, what fits, and how it was found."""

from __future__ import annotations

import textwrap

from ..core.report import Report
from ..facts.memory import CardPlan, MemoryFacts, PlanCell
from . import _words as words
from ._needed import needed
from .verdict import subject

_SGR = {"fits": "32", "tight": "33", "full": "31", "strong": "1", "dim": "2"}
MARKS = {"fits": "✓", "tight": "~", "full": "✗", "unknown": " "}
"""What stands behind a cell's size."""
SHOWN_CARDS = 12
"""Cards that are named where more suffice."""


def render(report: Report, *, color: bool = False, width: int = 100) -> str:
    """The plan of a report, or why there is none."""
    memory = report.facts.memory
    blocks = [_header(report, color)]
    if memory is None or not memory.plans:
        blocks.append(_failure(report, memory, width))
        return "\n\n".join(blocks) + "\n"
    blocks += [_card(plan, color) for plan in memory.plans]
    blocks.append(_own(memory, width))
    blocks.append(_how(memory, width))
    return "\n\n".join(block for block in blocks if block) + "\n"


def level(cell: PlanCell, card_bytes: int | None) -> str:
    """``fits``; ``tight`` where the tensors fit and what the allocator reserves around them does not; ``full``."""
    if card_bytes is None or cell.fits is None:
        return "unknown"
    if cell.fits:
        return "fits"
    return "tight" if cell.peak_allocated_bytes <= card_bytes else "full"


def _header(report: Report, color: bool) -> str:
    name, file = subject(report)
    told = [_ink("strong", words.one_line(file or name), color)] + ([words.one_line(name)] if file else [])
    memory = report.facts.memory
    picture = memory.predicted if memory else None
    if picture is not None and picture.batch is not None and picture.sequence is not None:
        figure = needed(memory)
        own = f"batch {picture.batch} × {picture.sequence:,} tokens"
        told.append(figure.told(None) if figure is not None else own)
    return " · ".join(told)


def _card(plan: CardPlan, color: bool) -> str:
    held = f" · {words.size(plan.card_bytes)} for a process" if plan.card_bytes else ""
    emulated = " · no bfloat16 in hardware" if plan.bf16 is False else ""
    lines = [_ink("strong", f"{words.one_line(plan.card)}{held}{emulated}", color), *_table(plan, color)]
    if plan.card_bytes:
        lines.append(_frontier(plan))
    return "\n".join(lines)


def _table(plan: CardPlan, color: bool) -> list[str]:
    sequences = sorted({cell.sequence for cell in plan.cells})
    cells = {(cell.batch, cell.sequence): cell for cell in plan.cells}
    columns = [max(8, len(f"{sequence:,}") + 2) for sequence in sequences]
    head = "".join(f"{sequence:>{column - 2},}  " for sequence, column in zip(sequences, columns, strict=True))
    lines = ["peak reserved in GiB by batch and tokens", f"{'batch':>6}  {head}".rstrip()]
    for batch in sorted({cell.batch for cell in plan.cells}):
        row = ""
        for sequence, column in zip(sequences, columns, strict=True):
            cell = cells[batch, sequence]
            how = level(cell, plan.card_bytes)
            row += _ink(how, f"{_gib(cell.peak_reserved_bytes):>{column - 2}}{MARKS[how]} ", color)
        lines.append(f"{batch:>6}  {row}".rstrip())
    if plan.card_bytes:
        lines.append("✓ fits · ~ the tensors fit, what the allocator reserves around them does not · ✗ does not fit")
    return lines


def _frontier(plan: CardPlan) -> str:
    if not plan.frontier:
        return "Nothing of this table fits."
    points = ", ".join(f"{point.batch} × {point.sequence:,}" for point in plan.frontier)
    lines = [f"Frontier (batch × longest that fits): {points}."]
    if plan.largest_batch is not None:
        lines.append(f"Largest batch at {plan.largest_batch.sequence:,} tokens: {plan.largest_batch.batch}.")
    if plan.longest_sequence is not None:
        batch = plan.longest_sequence.batch
        lines.append(f"Longest sequence at batch {batch}: {plan.longest_sequence.sequence:,} tokens.")
    return "\n".join(lines)


def _own(memory: MemoryFacts, width: int) -> str:
    """The cards that the setup as it is needs."""
    cards, picture = memory.sufficient_cards, memory.predicted
    if cards is None or picture is None:
        return ""
    own = f"batch {picture.batch} × {picture.sequence:,} tokens"
    if not cards:
        return _wrap(f"No known card holds {own}: {words.size(picture.peak_reserved_bytes)} reserved.", width)
    named = [f"{words.one_line(card.card)}{'' if card.bf16 else ' (no bfloat16)'}" for card in cards[:SHOWN_CARDS]]
    more = f" and {len(cards) - SHOWN_CARDS} larger ones" if len(cards) > SHOWN_CARDS else ""
    return _wrap(f"Cards that suffice for {own}, smallest first: {', '.join(named)}{more}.", width)


def _how(memory: MemoryFacts, width: int) -> str:
    count = sum(len(plan.cells) for plan in memory.plans or ())
    verified = memory.plan_verified_ratio
    sure = "no cell was compared" if verified is None else f"verified cells differ by {verified:.2%} at most"
    lines = [_wrap(f"{count} cells from {memory.plan_traces} traces; {sure}.", width)]
    lines += [_wrap(note, width) for note in memory.plan_notes or ()]
    picture = memory.predicted
    if picture is not None:
        if picture.versions:
            told = ", ".join(f"{name} {version}" for name, version in picture.versions.items())
            lines.append(_wrap(f"Predicted for {told}.", width))
        lines += [_wrap(words.one_line(each), width) for each in picture.assumptions or ()]
    return "\n".join(lines)


def _failure(report: Report, memory: MemoryFacts | None, width: int) -> str:
    record = next((record for record in report.stages if record.name == "memory"), None)
    lines = [f"No plan: {words.one_line((record.reason if record else None) or 'stage memory did not run.')}"]
    if memory is not None and memory.certain_bytes is not None:
        lines.append(f"At least {words.size(memory.certain_bytes)} are needed, for base and adapter alone.")
    if record is not None and record.remedy:
        lines.append(f"To have it: {words.one_line(record.remedy)}")
    return "\n".join(_wrap(line, width) for line in lines)


def _gib(count: int) -> str:
    value = count / 2**30
    return f"{value:.1f}" if value < 99.95 else f"{value:.0f}"


def _wrap(text: str, width: int) -> str:
    return "\n".join(textwrap.wrap(text, max(40, width), break_long_words=False, break_on_hyphens=False))


def _ink(style: str, text: str, color: bool) -> str:
    return f"\x1b[{_SGR[style]}m{text}\x1b[0m" if color and style in _SGR else text

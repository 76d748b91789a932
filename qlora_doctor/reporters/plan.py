"""A plan for a terminal and a log: one table a card, what fits, and how it was found."""

from __future__ import annotations

from ..core.report import Report
from ..facts.memory import CardPlan, MemoryFacts, PlanCell, PlanPoint
from . import _words as words
from ._answer import headline
from ._needed import needed
from ._words import wrapped
from .verdict import subject

_SGR = {"fits": "32", "tight": "33", "full": "31", "strong": "1", "dim": "2"}
MARKS = {"fits": "✓", "tight": "~", "full": "✗", "unknown": " "}
"""What stands behind a cell's size."""
SHOWN_CARDS = 12
"""Cards that are named where more suffice."""


def render(report: Report, *, color: bool = False, width: int = 100) -> str:
    """The plan of a report, or why there is none."""
    memory = report.facts.memory
    if memory is None or not memory.plans:
        return "\n\n".join([_failure(report, memory, width), _header(report, color, width)]) + "\n"
    blocks = [
        "\n".join(wrapped(_ink("strong", line, color), width) for line in headline(report)),
        _header(report, color, width),
    ]
    blocks += [_card(plan, color, width) for plan in memory.plans if len(plan.cells) > 1]
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


def _shape(report: Report) -> str:
    """What a setup without a file is, in one phrase."""
    setup = report.setup or {}
    lora, training = setup.get("lora") or {}, setup.get("training") or {}
    targets = lora.get("target_modules")
    where = "every linear layer" if targets == "all-linear" else words.literal(targets)
    parts = [f"4-bit, r {lora.get('r')} on {where}", words.literal(training.get("optim"))]
    if training.get("gradient_checkpointing"):
        parts.append("gradient checkpointing")
    return ", ".join([*parts, f"{training.get('trainer') or 'transformers'}' trainer".replace("trl'", "trl's")])


def cropped(plan: CardPlan) -> tuple[list[int], list[int]]:
    """The batches and the lengths around the frontier: all with which something fits, and the next of each."""
    batches = sorted({cell.batch for cell in plan.cells})
    sequences = sorted({cell.sequence for cell in plan.cells})
    if plan.card_bytes is None:
        return batches, sequences
    fitting = [cell for cell in plan.cells if cell.fits]
    asked = [plan.asked] if plan.asked is not None else []
    kept = [*fitting, *asked] or plan.cells[:1]
    rows = next(
        (place for place, batch in enumerate(batches) if batch > max(cell.batch for cell in kept)), len(batches)
    )
    last = max(cell.sequence for cell in kept)
    columns = next((place for place, length in enumerate(sequences) if length > last), len(sequences))
    return batches[: rows + 1], sequences[: columns + 1]


def _header(report: Report, color: bool, width: int) -> str:
    name, file = subject(report)
    told = [words.one_line(file or name)] + ([words.one_line(name)] if file else [])
    if not file and (shape := _shape(report)):
        told.append(shape)
    memory = report.facts.memory
    picture = memory.predicted if memory else None
    if picture is not None and picture.batch is not None and picture.sequence is not None:
        figure = needed(memory)
        own = f"batch {picture.batch} × {picture.sequence:,} tokens"
        told.append(figure.told(None) if figure is not None else own)
    return wrapped(" · ".join(told), width)


def _card(plan: CardPlan, color: bool, width: int) -> str:
    held = f" · {words.size(plan.card_bytes)} for a process" if plan.card_bytes else ""
    emulated = " · no bfloat16 in hardware" if plan.bf16 is False else ""
    lines = [_ink("strong", f"{words.one_line(plan.card)}{held}{emulated}", color), *_table(plan, color, width)]
    if plan.card_bytes:
        lines += [wrapped(line, width) for line in _frontier(plan).splitlines()]
    return "\n".join(lines)


def _table(plan: CardPlan, color: bool, width: int) -> list[str]:
    batches, sequences = cropped(plan)
    cells = {(cell.batch, cell.sequence): cell for cell in plan.cells}
    columns = [max(8, len(f"{sequence:,}") + 2) for sequence in sequences]
    head = "".join(f"{sequence:>{column - 2},}  " for sequence, column in zip(sequences, columns, strict=True))
    lines = ["peak reserved in GiB by batch and tokens", f"{'batch':>6}  {head}".rstrip()]
    for batch in batches:
        row = ""
        for sequence, column in zip(sequences, columns, strict=True):
            cell = cells[batch, sequence]
            how = level(cell, plan.card_bytes)
            row += _ink(how, f"{_gib(cell.peak_reserved_bytes):>{column - 2}}{MARKS[how]} ", color)
        lines.append(f"{batch:>6}  {row}".rstrip())
    if plan.card_bytes:
        legend = "✓ fits · ~ the tensors fit, what the allocator reserves around them does not · ✗ does not fit"
        lines.append(wrapped(legend, width))
    return lines


def _frontier(plan: CardPlan) -> str:
    if not plan.frontier:
        return "Nothing of this table fits."
    points = ", ".join(f"{point.batch} × {point.sequence:,}" for point in plan.frontier)
    lines = [f"Frontier (batch × longest that fits): {points}."]
    if plan.largest_batch is not None:
        largest, least = plan.largest_batch, _at_least(plan.largest_batch)
        lines.append(f"Largest batch at {largest.sequence:,} tokens: {least}{largest.batch}.")
    if plan.longest_sequence is not None:
        batch, least = plan.longest_sequence.batch, _at_least(plan.longest_sequence)
        lines.append(f"Longest sequence at batch {batch}: {least}{plan.longest_sequence.sequence:,} tokens.")
    return "\n".join(lines)


def _at_least(point: PlanPoint) -> str:
    return "at least " if point.at_least else ""


def _own(memory: MemoryFacts, width: int) -> str:
    """The cards that the setup as it is needs."""
    cards, picture = memory.sufficient_cards, memory.predicted
    if cards is None or picture is None:
        return ""
    own = f"batch {picture.batch} × {picture.sequence:,} tokens"
    if not cards:
        return wrapped(f"No known card holds {own}: {words.size(picture.peak_reserved_bytes)} reserved.", width)
    named = [f"{words.one_line(card.card)}{'' if card.bf16 else ' (no bfloat16)'}" for card in cards[:SHOWN_CARDS]]
    more = f" and {len(cards) - SHOWN_CARDS} larger ones" if len(cards) > SHOWN_CARDS else ""
    return wrapped(f"Cards that suffice for {own}, smallest first: {', '.join(named)}{more}.", width)


def _how(memory: MemoryFacts, width: int) -> str:
    count = sum(len(plan.cells) for plan in memory.plans or ())
    verified = memory.plan_verified_ratio
    lines = []
    if memory.plan_traces:
        sure = "" if verified is None else f"; verified cells differ by {verified:.2%} at most"
        lines = [
            wrapped(f"{words.plural(count, 'cell')} from {words.plural(memory.plan_traces, 'trace')}{sure}.", width)
        ]
    lines += [wrapped(note, width) for note in memory.plan_notes or ()]
    picture = memory.predicted
    if picture is not None:
        if picture.versions:
            told = ", ".join(f"{name} {version}" for name, version in picture.versions.items())
            lines.append(wrapped(f"Predicted for {told}.", width))
        lines += [wrapped(words.one_line(each), width) for each in picture.assumptions or ()]
    return "\n".join(lines)


def _failure(report: Report, memory: MemoryFacts | None, width: int) -> str:
    record = next((record for record in report.stages if record.name == "memory"), None)
    lines = [f"No plan: {words.one_line((record.reason if record else None) or 'stage memory did not run.')}"]
    if memory is not None and memory.predicted is not None:
        of = f" of {words.size(memory.card_bytes)}" if memory.card_bytes else ""
        lines.append(f"The setup itself is predicted to need {words.size(memory.predicted.peak_reserved_bytes)}{of}.")
    if memory is not None and memory.certain_bytes is not None:
        lines.append(f"At least {words.size(memory.certain_bytes)} are needed, for base and adapter alone.")
    if record is not None and record.remedy:
        lines.append(f"To have it: {words.one_line(record.remedy)}")
    return "\n".join(wrapped(line, width) for line in lines)


def _gib(count: int) -> str:
    value = count / 2**30
    return f"{value:.1f}" if value < 99.95 else f"{value:.0f}"


def _ink(style: str, text: str, color: bool) -> str:
    return f"\x1b[{_SGR[style]}m{text}\x1b[0m" if color and style in _SGR else text

"""The answer to the question of a plan: does it fit, and if not, what does."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..core.report import Report
from . import _words as words

if TYPE_CHECKING:
    from ..facts.memory import CardPlan, Cure, MemoryFacts


def headline(report: Report) -> list[str]:
    """One sentence or two for each card, the card named where there are several; empty where nothing was predicted."""
    memory = report.facts.memory
    if memory is None or not memory.plans:
        return []
    several = len(memory.plans) > 1
    return [f"{words.one_line(plan.card)}: {told}" if several else told for plan in memory.plans
            if (told := answer(memory, plan))]  # fmt: skip


def answer(memory: MemoryFacts, plan: CardPlan) -> str:
    """``No: 42.2 GiB of 23.0 GiB. Fits: batch 1 × 2,304.``"""
    picture = memory.predicted
    asked = plan.asked
    reserved = asked.peak_reserved_bytes if asked is not None else picture.peak_reserved_bytes if picture else None
    if reserved is None:
        return ""
    if plan.card_bytes is None:
        cards = memory.sufficient_cards or []
        smallest = f" The smallest card that holds it: {words.one_line(cards[0].card)}." if cards else ""
        return f"{words.size(reserved)}, held against no card.{smallest}"
    figures = f"{words.size(reserved)} of {words.size(plan.card_bytes)}"
    if reserved > plan.card_bytes:
        return f"No: {figures}. {_instead(plan)}"
    band = memory.margin_ratio or 0.0
    if reserved * (1 + band) > plan.card_bytes:
        return f"Barely: {figures}, which is within the prediction's error band of {words.percent(band)}."
    return f"Yes: {figures}.{_room(plan)}"


def _room(plan: CardPlan) -> str:
    """What fits beyond what was asked about, as far as it was looked for."""
    points = [point for point in (plan.largest_batch, plan.longest_sequence) if point is not None]
    parts = [f"batch {point.batch} × {point.sequence:,}{' at least' if point.at_least else ''}" for point in points]
    return f" Fits up to {' or '.join(dict.fromkeys(parts))}." if parts else ""


def _instead(plan: CardPlan) -> str:
    parts = []
    if plan.instead is not None:
        parts.append(f"batch {plan.instead.batch} × {plan.instead.sequence:,}")
    if plan.cure is not None and plan.asked is not None:
        asked = plan.asked
        size = words.size(plan.cure.peak_reserved_bytes)
        parts.append(f"batch {asked.batch} × {asked.sequence:,} with {changes(plan.cure)} ({size})")
    if not parts:
        return "Nothing of it fits, not even 64 tokens at batch 1." if plan.asked is not None else ""
    return f"Fits: {', or '.join(parts)}."


def changes(cure: Cure) -> str:
    """All changes of a cure, as one phrase."""
    named = list(dict.fromkeys(words.one_line(each.change) for each in cure.changes))
    return named[0] if len(named) == 1 else f"{', '.join(named[:-1])} and {named[-1]}"

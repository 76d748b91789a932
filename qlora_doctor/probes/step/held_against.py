"""The measured peak beside the predicted one and the card."""

from __future__ import annotations

from ...facts import Facts, MemoryFacts
from ...facts.memory import MemoryPicture


def with_measured(facts: Facts, measured: MemoryPicture) -> MemoryFacts:
    """The memory facts so far with the measured picture, its share of the card, and how far the prediction was off."""
    known = facts.memory or MemoryFacts()
    changed: dict[str, object] = {"measured": measured}
    if known.card_bytes and measured.peak_reserved_bytes is not None:
        changed["measured_ratio"] = measured.peak_reserved_bytes / known.card_bytes
    predicted = known.predicted.peak_allocated_bytes if known.predicted is not None else None
    if predicted is not None and measured.peak_allocated_bytes:
        same_batch = known.predicted is not None and (
            (known.predicted.batch, known.predicted.sequence) == (measured.batch, measured.sequence)
        )
        if same_batch:
            changed["difference_ratio"] = (predicted - measured.peak_allocated_bytes) / measured.peak_allocated_bytes
    return known.model_copy(update=changed)

"""What an adapter learned as pictures: the change of each module, and the rank that is used of it."""

from __future__ import annotations

from dataclasses import dataclass

from ...facts.stored import LearnedModule, StoredFacts
from ..afterwards import WAYS, reload_words
from .strips import Strip, heat


@dataclass(frozen=True)
class StoredView:
    """Pictures of layers × projections; None where nothing is known. ``unit`` says what the norms are."""

    norms: Strip | None
    ranks: Strip | None
    unit: str
    names: dict[str, str]
    reload: str | None


def stored_view(stored: StoredFacts) -> StoredView:
    """Lay out what an adapter learned."""
    learned = [each for each in stored.learned or [] if each.layer is not None]
    relative = bool(learned) and all(each.relative_norm is not None for each in learned)
    norms = _table(learned, "relative_norm" if relative else "norm")
    unit = "norm of the change over that of the weight, logarithmic" if relative else "norm, logarithmic"
    ranks = heat(_table(learned, "effective_rank"), logarithmic=False)
    reload = reload_words(stored) if stored.reload else None
    return StoredView(heat(norms, logarithmic=True), ranks, unit, WAYS, reload)


def _table(learned: list[LearnedModule], field: str) -> dict[str, dict[int, float | None]]:
    table: dict[str, dict[int, float | None]] = {}
    for each in learned:
        if each.layer is not None:
            table.setdefault(each.projection, {})[each.layer] = getattr(each, field)
    return table

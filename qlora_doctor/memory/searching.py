"""What a search for a cure starts from, and what is reported of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from ..facts import Facts
from ..facts.memory import Cure
from .cure import Room, Search
from .machine import Machine
from .shipped import shipped_for

if TYPE_CHECKING:
    from ..setup.setup import Setup
    from ..tables.cards import Card
    from .folded_tapes import FoldedTapes
    from .traced_once import TracedOnce


def search_for(
    setup: Setup,
    facts: Facts,
    card: Card | None,
    *,
    machine_of: Callable[[Setup, Card | None], Machine],
    evaluation_batch: int | None,
    architecture: Any,
    offline: bool,
    progress: Callable[[str], None],
    folded: bool = False,
    folded_of: Callable[[Setup], FoldedTapes | None] = shipped_for,
    floor: int | None = None,
    known: TracedOnce | None = None,
) -> Search | None:
    """The search for what fits a card or the budget; None where there is neither.

    Args:
        machine_of: the machine of a setup on the card (``stage.machine_for``).
        evaluation_batch: of the setup as it is; None where it evaluates nothing.
        architecture: that of the setup; None loads it.
        floor, known: see :class:`.cure.Search`.
        folded: look among the setups whose folded tapes are there, without torch.
        folded_of: see :class:`.cure.Search`.
    """
    from .plan import capacity

    budget = facts.config.budget_peak_memory_bytes if facts.config is not None else None
    if card is None and budget is None:
        return None

    def evaluates(changed: Setup) -> int | None:
        own = evaluation_batch
        return None if own is None else changed.training.per_device_eval_batch_size or own

    room = Room(None if card is None else capacity(card), budget)
    around = setup, lambda changed: machine_of(changed, card), evaluates, room
    if folded:
        from .folded_search import FoldedSearch

        return FoldedSearch(*around, None, offline, progress, folded_of=folded_of)
    from ..pipeline import load_config

    architecture = architecture or load_config(setup, offline=offline)
    return Search(*around, architecture, offline, progress, floor, known, folded_of)


def in_order(cures: Iterable[Cure], chosen: Cure | None) -> list[Cure]:
    """The chosen one first, then what fits before what does not, the fastest first."""
    others = (each for each in cures if each is not chosen)
    rest = sorted(others, key=lambda each: (not each.fits, each.alters, each.speed))
    return ([chosen] if chosen is not None else []) + rest


def named(cure: Cure) -> str:
    """All changes of a cure as one phrase, each once."""
    changes = list(dict.fromkeys(each.change for each in cure.changes))
    return changes[0] if len(changes) == 1 else f"{', '.join(changes[:-1])} and {changes[-1]}"

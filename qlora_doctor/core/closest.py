"""Names that are nearly the one that was asked for."""

from __future__ import annotations

from collections.abc import Iterable


def closest(name: str, names: Iterable[str], n: int = 1, cutoff: float = 0.6) -> list[str]:
    """The ``n`` names that are most alike, best first; none below ``cutoff`` (0…1)."""
    from difflib import get_close_matches  # lazy: most names are right

    return get_close_matches(name, list(names), n=n, cutoff=cutoff)


def likeness(one: str, other: str) -> float:
    """How alike two names are, 0…1."""
    from difflib import SequenceMatcher

    return SequenceMatcher(None, one, other).ratio()

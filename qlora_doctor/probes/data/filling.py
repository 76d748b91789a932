"""How much of a batch is text, by the ways of putting rows into batches: reckoned from their lengths alone."""

from __future__ import annotations

import random
from bisect import bisect_left, insort
from collections.abc import Sequence
from typing import Any

_ENOUGH = 16
"""Rows below which nothing is said."""


def filling(lengths: Sequence[int], size: int, limit: int | None) -> dict[str, Any]:
    """Shares of the positions of all batches that are text, and no padding.

    A step's time goes about with its positions, so that trained tokens per second go with these shares. Rows come in
    a shuffled order (a fixed seed), each batch padded to its longest row; or sorted by length before; or several rows
    fill one of ``limit`` tokens, each row put where the least room is left (best fit, the longest first, as in TRL's
    packing, https://arxiv.org/abs/2404.10830).

    Args:
        lengths: tokens of each row, uncut.
        size: rows of a batch.
        limit: at which a row is cut; None where nothing is, and nothing can be packed.
    """
    kept = [min(length, limit) if limit else length for length in lengths]
    if len(kept) < _ENOUGH or not sum(kept) or size < 1:
        return {}
    found = {"text_ratio_padded": _padded(random.Random(0).sample(kept, len(kept)), size)}
    found["text_ratio_grouped"] = _padded(sorted(kept), size)
    if limit:
        found["text_ratio_packed"] = sum(kept) / (_bins(kept, limit) * limit)
    return found


def _padded(lengths: Sequence[int], size: int) -> float:
    batches = [lengths[start : start + size] for start in range(0, len(lengths), size)]
    return sum(lengths) / sum(max(each) * len(each) for each in batches)


def _bins(lengths: Sequence[int], limit: int) -> int:
    rooms: list[int] = []
    count = 0
    for length in sorted(lengths, reverse=True):
        place = bisect_left(rooms, length)
        room = rooms.pop(place) if place < len(rooms) else limit
        count += room == limit
        insort(rooms, room - length)
    return count

"""Rows as the model sees them, and how long they are: what the report shows of the data."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...core.labels import IGNORED
from ...facts.data import RowFacts, SegmentFacts

MOST_ROWS = 12
MOST_TEXT = 6000
"""Characters of a row that are shown; of a longer one the beginning and the end."""
BINS = 24


@dataclass(frozen=True)
class Shown:
    """A row to be shown: tokens, labels, how many tokens it has before it is cut, and what became of it.

    Attributes:
        ids, labels: what the model sees, padding left out; of a row that is left out what it would have seen.
        rest: tokens behind the cut, as far as they are known.
        padding: positions of its batch that are padding, and how many of these have a label that counts.
        decoded: the labels are another text than the ids, which a decoder writes to what its encoder reads.
    """

    ids: Sequence[int] | np.ndarray
    labels: Sequence[int] | np.ndarray
    length: int
    rest: Sequence[int] | np.ndarray = ()
    dropped: str | None = None
    number: int | None = None
    set_name: str | None = None
    decoded: bool = False
    padding: tuple[int, int] = (0, 0)


def rows_shown(rows: Sequence[Shown], tokenizer: Any) -> list[RowFacts]:
    """The shortest, the median and the longest row, one that trains nothing, one that is left out, and random ones."""
    if not rows or tokenizer is None:
        return []
    order = sorted(range(len(rows)), key=lambda index: rows[index].length)
    chosen: dict[int, list[str]] = {}
    for name, index in (("shortest", order[0]), ("median", order[len(order) // 2]), ("longest", order[-1])):
        chosen.setdefault(index, []).append(name)
    for name, holds in (("untrained", _untrained), ("left out", _left_out)):
        found = next((index for index in range(len(rows)) if holds(rows[index])), None)
        if found is not None:
            chosen.setdefault(found, []).append(name)
    others = [index for index in range(len(rows)) if index not in chosen]
    for index in random.Random(0).sample(others, min(len(others), max(0, MOST_ROWS - len(chosen)))):
        chosen[index] = ["random"]
    picked = list(chosen.items())[:MOST_ROWS]
    return [_row(rows[index], names, tokenizer) for index, names in picked]


def _untrained(row: Shown) -> bool:
    return row.dropped is None and masked_of(row.labels) == len(row.labels)


def masked_of(labels: Sequence[int] | np.ndarray) -> int:
    """How many labels are -100."""
    return labels.count(IGNORED) if isinstance(labels, list) else int((np.asarray(labels) == IGNORED).sum())


def _left_out(row: Shown) -> bool:
    return row.dropped is not None


def _row(row: Shown, names: list[str], tokenizer: Any) -> RowFacts:
    kinds = ["masked" if label == IGNORED else "trained" for label in row.labels]
    segments = _segments(list(row.ids), ["masked"] * len(row.ids) if row.decoded else kinds, tokenizer)
    if len(row.rest):
        segments += _segments(list(row.rest), ["cut"] * len(row.rest), tokenizer)
    pad = str(getattr(tokenizer, "pad_token", None) or "padding")
    padding, taught = row.padding
    for count, kind in ((taught, "trained"), (padding - taught, "padding")):
        if count > 0:
            segments.append(SegmentFacts(text=f"{pad} × {count:,}", kind=kind, special=True, tokens=count))
    if row.decoded:
        answer = [label for label in row.labels if label != IGNORED]
        segments += _segments(answer, ["trained"] * len(answer), tokenizer)
    return RowFacts(
        which=names,
        number=row.number,
        set_name=row.set_name,
        length=row.length,
        kept=0 if row.dropped is not None else len(row.ids),
        trained=0 if row.dropped is not None else sum(kind == "trained" for kind in kinds),
        dropped=row.dropped,
        segments=_shortened(segments),
    )


def _segments(ids: list[int], kinds: list[str], tokenizer: Any) -> list[SegmentFacts]:
    special = set(getattr(tokenizer, "all_special_ids", ()))
    special |= {
        number for number, token in getattr(tokenizer, "added_tokens_decoder", {}).items() if _looks_special(str(token))
    }
    found: list[SegmentFacts] = []
    start = 0
    while start < len(ids):
        end = start + 1
        if ids[start] not in special:
            while end < len(ids) and kinds[end] == kinds[start] and ids[end] not in special:
                end += 1
        text = _decoded(ids[start:end], tokenizer)
        found.append(SegmentFacts(text=text, kind=kinds[start], special=ids[start] in special, tokens=end - start))
        start = end
    return found


def _looks_special(token: str) -> bool:
    return token[:1] in "<[" and token[-1:] in ">]"


def _decoded(ids: list[int], tokenizer: Any) -> str:
    try:
        return str(tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))
    except Exception:  # ids of another tokenizer
        return " ".join(f"⟨{each}⟩" for each in ids)


def _shortened(segments: list[SegmentFacts]) -> list[SegmentFacts]:
    """Beginning and end of what is too much to show; a note stands for what is left out."""
    size = sum(len(each.text) for each in segments)
    if size <= MOST_TEXT:
        return segments
    half = MOST_TEXT // 2
    head, tail = _up_to(segments, half), _up_to(segments[::-1], half, from_end=True)[::-1]
    kind = head[-1].kind if head else "masked"
    return [*head, SegmentFacts(text=f" … {size - 2 * half:,} characters … ", kind=kind, tokens=0), *tail]


def _up_to(segments: list[SegmentFacts], most: int, *, from_end: bool = False) -> list[SegmentFacts]:
    found: list[SegmentFacts] = []
    for each in segments:
        room = most - sum(len(one.text) for one in found)
        if room <= 0:
            break
        if len(each.text) > room:
            text = each.text[-room:] if from_end else each.text[:room]
            each = each.model_copy(update={"text": text})
        found.append(each)
    return found


def histogram(lengths: Sequence[int]) -> tuple[list[int], int]:
    """(rows of each bin, tokens of a bin): the first bin begins at 0."""
    if not lengths:
        return [], 0
    width = max(1, -(-(max(lengths) + 1) // BINS))
    counts = [0] * (max(lengths) // width + 1)
    for length in lengths:
        counts[length // width] += 1
    return counts, width

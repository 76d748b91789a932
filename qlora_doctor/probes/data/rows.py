"""Rows as the model gets them, taken out of batches, and what their tokens show."""

from __future__ import annotations

import statistics
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from ...core.labels import IGNORED
from ...pipeline.forms.kinds import FormedRow


@dataclass(frozen=True)
class Row:
    """A sample as the model gets it, padding taken off.

    Attributes:
        ids, labels: one of each token; of a classifier the labels are one class, of an encoder and decoder another
            text.
        positions, masked: labels with those of the padding, and how many of them are -100.
    """

    ids: np.ndarray
    labels: np.ndarray
    positions: int
    masked: int

    @property
    def padding(self) -> tuple[int, int]:
        """Positions of its batch that are padding, and how many of these have a label that counts."""
        if len(self.labels) != len(self.ids):
            return 0, 0
        kept = int((self.labels == IGNORED).sum())
        count = self.positions - len(self.ids)
        return count, max(0, count - (self.masked - kept))


def split_batch(batch: Any) -> list[Row]:
    """A collated batch as rows without padding; a padding-free batch is one row for each of its samples."""
    ids, labels = batch["input_ids"].numpy(), batch["labels"].numpy()
    if labels.ndim == 1:  # classification: one label a row
        labels = labels[:, None]
    counts = (labels == IGNORED).sum(1).tolist()
    if "attention_mask" in batch:
        kept = batch["attention_mask"].numpy() != 0
        aligned = labels.shape == kept.shape
        return [
            Row(row[keep], label[keep] if aligned else label, len(label), masked)
            for row, keep, label, masked in zip(ids, kept, labels, counts, strict=True)
        ]
    positions = batch["position_ids"].tolist() if "position_ids" in batch else None
    if positions is None:
        return [Row(row, label, len(label), masked) for row, label, masked in zip(ids, labels, counts, strict=True)]
    rows = []
    for row, label, place in zip(ids, labels, positions, strict=True):
        starts = [index for index, position in enumerate(place) if position == 0] + [len(row)]
        parts = [(row[a:b], label[a:b]) for a, b in pairwise(starts) if b > a]
        rows += [Row(ids, part, len(part), int((part == IGNORED).sum())) for ids, part in parts]
    return rows


def of_labels(rows: Sequence[Row], vocabulary: int | None, dropped: int) -> dict[str, Any]:
    """What is trained on, padding counted as the collator made it; a dropped row is one whose labels are masked."""
    positions = sum(row.positions for row in rows)
    facts: dict[str, Any] = {
        "labels_masked_ratio": sum(row.masked for row in rows) / positions if positions else 1.0 if dropped else None,
        "rows_fully_masked": dropped + sum(row.positions == row.masked for row in rows),
    }
    return facts | of_ids([row.ids for row in rows], vocabulary)


def of_ids(rows: Sequence[Sequence[int] | np.ndarray], vocabulary: int | None) -> dict[str, Any]:
    """The largest token id, and how many have no row in the embeddings."""
    ranges = [_range(ids) for ids in rows]
    facts: dict[str, Any] = {"max_token_id": max((high for _, high in ranges if high >= 0), default=None)}
    if vocabulary is not None:
        odd = [ids for ids, (low, high) in zip(rows, ranges, strict=True) if high >= vocabulary or low < 0]
        facts["tokens_out_of_range"] = sum(not 0 <= token < vocabulary for ids in odd for token in ids)
    return facts


def _range(ids: Sequence[int] | np.ndarray) -> tuple[int, int]:
    """(smallest, largest) id; of an empty row (0, -1)."""
    if not len(ids):
        return 0, -1
    if isinstance(ids, np.ndarray):
        return int(ids.min()), int(ids.max())
    return min(ids), max(ids)  # of a list these run in C: microseconds a row


def masked_by_hand(rows: Iterable[Mapping[str, Any]]) -> float | None:
    """Share of the labels of tokenized rows that are -100, padding left out; None where no row has labels of tokens."""
    masked = total = 0
    for row in rows:
        labels, ids = row.get("labels"), row.get("input_ids")
        try:
            if labels is None or ids is None or len(labels) != len(ids) or of_tensors(row):
                continue
        except TypeError:  # a class
            continue
        mask = row.get("attention_mask")
        kept = mask if mask is not None and len(mask) == len(labels) else [1] * len(labels)
        on_text = [int(label) for label, text in zip(labels, kept, strict=True) if text]
        masked, total = masked + on_text.count(IGNORED), total + len(on_text)
    return masked / total if total else None


def of_tensors(row: Mapping[str, Any]) -> bool:
    """Whether a tokenized row holds a list of rows: what a tokenizer gives that is asked for tensors."""
    ids = row.get("input_ids")
    return isinstance(ids, list) and bool(ids) and isinstance(ids[0], list)


MOST_CUT = 0.1
"""Share of cut rows up to which those that are the same are called copies: many beginnings are the same."""


def of_cut(rows: Sequence[Row], limits: Collection[int], tokenizer: Any) -> dict[str, Any]:
    """The share of rows that end at a limit, and not in the end token; nothing where no limit is reached.

    Args:
        rows: as they were cut by code that is not the trainer's.
        limits: lengths at which that code cuts.
    """
    longest = max((len(row.ids) for row in rows), default=0)
    end = getattr(tokenizer, "eos_token_id", None)
    if longest not in limits or end is None:
        return {}
    cut = sum(len(row.ids) == longest and int(row.ids[-1]) != end for row in rows)
    return {"truncated_ratio": cut / len(rows), "limit": longest}


def by_mask(row: Row, tokenizer: Any) -> FormedRow:
    """What is asked and what is answered, by the mask of a row."""
    counts = row.labels != IGNORED
    trained, asked = row.ids[counts].tolist(), row.ids[~counts].tolist()
    text = tokenizer.decode(trained, skip_special_tokens=True) if trained else ""
    prompt = tokenizer.decode(asked, skip_special_tokens=True) if asked else ""
    return FormedRow(0, None, identity=str(row.ids.tolist()), prompt=prompt, answer=text)


def of_texts(rows: Sequence[Row], limit: int | None, tokenizer: Any) -> dict[str, Any]:
    """What the texts are like before they are cut."""
    lengths = [len(row.ids) for row in rows]
    if not lengths:
        return {}
    facts: dict[str, Any] = {
        "tokens_min": min(lengths),
        "tokens_mean": statistics.fmean(lengths),
        "tokens_median": int(statistics.median(lengths)),
        "tokens_max": max(lengths),
        "truncated_ratio": sum(limit is not None and n > limit for n in lengths) / len(lengths),
    }
    eos = getattr(tokenizer, "eos_token_id", None)
    taught = [row for row in rows if row.masked < row.positions]
    if eos is not None and taught:
        facts["eos_supervised_ratio"] = sum(bool((row.labels[:limit] == eos).any()) for row in taught) / len(taught)
    bos = getattr(tokenizer, "bos_token_id", None)
    if bos is not None and bos != eos:
        facts["double_bos_rows"] = sum(row.ids[:2].tolist() == [bos, bos] for row in rows)
    return facts

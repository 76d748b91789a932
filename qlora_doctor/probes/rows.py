"""Rows as the model gets them, taken out of batches, and what their tokens show."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

IGNORED = -100


@dataclass(frozen=True)
class Row:
    """A sample as the model gets it, padding taken off."""

    ids: list[int]
    labels: list[int]


def split_batch(batch: Any) -> list[Row]:
    """A collated batch as rows without padding; a padding-free batch is one row for each of its samples."""
    ids, labels = batch["input_ids"].tolist(), batch["labels"].tolist()
    if not labels or not isinstance(labels[0], list):  # classification: one label a row
        labels = [[label] for label in labels]
    if "attention_mask" in batch:
        mask = batch["attention_mask"].tolist()
        return [
            Row([i for i, kept in zip(row, keep, strict=True) if kept], label)
            for row, keep, label in zip(ids, mask, labels, strict=True)
        ]
    positions = batch["position_ids"].tolist() if "position_ids" in batch else None
    if positions is None:
        return [Row(row, label) for row, label in zip(ids, labels, strict=True)]
    rows = []
    for row, label, place in zip(ids, labels, positions, strict=True):
        starts = [index for index, position in enumerate(place) if position == 0] + [len(row)]
        rows += [Row(row[a:b], label[a:b]) for a, b in pairwise(starts) if b > a]
    return rows


def of_labels(rows: Sequence[Row], vocabulary: int | None, dropped: int) -> dict[str, Any]:
    """What is trained on, padding counted as the collator made it; a dropped row is one whose labels are masked."""
    positions = sum(len(row.labels) for row in rows)
    masked = [row.labels.count(IGNORED) for row in rows]
    facts: dict[str, Any] = {
        "labels_masked_ratio": sum(masked) / positions if positions else 1.0 if dropped else None,
        "rows_fully_masked": dropped + sum(len(row.labels) == n for row, n in zip(rows, masked, strict=True)),
    }
    return facts | of_ids([row.ids for row in rows], vocabulary)


def of_ids(rows: Sequence[Sequence[int]], vocabulary: int | None) -> dict[str, Any]:
    """The largest token id, and how many have no row in the embeddings."""
    full = [ids for ids in rows if ids]
    facts: dict[str, Any] = {"max_token_id": max(map(max, full), default=None)}
    if vocabulary is not None:
        odd = [ids for ids in full if max(ids) >= vocabulary or min(ids) < 0]
        facts["tokens_out_of_range"] = sum(not 0 <= token < vocabulary for ids in odd for token in ids)
    return facts


def of_classes(rows: Sequence[Row], vocabulary: int | None, classes: int | None = None) -> dict[str, Any]:
    """A classifier's rows: what it reads are tokens, what it learns is a class.

    Args:
        classes: that the model tells apart; None where that is not known, or the labels are no classes.
    """
    facts = of_ids([row.ids for row in rows], vocabulary)
    labels = [row.labels[0] for row in rows if len(row.labels) == 1]
    if classes == 1 and set(labels) == {0, 1} and all(type(each) is int for each in labels):
        return facts | {"classes": 1, "classes_seen": 2}
    if classes is None or classes < 2 or len(labels) < len(rows) or not all(isinstance(each, int) for each in labels):
        return facts
    seen = Counter(labels)
    facts["classes"] = classes
    facts["classes_seen"] = len(seen)
    facts["class_labels_out_of_range"] = sum(
        n for label, n in seen.items() if not (0 <= label < classes) and label != IGNORED
    )
    facts["largest_class_ratio"] = max(seen.values(), default=0) / len(labels) if labels else None
    texts: dict[tuple[int, ...], set[int]] = {}
    for row, label in zip(rows, labels, strict=True):
        texts.setdefault(tuple(row.ids), set()).add(label)
    noisy = {text for text, found in texts.items() if len(found) > 1}
    facts["conflicting_class_rows"] = sum(tuple(row.ids) in noisy for row in rows)
    return facts


def of_texts(rows: Sequence[Row], limit: int | None, tokenizer: Any) -> dict[str, Any]:
    """What the texts are like before they are cut."""
    lengths = [len(row.ids) for row in rows]
    if not lengths:
        return {}
    facts: dict[str, Any] = {
        "tokens_mean": statistics.fmean(lengths),
        "tokens_median": int(statistics.median(lengths)),
        "tokens_max": max(lengths),
        "truncated_ratio": sum(limit is not None and n > limit for n in lengths) / len(lengths),
    }
    eos = getattr(tokenizer, "eos_token_id", None)
    if eos is not None:
        facts["eos_supervised_ratio"] = sum(eos in row.labels for row in rows) / len(rows)
    bos = getattr(tokenizer, "bos_token_id", None)
    if bos is not None and bos != eos:
        facts["double_bos_rows"] = sum(row.ids[:2] == [bos, bos] for row in rows)
    return facts

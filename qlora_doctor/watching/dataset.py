"""Rows as the data sets hold them, before a collator: their labels, their order, and which are evaluated on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_ROWS = 16
_COMPARED, _LOOKED_THROUGH = 64, 20_000
"""Evaluation rows that are looked for, and training rows that they are looked for in."""
_SORTED = 64
"""Rows whose lengths tell that they are sorted: by chance, none of random lengths are."""
_IGNORED = -100


def masked_by_hand(loaders: Sequence[Any]) -> float | None:
    """Share of labels that are -100 in the first rows; None where no data set holds labels beside its ids.

    Only a ``datasets.Dataset`` without a transform is read: reading it changes nothing and runs no code of the user's.
    """
    for loader in loaders:
        rows = _rows(
            getattr(loader, "dataset", None) or getattr(getattr(loader, "base_dataloader", None), "dataset", None)
        )
        masked = total = 0
        for row in rows:
            labels, ids = row.get("labels"), row.get("input_ids")
            if not isinstance(labels, list) or not isinstance(ids, list) or len(labels) != len(ids):
                continue
            masked += sum(label == _IGNORED for label in labels)
            total += len(labels)
        if total:
            return masked / total
    return None


def _rows(dataset: Any) -> list[dict[str, Any]]:
    if not _is_plain(dataset) or _formatted(dataset):
        return []
    columns = getattr(dataset, "column_names", None) or []
    if "labels" not in columns or "input_ids" not in columns:
        return []
    plain = dataset.with_format(None)
    return [plain[index] for index in range(min(len(plain), _ROWS))]


def rewrites_labels(loaders: Sequence[Any]) -> bool:
    """Whether a loader's collator makes labels of the input ids, whatever labels the rows hold.

    transformers' DataCollatorForLanguageModeling does without ``mlm`` (data/data_collator.py: ``labels =
    batch["input_ids"].clone()``).
    """
    for loader in loaders:
        collator = getattr(loader, "collate_fn", None)
        for each in (collator, getattr(collator, "data_collator", None)):
            kind = type(each)
            own = kind.__name__ == "DataCollatorForLanguageModeling" and kind.__module__.startswith("transformers.")
            if own and not getattr(each, "mlm", True):
                return True
    return False


def evaluated_share(trained: Any, evaluated: Any) -> float | None:
    """Share of the first evaluation rows that are training rows; None where one of the two cannot be read.

    A row is what the data set holds: equal rows are the same text, or the same tokens.
    """
    if trained is None or evaluated is None:
        return None
    if trained is evaluated:
        return 1.0
    asked = _keys(evaluated, _COMPARED)
    known = _keys(trained, _LOOKED_THROUGH)
    if not asked or not known:
        return None
    seen = set(known)
    return sum(key in seen for key in asked) / len(asked)


def _keys(dataset: Any, most: int) -> list[Any]:
    """Rows as what can be compared; nothing where reading them could run code of the user's."""
    if isinstance(dataset, list | tuple) and dataset and isinstance(dataset[0], str):
        return list(dataset[:most])
    if not _is_plain(dataset):
        return []
    column = next((name for name in ("input_ids", "text", "prompt", "messages") if name in dataset.column_names), None)
    columns = [name for name in (column, "completion", "chosen") if name and name in dataset.column_names]
    if column is None or _formatted(dataset):
        return []
    rows = dataset.with_format(None)[:most]
    return [str(values) for values in zip(*(rows[name] for name in columns), strict=True)]


def _is_plain(dataset: Any) -> bool:
    kind = type(dataset)
    return kind.__name__ == "Dataset" and kind.__module__.startswith("datasets.")


def _formatted(dataset: Any) -> bool:
    return (getattr(dataset, "format", None) or {}).get("type") == "custom"


def sorted_rows(loaders: Sequence[Any]) -> bool | None:
    """Whether a loader takes its rows in their own order, and that goes by their length; None where none can be told.

    A rank's share of rows in their own order is one too.
    """
    known = None
    for loader in loaders:
        sampler = getattr(loader, "sampler", None)
        name = type(sampler).__name__
        ordered = name == "SequentialSampler" or (
            name == "DistributedSampler" and not getattr(sampler, "shuffle", True)
        )
        dataset = getattr(loader, "dataset", None)
        if not ordered:
            known = False if name in ("RandomSampler", "DistributedSampler") else known
            continue
        lengths = _lengths(dataset)
        if len(lengths) < _SORTED:
            continue
        known = False
        rising, falling = lengths == sorted(lengths), lengths == sorted(lengths, reverse=True)
        if (rising or falling) and max(lengths) >= 1.2 * min(lengths):
            return True
    return known


def _lengths(dataset: Any) -> list[int]:
    """Lengths of rows from all over the data set, in its order."""
    try:
        count = len(dataset)
    except TypeError:
        return []
    places = [count * number // _SORTED for number in range(_SORTED)] if count >= _SORTED else []
    if isinstance(dataset, list | tuple) and places and isinstance(dataset[0], str):
        return [len(dataset[place]) for place in places]
    if not places or not _is_plain(dataset) or _formatted(dataset):
        return []
    column = next((name for name in ("input_ids", "text") if name in dataset.column_names), None)
    return [] if column is None else [len(value) for value in dataset.with_format(None)[places][column]]

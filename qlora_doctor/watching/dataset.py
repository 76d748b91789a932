"""Rows as the data sets hold them, before a collator: their labels, their order, and which are evaluated on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ..core.labels import IGNORED

_ROWS = 16
_COMPARED, _LOOKED_THROUGH = 64, 20_000
"""Evaluation rows that are looked for, and training rows that they are looked for in."""
_SORTED = 64
"""Rows whose lengths tell that they are sorted: by chance, none of random lengths are."""


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
            masked += sum(label == IGNORED for label in labels)
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
    rows, places = _held(dataset)
    places = places[:most]
    if isinstance(rows, list | tuple):
        keys = [_key(rows[place]) for place in places]
        return [] if None in keys else keys
    if not _is_plain(rows):
        return []
    column = next((name for name in ("input_ids", "text", "prompt", "messages") if name in rows.column_names), None)
    columns = [name for name in (column, "completion", "chosen") if name and name in rows.column_names]
    if column is None or _formatted(rows):
        return []
    found = rows.with_format(None)[places]
    return [str(values) for values in zip(*(found[name] for name in columns), strict=True)]


def _key(row: Any) -> Any:
    """What a row of text or of tokens is compared by; None for any other."""
    if isinstance(row, Mapping):
        name = next((name for name in ("input_ids", "text", "prompt", "messages") if name in row), None)
        keys = tuple(_key(row[each]) for each in (name, "completion", "chosen") if each is not None and each in row)
        return None if None in keys or not keys else keys
    if isinstance(row, torch.Tensor):
        return tuple(row.flatten().tolist()) if row.device.type == "cpu" else None
    if isinstance(row, list | tuple) and row:
        if isinstance(row[0], torch.Tensor):  # ids, mask and labels
            return _key(row[0])
        return tuple(row) if all(isinstance(each, int) for each in row) else str(row)
    return row if isinstance(row, str) and row else None


def _held(dataset: Any) -> tuple[Any, Sequence[int]]:
    """The list or ``datasets.Dataset`` that holds the rows of a data set, and the places of its rows there.

    Seen through torch's Subset, and through the user's own class that keeps its rows in a field of the same length.
    """
    try:
        count = len(dataset)
    except Exception:  # one that streams, or has a length of its own making
        return None, ()
    if isinstance(dataset, list | tuple) or _is_plain(dataset):
        return dataset, range(count)
    if type(dataset).__name__ == "Subset" and type(dataset).__module__ == "torch.utils.data.dataset":
        rows, places = _held(dataset.dataset)
        return rows, [places[int(index)] for index in dataset.indices] if rows is not None else ()
    fields = vars(dataset).values() if hasattr(dataset, "__dict__") else ()
    for each in fields:
        if (isinstance(each, list | tuple) or _is_plain(each)) and len(each) == count:
            return each, range(count)
    return None, ()


def _is_plain(dataset: Any) -> bool:
    kind = type(dataset)
    return kind.__name__ == "Dataset" and kind.__module__.startswith("datasets.")


def _formatted(dataset: Any) -> bool:
    return (getattr(dataset, "format", None) or {}).get("type") == "custom"


def sorted_rows(loaders: Sequence[Any]) -> bool | None:
    """Whether a loader takes its rows in their own order, and that goes by their length; None where none can be known.

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
    rows, places = _held(dataset)
    chosen = [places[len(places) * number // _SORTED] for number in range(_SORTED)] if len(places) >= _SORTED else []
    if isinstance(rows, list | tuple) and chosen:
        return [length for place in chosen if (length := _length(rows[place])) is not None]
    if not chosen or not _is_plain(rows) or _formatted(rows):
        return []
    column = next((name for name in ("input_ids", "text") if name in rows.column_names), None)
    return [] if column is None else [len(value) for value in rows.with_format(None)[chosen][column]]


def _length(row: Any) -> int | None:
    if isinstance(row, Mapping):
        row = next((row[name] for name in ("input_ids", "text") if name in row), None)
    return len(row) if isinstance(row, str | list) or (isinstance(row, torch.Tensor) and row.dim() == 1) else None


def going(loaders: Sequence[Any], iterators: Sequence[Any]) -> list[Any]:
    """The loaders that are being gone through."""
    samplers = {id(getattr(each, "_index_sampler", None)) for each in iterators}
    return [each for each in loaders if id(getattr(each, "_index_sampler", None)) in samplers]

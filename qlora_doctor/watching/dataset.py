"""Labels as the tokenized data set holds them, before a collator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_ROWS = 16
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
    kind = type(dataset)
    if kind.__name__ != "Dataset" or not kind.__module__.startswith("datasets."):
        return []
    if (getattr(dataset, "format", None) or {}).get("type") == "custom":
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

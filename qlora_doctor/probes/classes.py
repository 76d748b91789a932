"""A classifier's batches: which classes its rows have, and whether it knows the padding that it has to pass over."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch

from ..core.labels import IGNORED


class Classes:
    """Looks at batches whose labels are one class a row.

    Args:
        config: of the model; None where it is not known.
    """

    def __init__(self, config: Any) -> None:
        self._config = config
        self._labels: list[int] = []
        self._texts: list[bytes] = []
        self._largest = 0
        self._hidden = False

    def look(self, ids: torch.Tensor, labels: torch.Tensor, padding: torch.Tensor) -> None:
        """Take in ids and padding of shape (rows, length) and integer labels of shape (rows,)."""
        self._labels += labels.tolist()
        self._largest = max(self._largest, len(ids))
        self._texts += [row[text].tobytes() for row, text in zip(ids.numpy(), (~padding).numpy(), strict=True)]
        own = self._padding_token()
        # The class is read from the last token that is no padding token, wherever the mask ends.
        self._hidden = self._hidden or (own is not None and bool((padding[:, -1] & (ids[:, -1] != own)).any()))

    def facts(self) -> dict[str, Any]:
        """Fields of ``BatchFacts``; nothing where no label is a class, or the model tells none apart."""
        number = self._number()
        if not self._labels or number is None:
            return {}
        known: dict[str, Any] = {"classifier_pad": self._pad()}
        seen = Counter(self._labels)
        if number == 1:
            return known | ({"classes": 1, "classes_seen": 2} if set(seen) == {0, 1} else {})
        texts: dict[bytes, set[int]] = {}
        for text, label in zip(self._texts, self._labels, strict=True):
            texts.setdefault(text, set()).add(label)
        outside = sum(count for label, count in seen.items() if not 0 <= label < number and label != IGNORED)
        return known | {
            "classes": number,
            "classes_seen": len(seen),
            "class_labels_out_of_range": outside,
            "conflicting_class_rows": sum(len(texts[text]) > 1 for text in self._texts),
        }

    def _number(self) -> int | None:
        """Classes that the model distinguishes; None of a regression, and where their number is unknown."""
        if getattr(self._config, "problem_type", None) not in (None, "single_label_classification"):
            return None
        number = getattr(self._config, "num_labels", None)
        return number if isinstance(number, int) and number > 0 else None

    def _padding_token(self) -> int | None:
        text = self._config.get_text_config() if hasattr(self._config, "get_text_config") else self._config
        return getattr(text, "pad_token_id", None)

    def _pad(self) -> str | None:
        """Of transformers' decoders (``GenericForSequenceClassification``); an encoder reads its first token."""
        from transformers.models.auto.modeling_auto import (
            MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
            MODEL_FOR_MASKED_LM_MAPPING_NAMES,
        )

        kind = getattr(self._config, "model_type", None)
        if kind not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES or kind in MODEL_FOR_MASKED_LM_MAPPING_NAMES:
            return None
        if self._padding_token() is None:
            return "none" if self._largest > 1 else None
        return "differs" if self._hidden else "same"

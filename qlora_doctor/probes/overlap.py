"""Evaluation rows that stand in the training data: the text of the rows, without what seldom makes two rows differ."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..core.errors import StageError
from ..pipeline.forms import NotFollowedForm, read_named
from ..setup.setup import NamedData, Setup
from .formed import normalized

EVALUATION_ROWS = 256
TRAINING_ROWS = 200_000
"""Rows of a file that is read whole; of a larger one the sample counts."""
_NAMES_ONLY = {"id", "idx", "index", "uuid", "source", "url", "row_id", "conversation_id", "split"}
"""Columns that name a row, and are no part of what is learnt."""


def overlap_of(setup: Setup) -> dict[str, Any]:
    """Evaluation rows that were looked at, and how many of them are trained on; nothing where either is not here."""
    named = [each for each in setup.named_data if each.kind in ("file", "folder") or each.files]
    held_out = [each for each in named if each.role == "eval"]
    trained = [each for each in named if each.role == "train"]
    if not held_out or not trained:
        return {}
    known = {text for each in trained for text in _texts(setup, each, TRAINING_ROWS)}
    asked = [text for each in held_out for text in _texts(setup, each, EVALUATION_ROWS)]
    if not known or not asked:
        return {}
    return {"evaluation_rows": len(asked), "evaluation_rows_in_training": sum(text in known for text in asked)}


def _texts(setup: Setup, named: NamedData, rows: int) -> list[str]:
    try:
        read = read_named(setup, named, rows)
    except (NotFollowedForm, StageError):
        return []
    return [text for _, row in read.rows if (text := normalized(" ".join(_leaves(row))))]


def _leaves(value: Any) -> Iterator[str]:
    """Every text inside a row, in its order."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, inner in value.items():
            if str(key).lower() not in _NAMES_ONLY:
                yield from _leaves(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _leaves(inner)

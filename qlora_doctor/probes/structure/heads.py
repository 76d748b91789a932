"""Heads that the task needs and the checkpoint does not hold: their weights start at random."""

from __future__ import annotations

from collections.abc import Sequence

from .inventory import Inventory

_TASKS = ("ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering", "ForMultipleChoice")


def fresh_heads(seen: Inventory, architectures: Sequence[str] | None) -> list[str] | None:
    """Names of the heads that are newly initialised; None where the checkpoint does not say what it is.

    Args:
        architectures: ``architectures`` of the checkpoint's config.json.
    """
    if not architectures:
        return None
    built = type(seen.base).__name__
    if built in architectures:
        return []
    task = next((task for task in _TASKS if built.endswith(task)), None)
    if task is not None:
        return [] if any(name.endswith(task) for name in architectures) else [part.name for part in seen.task_heads]
    bare = all(name.endswith("Model") and not name.endswith("LMHeadModel") for name in architectures)
    return [seen.head.name] if bare and seen.head is not None and not seen.tied else []

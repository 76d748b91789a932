"""What trainers refuse by themselves: one YAML file a trainer, one row a check of its, with a file that it stops at.

A row's condition is written in the language of the rule pages, over the keys of the user's file. The rows are compiled
when they change and kept beside (``compiled.json``, by ``python -m qlora_doctor.tables.refusals``), since parsing them
takes longer than a whole check; a file that was edited since is compiled again when it is read.
"""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any

from ...core.errors import UsageError
from .rows import COMPILED, TRAINERS, Catalogue, Refusal, digest_of, file_of

__all__ = ["TRAINERS", "Catalogue", "Refusal", "catalogue", "find_refusal", "refusal_ids"]


@lru_cache
def catalogue(trainer: str) -> Catalogue:
    """What a trainer of ``TRAINERS`` refuses."""
    kept = _kept().get(trainer)
    if kept is None or kept["digest"] != digest_of(file_of(trainer).read_bytes()):
        from .compiling import compiled

        kept = compiled(trainer)
    rows = tuple(Refusal(**row) for row in kept["rows"])
    return Catalogue(tuple(kept["point_at"]), tuple(kept["computed"]), rows)


def refusal_ids() -> list[str]:
    """The ids of all rows of all trainers."""
    return [row.id for trainer in TRAINERS for row in catalogue(trainer).rows]


def find_refusal(identity: str) -> tuple[str, Refusal, list[Any]]:
    """Trainer, row and examples of the row with this id; an example is a merge patch over the healthy file, or lines.

    Raises:
        UsageError: there is none.
    """
    from .compiling import source

    for trainer in TRAINERS:
        for row, written in zip(catalogue(trainer).rows, source(trainer)["refusals"], strict=True):
            if row.id == identity.upper():
                return trainer, row, written["fails"]
    raise UsageError(f"No refusal is called {identity!r}.", remedy="qlora-doctor rules")


@lru_cache
def _kept() -> dict[str, Any]:
    try:
        kept: dict[str, Any] = json.loads(COMPILED.read_bytes())
    except (OSError, ValueError):
        return {}
    return kept

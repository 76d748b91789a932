"""What trainers refuse by themselves: one YAML file a trainer, one row a check of its, with a file that it stops at.

A row's condition is written in the language of the rule pages, over the keys of the user's file. The rows are compiled
when they change and kept beside (``compiled.json``, by ``python -m qlora_doctor.tables.refusals``), since parsing them
takes longer than a whole check; a file that was edited since is compiled again when it is read.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from ...core.errors import UsageError
from ...language.code import Code
from ...language.expression import EvaluationError, Expression

TRAINERS = ("axolotl", "llamafactory")
COMPILED = Path(__file__).with_name("compiled.json")
_FORMAT = 1
"""To be raised whenever the compiled code means something else."""


@dataclass(frozen=True)
class Refusal:
    """One check of a trainer.

    Attributes:
        id: its own, such as ``AX001``; never used for another.
        kind: what is wrong, in a few words with hyphens.
        key: the key that the finding points at.
        about: one of the subjects of ``facts.Remark``.
        machine: where it depends on the machine as well, a condition of ``tables.conditions``.
        when: true of a file that the trainer refuses, as it is written.
        note: what the trainer says, in a sentence.
        code: ``when``, compiled.
    """

    id: str
    kind: str
    key: str
    about: str
    machine: str | None
    when: str
    note: str
    code: Code

    def is_so(self, values: Mapping[str, Any]) -> bool:
        """Whether the trainer refuses a file with these values; False where they cannot be combined as it asks."""
        try:
            return Expression(self.code).holds(values) is True
        except EvaluationError:
            return False


@dataclass(frozen=True)
class Catalogue:
    """What one trainer refuses.

    Attributes:
        point_at: keys to point at where a row's own key is not in the file.
        computed: names in the rows' conditions that the reader works out.
        rows: its checks, in the order in which they are told.
    """

    point_at: tuple[str, ...]
    computed: tuple[str, ...]
    rows: tuple[Refusal, ...]


@lru_cache
def catalogue(trainer: str) -> Catalogue:
    """What a trainer of ``TRAINERS`` refuses."""
    kept = _kept().get(trainer)
    if kept is None or kept["digest"] != _digest(_file(trainer).read_bytes()):
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


def _file(trainer: str) -> Path:
    return Path(__file__).with_name(f"{trainer}.yaml")


def _digest(text: bytes) -> str:
    return hashlib.sha256(f"{_FORMAT} ".encode() + text).hexdigest()[:32]


@lru_cache
def _kept() -> dict[str, Any]:
    try:
        kept: dict[str, Any] = json.loads(COMPILED.read_bytes())
    except (OSError, ValueError):
        return {}
    return kept

"""A row of a trainer's catalogue, and where the catalogues are."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...language.code import Code
from ...language.expression import EvaluationError, Expression
from ..conditions import Condition

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
        machine: where it depends on the machine as well.
        when: true of a file that the trainer refuses, as it is written.
        note: what the trainer says, in a sentence.
        code: ``when``, compiled.
    """

    id: str
    kind: str
    key: str
    about: str
    machine: Condition | None
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
        rows: its checks, in the order in which they are reported.
    """

    point_at: tuple[str, ...]
    computed: tuple[str, ...]
    rows: tuple[Refusal, ...]


def file_of(trainer: str) -> Path:
    """The YAML of a trainer."""
    return Path(__file__).with_name(f"{trainer}.yaml")


def digest_of(text: bytes) -> str:
    """What a YAML is known by once it is compiled."""
    return hashlib.sha256(f"{_FORMAT} ".encode() + text).hexdigest()[:32]

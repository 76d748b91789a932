"""What trainers refuse by themselves, as tables: one row a check of theirs, found here before a GPU is waited for.

A trainer's tables are a module (or several) in this package; its reader hands them to ``tell``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from ..fields import Reading


class Row(NamedTuple):
    """One check of a trainer.

    Attributes:
        kind: what is wrong, in a few words with hyphens.
        key: the key that the finding points at.
        is_so: whether the file is one that the trainer refuses.
        note: what the trainer says, in a sentence.
        about: one of the subjects of ``facts.Remark``.
        machine: where it depends on the machine as well, a condition of ``config.conditions``.
    """

    kind: str
    key: str
    is_so: Callable[[Reading], bool]
    note: str
    about: str = "trainer"
    machine: str | None = None


def tell(reading: Reading, rows: Iterable[Row], *landmarks: str) -> None:
    """Say of a file all that its trainer refuses.

    Args:
        landmarks: keys to point at where a row's own key is not in the file.
    """
    for row in rows:
        if row.is_so(reading):
            key = next((key for key in (row.key, *landmarks) if reading.written(key)), None)
            reading.refused(row.kind, key, row.note, row.about, row.machine)


def has(*keys: str) -> Callable[[Reading], bool]:
    """True where all of these keys are set and not off."""
    return lambda reading: all(bool(reading.get(key)) for key in keys)


def any_of(*keys: str) -> Callable[[Reading], bool]:
    """True where one of these keys is set and not off."""
    return lambda reading: any(bool(reading.get(key)) for key in keys)

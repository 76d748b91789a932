"""What trainers refuse, of one file: the rows of ``tables.refusals`` over its keys.

What a row asks that takes code is a function of the trainer's module here, by the name that the row uses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ....tables.refusals import catalogue
from ..fields import Reading
from ..values import is_template

Computed = Mapping[str, Callable[[Reading], Any]]
"""What the names stand for that take code; None is unknown."""


def refuse(reading: Reading, trainer: str, computed: Computed) -> None:
    """Say of a file all that its trainer refuses."""
    values = _Values(reading, computed)
    found = catalogue(trainer)
    for row in found.rows:
        if row.is_so(values) and not is_template(reading.get(row.key)):
            key = next((key for key in (row.key, *found.point_at) if reading.written(key)), None)
            reading.refused(row.kind, key, row.note, row.about, row.machine, row.id)


class _Values(Mapping[str, Any]):
    """The keys of a file, and what is computed from them when a row first asks for it."""

    def __init__(self, reading: Reading, computed: Computed) -> None:
        self._reading = reading
        self._computed = computed
        self._known: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._known:
            work_out = self._computed.get(name)
            self._known[name] = self._reading.get(name) if work_out is None else work_out(self._reading)
        return self._known[name]

    def get(self, name: str, default: Any = None) -> Any:
        """The value; None where there is none."""
        return self[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._computed)

    def __len__(self) -> int:
        return len(self._computed)

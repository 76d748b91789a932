"""What is in use at the highest moment of each phase, down to tensors: rows that the page's script draws and zooms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...facts.memory import HeldTensors
from .timeline import phase_name


@dataclass(frozen=True)
class Row:
    """Tensors of one kind; ``key`` is the CSS class of their part."""

    phase: str
    key: str
    part: str
    module: str
    tensor: str
    count: int
    bytes: int


def tensor_rows(held: Sequence[HeldTensors], key: dict[str, str], label: dict[str, str]) -> tuple[Row, ...]:
    """A row a kind, by phase; ``key`` and ``label`` of each part."""
    return tuple(
        Row(
            phase=phase_name(each.phase),
            key=key[each.part],
            part=label[each.part],
            module=each.module or ("many small ones" if each.shape is None else "outside of modules"),
            tensor=_tensor(each),
            count=each.count,
            bytes=each.bytes,
        )
        for each in held
    )


def _tensor(held: HeldTensors) -> str:
    if held.shape is None:
        return "of several kinds"
    shape = " × ".join(map(str, held.shape)) or "one number"
    return f"{held.operator or 'stored'}, {shape}, {held.dtype}"

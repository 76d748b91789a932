"""Layer × projection pictures: one row a projection, one column a layer, a path for each kind of cell.

A path holds all cells of its kind (`M3 1h1v1h-1z` each), so that 80 layers × 7 projections stay within 8 KB.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ...facts.adapter import ProjectionCoverage
from ...facts.load import QuantizationError
from ...facts.step import GradientColumn
from .. import _words as words

LEVELS = 7
SPAN = 1.25
"""Least ratio of the darkest to the lightest value: what differs less is not painted as if it mattered."""
_LAYER = re.compile(r"^(?:.*?\.)?(\d+)\.(.+)$")


@dataclass(frozen=True)
class Path:
    """Cells of one kind: a CSS class and the d of a path in a space of columns × rows."""

    kind: str
    d: str


@dataclass(frozen=True)
class Tick:
    """A layer's number below the picture, at a share of the width in percent."""

    at: float
    layer: int


@dataclass(frozen=True)
class Strip:
    """A picture and the numbers in it.

    Attributes:
        rows: projections, top to bottom.
        columns: number of layers (the highest number and one).
        scale: what the lightest and the darkest cell stand for.
        missing: how many cells have no finite positive value, by the mark that stands for them.
        values: for the table: layer and the word for each projection.
    """

    rows: tuple[str, ...]
    columns: int
    paths: tuple[Path, ...]
    ticks: tuple[Tick, ...]
    scale: tuple[str, str] | None = None
    missing: tuple[tuple[str, int], ...] = ()
    values: tuple[tuple[int, tuple[str, ...]], ...] = ()

    @property
    def lines(self) -> str:
        """d of the lines between the columns."""
        return "".join(f"M{x} 0v{len(self.rows)}" for x in range(1, self.columns))


@dataclass(frozen=True)
class CoverageGroup:
    """Layers in which every projection stands alike."""

    layers: str
    count: int
    states: tuple[tuple[str, ...], ...]
    """For each projection the marks: ``LoRA`` or not, ``4-bit`` or not; empty where these layers lack it."""


def coverage_strip(projections: Sequence[ProjectionCoverage]) -> Strip | None:
    """Two lanes a projection: the upper is filled where a layer is adapted, the lower where it is 4-bit."""
    columns = 1 + max((layer for p in projections for layer in p.layers), default=-1)
    if not columns:
        return None
    cells: dict[str, list[str]] = {"absent": [], "off": [], "lora": [], "four-bit": []}
    for row, projection in enumerate(projections):
        present = set(projection.layers)
        adapted, four_bit = set(projection.adapted), set(projection.four_bit)
        cells["absent"] += _runs(set(range(columns)) - present, row + 0.4, 0.2)
        cells["lora"] += _runs(adapted, row + 0.1, 0.38)
        cells["off"] += _runs(present - adapted, row + 0.1, 0.38) + _runs(present - four_bit, row + 0.52, 0.38)
        cells["four-bit"] += _runs(four_bit, row + 0.52, 0.38)
    paths = tuple(Path(kind, "".join(parts)) for kind, parts in cells.items() if parts)
    return Strip(tuple(p.projection for p in projections), columns, paths, _ticks(columns))


def coverage_groups(projections: Sequence[ProjectionCoverage]) -> list[CoverageGroup]:
    """Equal layers together, in the order of their first layer."""
    groups: dict[tuple[tuple[str, ...], ...], list[int]] = {}
    sets = [(set(p.layers), set(p.adapted), set(p.four_bit)) for p in projections]
    for layer in sorted({layer for present, _, _ in sets for layer in present}):
        states = tuple(
            (("LoRA" if layer in adapted else "no LoRA"), ("4-bit" if layer in four_bit else "not 4-bit"))
            if layer in present
            else ()
            for present, adapted, four_bit in sets
        )
        groups.setdefault(states, []).append(layer)
    return [CoverageGroup(words.layers(members), len(members), states) for states, members in groups.items()]


def gradient_strip(columns: Sequence[GradientColumn]) -> Strip | None:
    """Gradient norms on a logarithmic scale."""
    return heat({c.projection: dict(zip(c.layers, c.norms, strict=False)) for c in columns}, logarithmic=True)


def error_strip(errors: Sequence[QuantizationError]) -> Strip | None:
    """Relative quantization errors of the sampled layers; modules outside the layers are left to ``outside``."""
    table: dict[str, dict[int, float | None]] = {}
    for error in errors:
        if match := _LAYER.match(error.module):
            table.setdefault(match.group(2), {})[int(match.group(1))] = error.relative_error
    return heat(table, logarithmic=False)


def outside(errors: Sequence[QuantizationError]) -> list[QuantizationError]:
    """Modules that belong to no layer."""
    return [error for error in errors if _LAYER.match(error.module) is None]


def heat(table: Mapping[str, Mapping[int, float | None]], *, logarithmic: bool) -> Strip | None:
    """A picture of values by projection and layer; None where there is no layer."""
    columns = 1 + max((layer for row in table.values() for layer in row), default=-1)
    if not columns:
        return None
    finite = [v for row in table.values() for v in row.values() if v is not None and math.isfinite(v) and v > 0]
    low, high = _spanned(min(finite), max(finite)) if finite else (0.0, 0.0)
    cells: dict[str, list[str]] = {}
    marks = {"none": 0, "zero": 0, "not finite": 0}
    for row, values in enumerate(table.values()):
        for layer, value in sorted(values.items()):
            mark = _mark(value)
            if mark is not None:
                marks[mark] += 1
            kind = mark.replace(" ", "-") if mark else f"h{_level(value or 0.0, low, high, logarithmic)}"
            cells.setdefault(kind, []).append(f"M{layer} {row}h1v.9h-1z")
            if mark is not None:
                cells.setdefault("cross", []).append(f"M{layer} {row}l1 .9m0-.9l-1 .9")
    layers = sorted({layer for row in table.values() for layer in row})
    values_by_layer = tuple(
        (layer, tuple(_word(row[layer]) if layer in row else "–" for row in table.values())) for layer in layers
    )
    return Strip(
        tuple(table), columns, tuple(Path(kind, "".join(cells[kind])) for kind in sorted(cells, key=_order)),
        _ticks(columns), (words.number(low), words.number(high)) if finite else None,
        tuple((mark, count) for mark, count in marks.items() if count), values_by_layer,
    )  # fmt: skip


def _spanned(low: float, high: float) -> tuple[float, float]:
    """The ends of the scale, moved apart where they are nearly alike."""
    if high >= SPAN * low:
        return low, high
    middle = (low + high) / 2
    return middle * 2 / (1 + SPAN), middle * 2 * SPAN / (1 + SPAN)


def _order(kind: str) -> tuple[bool, str]:
    return kind == "cross", kind


def _mark(value: float | None) -> str | None:
    if value is None:
        return "none"
    if not math.isfinite(value):
        return "not finite"
    return None if value > 0 else "zero"


def _word(value: float | None) -> str:
    return "none" if value is None else words.number(value)


def _level(value: float, low: float, high: float, logarithmic: bool) -> int:
    if logarithmic:
        value, low, high = math.log(value), math.log(low), math.log(high)
    return 1 + min(LEVELS - 1, int((value - low) / (high - low) * LEVELS)) if high > low else LEVELS // 2 + 1


def _runs(layers: set[int], y: float, height: float) -> list[str]:
    """Neighbouring layers as one rectangle."""
    parts: list[str] = []
    for layer in sorted(layers):
        if layer - 1 in layers:
            continue
        end = layer
        while end + 1 in layers:
            end += 1
        parts.append(f"M{layer} {y:g}h{end - layer + 1}v{height:g}h-{end - layer + 1}z")
    return parts


def _ticks(columns: int) -> tuple[Tick, ...]:
    """A number every 1, 2, 5, 10, … layers, at most about ten; the last layer always."""
    step = next((s for s in (1, 2, 4, 5, 8, 10, 20, 25, 50, 100) if columns / s <= 10), 200)
    numbers = [layer for layer in range(0, columns, step) if columns - 1 - layer >= step * 0.6]
    return tuple(Tick(round((layer + 0.5) / columns * 100, 2), layer) for layer in [*numbers, columns - 1])

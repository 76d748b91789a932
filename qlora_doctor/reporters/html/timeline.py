"""Geometry of memory over time: one curve, its phases as bands, and a scale in round sizes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from ...facts.memory import TimelinePoint

POINTS = 400
"""Points of a curve at most; each bucket keeps its lowest and its highest, so no peak is lost."""
KINDS = ("load", "prepare", "adapter", "batch", "forward", "backward", "optimizer")
"""Phases that have a colour of their own."""
SAME = {"attach": "adapter"}
"""One name for what the prediction and the measurement call differently."""


@dataclass(frozen=True)
class Band:
    """A phase; ``room`` says where its name fits: ``wide`` screens, ``any`` or ``none``. x and width in percent."""

    phase: str
    kind: str
    x: float
    width: float
    room: str


@dataclass(frozen=True)
class Timeline:
    """Memory over time in a space of 1000 × 1000, y down.

    Attributes:
        peak_at, peak_y: where the highest point is, in percent of width and height.
        over_time: the x axis is time; else it is the order of the events.
    """

    label: str
    line: str
    area: str
    bands: tuple[Band, ...]
    peak_at: float
    peak_y: float
    peak: int
    peak_phase: str
    over_time: bool

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of phases that occur, in the order of a run."""
        present = {band.kind for band in self.bands}
        return tuple(kind for kind in (*KINDS, "other") if kind in present)


def phase_name(phase: str) -> str:
    """The phase under the name that both accounts share."""
    return SAME.get(phase, phase)


def timeline(label: str, points: Sequence[TimelinePoint], height: int, *, over_time: bool) -> Timeline:
    """Lay one curve out; ``height`` is what the top of the picture stands for, in bytes."""
    xy = [(round(p.at * 1000), round(1000 - p.allocated_bytes / height * 1000)) for p in _thinned(points)]
    line = "M" + "L".join(f"{x} {y}" for x, y in xy)
    bands = []
    runs = [(phase, list(run)) for phase, run in groupby(points, key=lambda p: phase_name(p.phase))]
    for i, (phase, run) in enumerate(runs):
        end = runs[i + 1][1][0].at if i + 1 < len(runs) else 1.0
        width = (end - run[0].at) * 100
        kind = phase if phase in KINDS else "other"
        bands.append(Band(phase, kind, round(run[0].at * 100, 2), round(width, 2), _room(phase, width)))
    highest = max(points, key=_bytes)
    return Timeline(
        label=label,
        line=line,
        area=f"{line}L{xy[-1][0]} 1000L{xy[0][0]} 1000Z",
        bands=tuple(bands),
        peak_at=round(highest.at * 100, 2),
        peak_y=round((1 - highest.allocated_bytes / height) * 100, 2),
        peak=highest.allocated_bytes,
        peak_phase=phase_name(highest.phase),
        over_time=over_time,
    )


def _room(phase: str, width: float) -> str:
    """A letter takes about 0.8 % of a desktop's picture and 2.6 % of a phone's."""
    return "any" if width > 2.6 * len(phase) + 2 else "wide" if width > 0.8 * len(phase) + 1 else "none"


def _thinned(points: Sequence[TimelinePoint]) -> Sequence[TimelinePoint]:
    if len(points) <= POINTS:
        return points
    width = -(-len(points) * 2 // POINTS)
    kept: list[TimelinePoint] = []
    for start in range(0, len(points), width):
        bucket = points[start : start + width]
        ends = {id(p): p for p in (min(bucket, key=_bytes), max(bucket, key=_bytes))}
        kept += sorted(ends.values(), key=lambda p: p.at)
    return kept


def _bytes(point: TimelinePoint) -> int:
    return point.allocated_bytes

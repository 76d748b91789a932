"""Geometry of the memory picture: bars by part against the card, and the timeline; shares are in percent."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby

from ...facts.memory import MemoryFacts, MemoryPicture, PlanCell, TimelinePoint

PARTS = {
    "base_4bit": "Base, packed 4-bit",
    "quantization_statistics": "Quantization statistics",
    "base_16bit": "Base, 16-bit",
    "base_32bit": "Base, 32-bit",
    "adapter": "Adapter",
    "gradients": "Gradients",
    "optimizer": "Optimizer state",
    "activations": "Activations",
    "logits_and_loss": "Logits and loss",
    "dequantized_weights": "Dequantized weights",
    "workspaces": "Workspaces",
    "fragmentation": "Fragmentation",
}
POINTS = 400
"""Points of a timeline at most; each bucket keeps its lowest and its highest, so no peak is lost."""


@dataclass(frozen=True)
class Segment:
    """One part of a bar."""

    key: str
    label: str
    bytes: int
    x: float
    width: float


@dataclass(frozen=True)
class Bar:
    """One account of the peak."""

    label: str
    picture: MemoryPicture
    segments: tuple[Segment, ...]
    allocated: float
    reserved: float | None
    over: tuple[float, float] | None
    """Start and width of what lies beyond the card."""


@dataclass(frozen=True)
class Part:
    """A row of the legend."""

    key: str
    label: str
    predicted: int | None
    measured: int | None


@dataclass(frozen=True)
class Band:
    """A phase of the timeline; ``room`` says where its name fits: ``wide`` screens, ``any`` or ``none``."""

    phase: str
    x: float
    width: float
    room: str


@dataclass(frozen=True)
class Timeline:
    """Memory over time in a space of 1000 × 1000, y down."""

    label: str
    line: str
    area: str
    bands: tuple[Band, ...]
    peak_at: float
    peak: int


@dataclass(frozen=True)
class Phase:
    """Peak allocated within a phase."""

    phase: str
    predicted: int | None
    measured: int | None


@dataclass(frozen=True)
class PlanRow:
    """One batch size of the plan."""

    batch: int
    cells: tuple[tuple[PlanCell | None, int], ...]
    """Cell and its level of 1…5 by share of the card; 6 does not fit."""


@dataclass(frozen=True)
class MemoryView:
    """Everything that the memory section draws."""

    bars: tuple[Bar, ...]
    card: float | None
    ticks: tuple[tuple[float, str], ...]
    parts: tuple[Part, ...]
    timelines: tuple[Timeline, ...]
    timeline_top: int
    timeline_card: float | None
    phases: tuple[Phase, ...]
    sequences: tuple[int, ...]
    plan: tuple[PlanRow, ...]
    headroom: int | None
    """Card less the highest known peak reserved, measured before predicted; negative where it does not fit."""


def memory_view(memory: MemoryFacts) -> MemoryView:
    """Lay out what is known; a fact that is unknown leaves its element out."""
    pictures = [(n, p) for n, p in (("Predicted", memory.predicted), ("Measured", memory.measured)) if p is not None]
    pictures = [(n, p) for n, p in pictures if p.peak_allocated_bytes is not None]
    tops = [max(p.peak_allocated_bytes or 0, p.peak_reserved_bytes or 0) for _, p in pictures]
    scale = max([*tops, memory.card_bytes or 0]) * 1.015 or 1.0
    card = memory.card_bytes
    lines = [(name, p.timeline) for name, p in pictures if p.timeline]
    top = max((point.allocated_bytes for _, line in lines for point in line), default=0)
    # A curve far below the card would be a flat line: then the card is left to the bars above.
    with_card = card is not None and 0.45 * card < top
    height = int(max(top, card or 0) * 1.06) if with_card else int(top * 1.12)
    sequences = tuple(sorted({cell.sequence for cell in memory.plan or ()}))
    return MemoryView(
        bars=tuple(_bar(name, p, scale, card) for name, p in pictures),
        card=card / scale * 100 if card else None,
        ticks=_ticks(scale, card),
        parts=_parts(memory),
        timelines=tuple(_timeline(name, line, height) for name, line in reversed(lines)),
        timeline_top=height,
        timeline_card=(1 - card / height) * 100 if with_card and card else None,
        phases=_phases(memory),
        sequences=sequences,
        plan=_plan(memory, sequences),
        headroom=card - tops[-1] if card and tops else None,
    )


def _bar(label: str, picture: MemoryPicture, scale: float, card: int | None) -> Bar:
    known = picture.breakdown or {"unbroken": picture.peak_allocated_bytes or 0}
    ordered = [k for k in PARTS if k in known] + [k for k in known if k not in PARTS]
    segments, x = [], 0.0
    for key in ordered:
        width = known[key] / scale * 100
        segments.append(Segment(_kind(key), _label(key), known[key], round(x, 3), round(width, 3)))
        x += width
    end = max(picture.peak_allocated_bytes or 0, picture.peak_reserved_bytes or 0)
    over = (card / scale * 100, (end - card) / scale * 100) if card is not None and end > card else None
    reserved = picture.peak_reserved_bytes / scale * 100 if picture.peak_reserved_bytes else None
    return Bar(label, picture, tuple(segments), (picture.peak_allocated_bytes or 0) / scale * 100, reserved, over)


def _kind(key: str) -> str:
    """The CSS class of a part: only names that we gave ourselves reach an attribute."""
    return key.replace("_", "-") if key in PARTS else "unbroken" if key == "unbroken" else "other"


def _label(key: str) -> str:
    return PARTS.get(key) or ("Not broken down" if key == "unbroken" else key)


def _parts(memory: MemoryFacts) -> tuple[Part, ...]:
    predicted = (memory.predicted.breakdown if memory.predicted else None) or {}
    measured = (memory.measured.breakdown if memory.measured else None) or {}
    keys = [k for k in PARTS if k in predicted or k in measured]
    keys += [k for k in {**predicted, **measured} if k not in PARTS]
    return tuple(Part(_kind(k), _label(k), predicted.get(k), measured.get(k)) for k in keys)


def _ticks(scale: float, card: int | None) -> tuple[tuple[float, str], ...]:
    """Round numbers below the bars, about five; none where the card's own mark stands."""
    units = [2.0**30 * s for s in (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2, 4, 5, 8, 10, 16, 20, 40, 80, 160)]
    step = next((u for u in units if scale / u <= 6.5), units[-1])
    every = [(i * step / scale * 100, i * step) for i in range(int(scale / step) + 1)]
    mark = card / scale * 100 if card else None
    return tuple((at, f"{size / 2**30:g} GiB") for at, size in every if mark is None or abs(at - mark) > 9)


def _timeline(label: str, points: list[TimelinePoint], height: int) -> Timeline:
    kept = _thinned(points)
    xy = [(round(p.at * 1000), round(1000 - p.allocated_bytes / height * 1000)) for p in kept]
    line = "M" + "L".join(f"{x} {y}" for x, y in xy)
    bands = []
    runs = [(phase, list(run)) for phase, run in groupby(points, key=lambda p: p.phase)]
    for i, (phase, run) in enumerate(runs):
        end = runs[i + 1][1][0].at if i + 1 < len(runs) else 1.0
        width = (end - run[0].at) * 100
        bands.append(Band(phase, round(run[0].at * 100, 2), round(width, 2), _room(phase, width)))
    highest = max(points, key=lambda p: p.allocated_bytes)
    area = f"{line}L{xy[-1][0]} 1000L{xy[0][0]} 1000Z"
    return Timeline(label, line, area, tuple(bands), highest.at * 100, highest.allocated_bytes)


def _room(phase: str, width: float) -> str:
    """A letter takes about 0.8 % of a desktop's picture and 2.2 % of a phone's."""
    return "any" if width > 2.2 * len(phase) + 2 else "wide" if width > 0.8 * len(phase) + 1 else "none"


def _thinned(points: list[TimelinePoint]) -> list[TimelinePoint]:
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


def _phases(memory: MemoryFacts) -> tuple[Phase, ...]:
    def peaks(picture: MemoryPicture | None) -> dict[str, int]:
        return {p.phase: p.peak_allocated_bytes for p in (picture.phases if picture else None) or ()}

    predicted, measured = peaks(memory.predicted), peaks(memory.measured)
    return tuple(Phase(name, predicted.get(name), measured.get(name)) for name in {**predicted, **measured})


def _plan(memory: MemoryFacts, sequences: tuple[int, ...]) -> tuple[PlanRow, ...]:
    cells = {(cell.batch, cell.sequence): cell for cell in memory.plan or ()}
    rows = []
    for batch in sorted({cell.batch for cell in memory.plan or ()}):
        row = [cells.get((batch, sequence)) for sequence in sequences]
        rows.append(PlanRow(batch, tuple((cell, _plan_level(cell, memory.card_bytes)) for cell in row)))
    return tuple(rows)


def _plan_level(cell: PlanCell | None, card: int | None) -> int:
    if cell is None or not card:
        return 0
    if cell.fits is False:
        return 6
    return min(5, 1 + int(cell.peak_reserved_bytes / card * 5))

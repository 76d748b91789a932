"""Geometry of the memory picture: bars by part against the card, phases and savings; shares are in percent."""

from __future__ import annotations

from dataclasses import dataclass

from ...facts.memory import MemoryFacts, MemoryPicture, Saving
from .._needed import needed
from .plan import PlanView, plan_views
from .tensors import Row, tensor_rows
from .timeline import Timeline, phase_name, timeline

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
REST = ("gradients", "activations", "logits_and_loss", "dequantized_weights", "workspaces", "fragmentation")
"""Parts that a measurement cannot distinguish: what is in use beside counted tensors, all under ``activations``."""
NEAR = 0.4
"""Share of the card below which the parts have a scale of their own: they would be slivers on the card's."""


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
    """A row of the legend; ``within`` where the measurement counts it under activations."""

    key: str
    label: str
    predicted: int | None
    measured: int | None
    within: bool


@dataclass(frozen=True)
class Phase:
    """Peak allocated within a phase."""

    phase: str
    predicted: int | None
    measured: int | None


@dataclass(frozen=True)
class Change:
    """A saving, and where the peak would be: ends of the bar in percent of the picture's width."""

    saving: Saving
    then: float
    now: float


@dataclass(frozen=True)
class MemoryView:
    """Everything that the memory section draws.

    Attributes:
        card: where the card ends on the bars' scale; None where it is unknown or lies beyond the scale.
        zoom: share of the card that the bars' scale spans; None where the scale is the card's own.
        headroom: card less what the run needs, measured before predicted; negative where it does not fit.
        savings_card: where the card ends on the savings' scale.
    """

    bars: tuple[Bar, ...]
    card: float | None
    zoom: float | None
    ticks: tuple[tuple[float, str], ...]
    parts: tuple[Part, ...]
    tensors: tuple[Row, ...]
    timelines: tuple[Timeline, ...]
    timeline_top: int
    timeline_card: float | None
    timeline_ticks: tuple[tuple[float, str], ...]
    phases: tuple[Phase, ...]
    plans: tuple[PlanView, ...]
    savings: tuple[Change, ...]
    savings_card: float | None
    headroom: int | None


def memory_view(memory: MemoryFacts) -> MemoryView:
    """Lay out what is known; a fact that is unknown leaves its element out."""
    figure = needed(memory)
    pictures = [(n, p) for n, p in (("Predicted", memory.predicted), ("Measured", memory.measured)) if p is not None]
    pictures = [(n, p) for n, p in pictures if p.peak_allocated_bytes is not None]
    tops = [max(p.peak_allocated_bytes or 0, p.peak_reserved_bytes or 0) for _, p in pictures]
    card = memory.card_bytes
    zoomed = bool(card and tops and max(tops) < NEAR * card)
    scale = max([*tops, 0 if zoomed else card or 0]) * 1.015 or 1.0
    shown = None if zoomed else card
    lines = [(name, p.timeline) for name, p in pictures if p.timeline]
    top = max((point.allocated_bytes for _, line in lines for point in line), default=0)
    # A curve far below the card would be a flat line: then the card is left to the bars above.
    with_card = card is not None and 0.45 * card < top
    height = int(max(top, card or 0) * 1.06) if with_card else int(top * 1.12)
    savings, savings_card = _savings(memory)
    return MemoryView(
        bars=tuple(_bar(name, p, scale, shown) for name, p in pictures),
        card=shown / scale * 100 if shown else None,
        zoom=scale / card * 100 if zoomed and card else None,
        ticks=_ticks(scale, shown),
        parts=_parts(memory),
        tensors=_tensors(memory),
        timelines=tuple(timeline(n, line, height, over_time=n == "Measured") for n, line in reversed(lines)),
        timeline_top=height,
        timeline_card=(1 - card / height) * 100 if with_card and card else None,
        timeline_ticks=_heights(height) if lines else (),
        phases=_phases(memory),
        plans=plan_views(memory),
        savings=savings,
        savings_card=savings_card,
        headroom=card - figure.size if card and tops and figure is not None else None,
    )


def _bar(label: str, picture: MemoryPicture, scale: float, card: int | None) -> Bar:
    known = picture.breakdown or {"unbroken": picture.peak_allocated_bytes or 0}
    ordered = [k for k in PARTS if known.get(k)] + [k for k in known if k not in PARTS]
    segments, x = [], 0.0
    for key in ordered:
        width = known[key] / scale * 100
        segments.append(Segment(_kind(key), _label(key), known[key], round(x, 3), round(width, 3)))
        x += width
    end = max(picture.peak_allocated_bytes or 0, picture.peak_reserved_bytes or 0)
    over = (card / scale * 100, (end - card) / scale * 100) if card is not None and end > card else None
    reserved = picture.peak_reserved_bytes / scale * 100 if picture.peak_reserved_bytes else None
    return Bar(label, picture, tuple(segments), (picture.peak_allocated_bytes or 0) / scale * 100, reserved, over)


def _tensors(memory: MemoryFacts) -> tuple[Row, ...]:
    held = (memory.predicted.tensors if memory.predicted else None) or []
    parts = {each.part for each in held}
    return tensor_rows(held, {part: _kind(part) for part in parts}, {part: _label(part) for part in parts})


def _kind(key: str) -> str:
    """The CSS class of a part: only names that we gave ourselves reach an attribute."""
    return key.replace("_", "-") if key in PARTS else "unbroken" if key == "unbroken" else "other"


def _label(key: str) -> str:
    return PARTS.get(key) or ("Not broken down" if key == "unbroken" else key)


def _parts(memory: MemoryFacts) -> tuple[Part, ...]:
    """Every part that either account has anything of."""
    predicted = (memory.predicted.breakdown if memory.predicted else None) or {}
    measured = (memory.measured.breakdown if memory.measured else None) or {}
    keys = [k for k in PARTS if predicted.get(k) or measured.get(k)]
    keys += [k for k in {**predicted, **measured} if k not in PARTS]
    rest = bool(measured.get("activations"))
    return tuple(
        Part(_kind(k), _label(k), predicted.get(k), measured.get(k), rest and k in REST and k not in measured)
        for k in keys
    )


def _savings(memory: MemoryFacts) -> tuple[tuple[Change, ...], float | None]:
    """The changes on one scale from nothing to the peak as it is, or to the card where that is near."""
    known = memory.savings or []
    now = max((saving.peak_allocated_bytes + saving.saved_bytes for saving in known), default=0)
    if not now:
        return (), None
    card = memory.card_bytes
    near = card if card and card < 1.6 * now else None
    scale = max(now, near or 0) * 1.01
    changes = tuple(Change(s, s.peak_allocated_bytes / scale * 100, now / scale * 100) for s in known)
    return changes, near / scale * 100 if near else None


def _ticks(scale: float, card: int | None) -> tuple[tuple[float, str], ...]:
    """Round numbers below the bars, about five; none where the card's own mark stands."""
    step = _step(scale)
    every = [(i * step / scale * 100, i * step) for i in range(int(scale / step) + 1)]
    mark = card / scale * 100 if card else None
    return tuple((at, f"{size / 2**30:g} GiB") for at, size in every if mark is None or abs(at - mark) > 11)


def _heights(height: int) -> tuple[tuple[float, str], ...]:
    """Round numbers up the curve, in percent from above; the ground has no mark."""
    step = _step(height * 1.6)
    every = [i * step for i in range(1, int(height / step) + 1)]
    return tuple((round((1 - size / height) * 100, 2), f"{size / 2**30:g} GiB") for size in every if size < height)


def _step(scale: float) -> float:
    units = [2.0**30 * s for s in (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2, 4, 5, 8, 10, 16, 20, 40, 80, 160)]
    return next((u for u in units if scale / u <= 6.5), units[-1])


def _phases(memory: MemoryFacts) -> tuple[Phase, ...]:
    def peaks(picture: MemoryPicture | None) -> dict[str, int]:
        known = [*(picture.step_phases or ()), *(picture.phases or ())] if picture is not None else []
        return {phase_name(p.phase): p.peak_allocated_bytes for p in known if p.phase != "step"}

    predicted, measured = peaks(memory.predicted), peaks(memory.measured)
    return tuple(Phase(name, predicted.get(name), measured.get(name)) for name in {**predicted, **measured})

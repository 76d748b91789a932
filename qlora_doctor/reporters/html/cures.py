"""Geometry of predicted changes: the peak of each against its expected time, and which of them nothing beats."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...core.report import Report
from ...facts.memory import Cure

LEFT, RIGHT, TOP, BOTTOM = 19.0, 97.0, 8.0, 80.0
"""The plot within its picture, in percent."""
MOST = 20
"""Changes in the picture at most; the table says all."""


@dataclass(frozen=True)
class Point:
    """One change; x and y in percent.

    Attributes:
        number: its row in the table, from 1.
        edge: nothing that learns the same is both as fast and as small.
    """

    number: int
    x: float
    y: float
    cure: Cure
    edge: bool


@dataclass(frozen=True)
class Chart:
    """The picture; ``edge`` holds those that nothing beats, the fastest first.

    Attributes:
        card_y: where the card's memory is.
        times, sizes: marks of the axes beside the card's: place in percent and value.
    """

    points: list[Point]
    edge: list[Point]
    card_y: float
    times: list[tuple[float, float]]
    sizes: list[tuple[float, int]]


def chart(report: Report) -> Chart | None:
    """The picture of a report's changes; None where there are fewer than two, or no card to hold them against."""
    memory = report.facts.memory
    if memory is None or memory.card_bytes is None or len(memory.cures or ()) < 2:
        return None
    cures = (memory.cures or [])[:MOST]
    speeds = [cure.speed for cure in cures]
    slow, fast = max(*speeds, 1.05), min(*speeds, 0.95)
    most = round(max(memory.card_bytes, *(cure.peak_reserved_bytes for cure in cures)) * 1.05)

    def x(speed: float) -> float:
        return round(LEFT + (RIGHT - LEFT) * (0.04 + 0.92 * (speed - fast) / (slow - fast)), 2)

    def y(size: int) -> float:
        return round(BOTTOM - (BOTTOM - TOP) * size / most, 2)

    edge = unbeaten(cures)
    card_y, top = y(memory.card_bytes), y(most)
    points = [
        Point(number, x(cure.speed), y(cure.peak_reserved_bytes), cure, number - 1 in edge)
        for number, cure in enumerate(cures, 1)
    ]
    return Chart(
        points,
        [points[place] for place in edge],
        card_y,
        [(x(speed), speed) for speed in dict.fromkeys((fast, 1.0, slow)) if speed == 1 or abs(x(speed) - x(1.0)) > 9],
        [(y(size), size) for size in (0, most) if size == 0 or card_y - top > 9],
    )


def unbeaten(cures: Sequence[Cure]) -> list[int]:
    """Places of the changes that leave what is learned as it is and that no other such beats, the fastest first."""
    same = [place for place, cure in enumerate(cures) if not cure.alters]
    order = sorted(same, key=lambda place: (cures[place].speed, cures[place].peak_reserved_bytes))
    edge: list[int] = []
    for place in order:
        if not edge or cures[place].peak_reserved_bytes < cures[edge[-1]].peak_reserved_bytes:
            edge.append(place)
    return edge

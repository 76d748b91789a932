"""The picture of predicted changes: what nothing beats, the card's line, and what changes what is learned."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from qlora_doctor.core.report import Report
from qlora_doctor.facts.memory import Change, Cure
from qlora_doctor.reporters import render
from qlora_doctor.reporters.html.cures import chart, unbeaten

EXAMPLE = Path(__file__).parents[2] / "reports" / "examples" / "facts" / "out-of-memory.json"
GIB = 1 << 30


def cure(name: str, peak: float, speed: float, **more: Any) -> Cure:
    changes = [Change(change=name, pointer="/training", value="x")]
    size = round(peak * GIB)
    return Cure(changes=changes, peak_allocated_bytes=size, peak_reserved_bytes=size, speed=speed, **more)


CURES = [
    cure("small batches", 19, 1.1, fits=True),
    cure("another loss", 25, 1.0, fits=False),
    cure("worse in both", 30, 1.05, fits=False),
    cure("shorter samples", 17, 1.2, fits=True, alters=True),
]


@pytest.fixture
def report() -> Report:
    whole = Report.model_validate_json(EXAMPLE.read_text(encoding="utf-8"))
    assert whole.facts.memory is not None
    memory = whole.facts.memory.model_copy(update={"card_bytes": 23 * GIB, "cures": CURES, "cure": CURES[0]})
    return whole.model_copy(update={"facts": whole.facts.model_copy(update={"memory": memory})})


def test_what_another_beats_in_both_is_not_on_the_line(report: Report) -> None:
    assert unbeaten(CURES) == [1, 0]
    found = chart(report)
    assert found is not None and [point.number for point in found.edge] == [2, 1]
    under = [point.number for point in found.points if point.y > found.card_y]
    assert under == [1, 4]


def test_the_page_shows_it_beside_the_table(report: Report) -> None:
    page = render(report, "html")
    figure = re.search(r'<figure class="cures">.*?</figure>', page, re.DOTALL)
    assert figure is not None
    assert figure[0].count("<circle") == 4 and figure[0].count('class="edge"') == 1
    assert 'class="fits alters"' in figure[0] and ">23 GiB<" in figure[0]


def test_one_change_alone_needs_no_picture(report: Report) -> None:
    assert report.facts.memory is not None
    memory = report.facts.memory.model_copy(update={"cures": CURES[:1]})
    alone = report.model_copy(update={"facts": report.facts.model_copy(update={"memory": memory})})
    assert chart(alone) is None and '<figure class="cures">' not in render(alone, "html")

"""The picture of a fit: complete, legible, and saying what the report says."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from qlora_doctor.core.errors import UsageError
from qlora_doctor.core.report import Report
from qlora_doctor.reporters import card, render
from tests.reporters import fixtures

SVG = "{http://www.w3.org/2000/svg}"


def with_peak(reserved: int, space: int | None) -> Report:
    """The healthy report with another peak and card."""
    report = fixtures.healthy()
    memory = report.facts.memory
    assert memory is not None and memory.predicted is not None
    picture = memory.predicted.model_copy(update={"peak_reserved_bytes": reserved})
    memory = memory.model_copy(update={"predicted": picture, "card_bytes": space, "card": "RTX 4090", "plans": None})
    return report.model_copy(update={"facts": report.facts.model_copy(update={"memory": memory})})


@pytest.mark.parametrize(
    ("reserved", "space", "answer"),
    [
        (30 << 30, 23 << 30, "Does not fit"),
        (20 << 30, 23 << 30, "Fits"),
        (2294 << 20, 2304 << 20, "Barely fits"),
        (20 << 30, None, "Peak"),
    ],
)
def test_it_answers(reserved: int, space: int | None, answer: str) -> None:
    report = with_peak(reserved, space)
    root = ET.fromstring(render(report, "card"))
    assert root.attrib["viewBox"] == "0 0 1200 630"
    said = [each.text or "" for each in root.iter(f"{SVG}text")]
    assert answer in said
    badge = ET.fromstring(render(report, "badge"))
    assert ("does not fit" in "".join(badge.itertext())) == (answer == "Does not fit")


def test_parts_add_up_to_the_peak_and_stand_inside_the_picture() -> None:
    for space in (23 << 30, 2 << 30):
        report = with_peak(8 << 30, space)
        fit = card.fit_of(report)
        assert fit is not None and sum(fit.parts.values()) == fit.peak
        for rect in ET.fromstring(card.render(report)).iter(f"{SVG}rect"):
            x, y = float(rect.attrib.get("x", 0)), float(rect.attrib.get("y", 0))
            assert x + float(rect.attrib["width"]) <= card.WIDTH and y >= 0
            assert y + float(rect.attrib["height"]) <= card.HEIGHT


def test_text_from_outside_is_text() -> None:
    report = with_peak(30 << 30, 23 << 30)
    report = report.model_copy(update={"setup": {"model": {"name_or_path": "<script>alert(1)</script>&\x1b[31m"}}})
    drawn = card.render(report)
    assert "<script" not in drawn and "\x1b" not in drawn
    ET.fromstring(drawn)


def test_without_a_peak_it_says_so() -> None:
    with pytest.raises(UsageError, match="no peak to draw"):
        card.render(fixtures.healthy().model_copy(update={"facts": type(fixtures.healthy().facts)()}))


def test_a_png_needs_its_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import sys

    from qlora_doctor.reporters import FORMATS
    from qlora_doctor.run.outputs import parse_outputs

    monkeypatch.setitem(sys.modules, "resvg_py", None)
    with pytest.raises(UsageError, match="resvg-py"):
        parse_outputs([f"card={tmp_path / 'fit.png'}"], 1, FORMATS)
    with pytest.raises(UsageError, match="SVG or a PNG"):
        parse_outputs([f"card={tmp_path / 'fit.jpg'}"], 1, FORMATS)
    assert parse_outputs([f"card={tmp_path / 'fit.svg'}"], 1, FORMATS)


def test_a_png_has_the_size_of_a_preview(tmp_path: Path) -> None:
    pytest.importorskip("resvg_py")
    content = card.png(card.render(with_peak(30 << 30, 23 << 30)))
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    assert (int.from_bytes(content[16:20], "big"), int.from_bytes(content[20:24], "big")) == (1200, 630)


def test_the_page_of_a_run_that_does_not_fit_shows_it() -> None:
    page = render(with_peak(30 << 30, 23 << 30), "html")
    assert re.search(r'<figure class="fit"><svg [^>]*viewBox="0 0 1200 630"', page)
    assert 'class="fit"><svg' not in render(with_peak(8 << 30, 23 << 30), "html")

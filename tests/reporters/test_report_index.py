"""Several reports on one page, and two side by side."""

from __future__ import annotations

import pytest

from qlora_doctor.core.report import Report, StageRecord, Summary
from qlora_doctor.reporters.comparing import Part, compare
from qlora_doctor.reporters.comparison import render as render_comparison
from qlora_doctor.reporters.html.comparison import memory_delta, signed
from qlora_doctor.reporters.html.index import WIDEST, index_view, render_index
from tests.reporters import fixtures
from tests.reporters.parts import GIB
from tests.reporters.test_report_html import Page


def unread() -> Report:
    stage = StageRecord(name="config", status="failed", reason="lora.r must be a whole number.", requested=True)
    return fixtures.config_only().model_copy(update={"stages": [stage], "exit_code": 2, "summary": Summary()})


def test_the_gravest_comes_first_and_each_is_counted() -> None:
    reports = [fixtures.healthy(), unread(), fixtures.broken()]
    view = index_view(reports, ["a.html", "b.html", "c.html"], ["a", "b", "c"])
    assert [(row.name, row.outcome) for row in view.rows] == [("c", "fails"), ("b", "unread"), ("a", "passes")]
    assert view.counts == (("fails", 1), ("unread", 1), ("passes", 1))
    worst = view.rows[0]
    assert worst.link == "c.html" and worst.share is not None and worst.share > 100
    assert dict(worst.stages)["load"] == "failed" and dict(worst.stages)["data"] == "skipped"
    assert "2 of 3 setups do not pass." in render_index(reports, ["a.html", "b.html", "c.html"])


def test_a_rule_is_told_once_with_all_its_setups() -> None:
    view = index_view([fixtures.broken(), fixtures.broken()], ["x.html", "y.html"], ["x", "y"])
    assert len({(each.rule, each.severity) for each in view.shared}) == len(view.shared)
    first = next(each for each in view.shared if each.rule == "QD304")
    assert first.places == (("x", "x.html#QD304"), ("y", "y.html#QD304")) and first.more == 0
    assert [each.severity for each in view.shared] == sorted(
        (each.severity for each in view.shared), key=["error", "warning", "info"].index
    )
    many = index_view([fixtures.broken()] * 20, [f"{i}.html" for i in range(20)], [str(i) for i in range(20)])
    assert {(len(each.places), each.more) for each in many.shared} == {(12, 8)}


def test_only_what_differs_is_laid_side_by_side() -> None:
    one, other = fixtures.healthy(), fixtures.large()
    view = index_view([one, other], ["a.html", "b.html"], ["a", "b"])
    assert view.differences and all(len(set(each.values)) > 1 for each in view.differences)
    name = next(each for each in view.differences if each.key == "model.name_or_path")
    assert name.values == ("meta-llama/Llama-2-7b-hf", "meta-llama/Llama-2-70b-hf")
    assert not index_view([one] * (WIDEST + 1), ["a.html"] * (WIDEST + 1)).differences


def test_the_index_escapes_what_comes_from_outside() -> None:
    seen = Page(render_index([fixtures.hostile(), fixtures.healthy()], ["h.html", "a.html"]))
    assert not {tag for tag, _ in seen.elements} & {"script", "img", "iframe", "object", "embed", "base", "form"}
    assert not [key for _, attrs in seen.elements for key in attrs if key == "style" or key.startswith("on")]
    assert any("default-src 'none'" in (attrs.get("content") or "") for _, attrs in seen.elements)


def test_memory_stands_on_one_scale() -> None:
    parts = [
        Part(part="peak_allocated", before=4 * GIB, after=8 * GIB),
        Part(part="activations", before=GIB, after=6 * GIB),
        Part(part="base_4bit", before=3 * GIB, after=2 * GIB),
        Part(part="gradients", before=0, after=None),
    ]
    view = memory_delta(parts, ("a", "b"))
    assert view is not None
    assert [row.key for row in view.rows] == ["base-4bit", "activations"]  # what neither side has is left out
    before, after = view.sides
    assert [s.width for s in before.segments] == [37.5, 12.5] and [s.width for s in after.segments] == [25.0, 75.0]
    base, activations = view.rows
    assert (activations.start, activations.width) == (50.0, 50.0) and (base.start, base.width) == (40.0, 10.0)
    assert (signed(base.change), signed(activations.change), signed(0)) == ("−1 GiB", "+5 GiB", "")
    assert memory_delta([], ("a", "b")) is None


@pytest.mark.parametrize("names", [("healthy", "broken"), ("broken", "healthy"), ("config_only", "healthy")])
def test_the_comparison_tells_everything_that_the_text_tells(names: tuple[str, str]) -> None:
    comparison = compare(*(fixtures.ALL[name]() for name in names))
    page = render_comparison(comparison, "html")
    for found in (*comparison.new, *comparison.gone):
        assert found.rule in page
    for change in (*comparison.setup, *comparison.facts, *comparison.versions):
        assert change.path in page
    assert len(comparison.regressions) == page.count("<li>error: ") + page.count("<li>budget: ")

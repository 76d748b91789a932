"""The HTML report as text: what it holds, what it never holds, and its size."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from typing import Any

import pytest

from qlora_doctor.core.assets import asset_folder
from qlora_doctor.core.report import STAGES, Report
from qlora_doctor.facts.load import QuantizationError
from qlora_doctor.facts.memory import CardPlan, MemoryFacts, MemoryPicture, PlanCell, PlanPoint, SufficientCard
from qlora_doctor.reporters import notebook, render
from qlora_doctor.reporters._words import one_line
from qlora_doctor.reporters.html.checks import passed_groups, skipped_groups
from qlora_doctor.reporters.html.memory import memory_view
from qlora_doctor.reporters.html.plan import plan_views
from qlora_doctor.reporters.html.strips import coverage_groups, coverage_strip, error_strip, gradient_strip
from qlora_doctor.reporters.html.timeline import POINTS
from tests.reporters import fixtures, parts
from tests.reporters.parts import GIB

NAMES = list(fixtures.ALL)


class Page(HTMLParser):
    """Elements with their attributes, and the text of some."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.inside: dict[str, list[str]] = {}
        self.text: list[str] = []
        self._at: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag in ("script", "style", "title"):
            self._at.append(tag)
            self.inside.setdefault(tag, []).append("")

    def handle_endtag(self, tag: str) -> None:
        if self._at and self._at[-1] == tag:
            self._at.pop()

    def handle_data(self, data: str) -> None:
        if self._at:
            self.inside[self._at[-1]][-1] += data
        else:
            self.text.append(data)

    @property
    def words(self) -> str:
        return " ".join("".join(self.text).split())


def page(name: str) -> Page:
    return Page(render(fixtures.ALL[name](), "html"))


@pytest.mark.parametrize("name", NAMES)
def test_every_finding_of_the_json_is_in_the_page(name: str) -> None:
    report, seen = fixtures.ALL[name](), page(name)
    entries = [attrs for _, attrs in seen.elements if "finding" in (attrs.get("class") or "").split()]
    assert len(entries) == len(report.findings)
    for finding in report.findings:
        assert finding.rule in seen.words
        if name != "hostile":
            assert finding.message in seen.words
    for outcome in report.rules:
        assert " ".join(one_line(outcome.rule).split()) in seen.words


@pytest.mark.parametrize("name", NAMES)
def test_the_whole_json_is_in_the_page(name: str) -> None:
    report = fixtures.ALL[name]()
    data = page(name).inside["script"][1]
    assert json.loads(data) == json.loads(report.model_dump_json())


@pytest.mark.parametrize(("name", "limit"), [("healthy", 300), ("broken", 300), ("hostile", 300), ("large", 400)])
def test_size(name: str, limit: int) -> None:
    assert len(render(fixtures.ALL[name](), "html").encode()) < limit * 1000


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_fetched(name: str) -> None:
    pages = [path.read_text(encoding="utf-8") for path in asset_folder("rules").glob("*.md")]
    for tag, attrs in page(name).elements:
        assert "src" not in attrs and "srcset" not in attrs and "action" not in attrs
        url = attrs.get("href") or attrs.get("xlink:href") or "#"
        if tag == "a" and not url.startswith("#"):  # a documented link, followed by a click only
            assert url.startswith("https://") and any(url in text for text in pages), url
        elif tag == "link":
            assert url.startswith("data:image/svg+xml,")
        else:
            assert url.startswith("#")
    assert "@import" not in page(name).inside["style"][0] and "url(" not in page(name).inside["style"][0]


@pytest.mark.parametrize("name", NAMES)
def test_only_our_own_style_and_script_may_act(name: str) -> None:
    seen = page(name)
    policy = next(a["content"] for t, a in seen.elements if a.get("http-equiv") == "Content-Security-Policy") or ""
    rules = dict(part.strip().split(" ", 1) for part in policy.split(";"))
    assert rules["default-src"] == rules["base-uri"] == rules["form-action"] == "'none'"
    assert "unsafe" not in policy and "http" not in policy
    for kind, text in (("script", seen.inside["script"][0]), ("style", seen.inside["style"][0])):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert rules[f"{kind}-src"] == f"'sha256-{digest}'"
    assert len(seen.inside["script"]) == 2 and len(seen.inside["style"]) == 1
    for _, attrs in seen.elements:
        assert "style" not in attrs and not any(key.startswith("on") for key in attrs)


def test_what_is_hostile_adds_no_element() -> None:
    tags = {tag for tag, _ in page("hostile").elements}
    assert tags == {tag for tag, _ in page("healthy").elements} | tags - {"img", "iframe", "object", "embed", "base"}
    assert not tags & {"img", "iframe", "object", "embed", "base", "form"}
    assert [attrs["id"] for tag, attrs in page("hostile").elements if tag == "input"] == ["search"]
    text = render(fixtures.hostile(), "html")
    assert "<script>window" not in text and "{{7*7}}" in text and "\u202e" not in text


@pytest.mark.parametrize("name", NAMES)
def test_ids_are_unique_and_links_arrive(name: str) -> None:
    elements = page(name).elements
    ids = [attrs["id"] for _, attrs in elements if "id" in attrs]
    assert len(ids) == len(set(ids))
    pointed = {attrs[key] or "" for _, attrs in elements for key in ("href",) if key in attrs}
    assert {url[1:] for url in pointed if url.startswith("#")} <= set(ids)
    labels = {attrs["aria-labelledby"] for _, attrs in elements if "aria-labelledby" in attrs}
    assert labels <= set(ids)


def test_findings_of_one_rule_have_their_own_anchors() -> None:
    ids = [attrs.get("id") for tag, attrs in page("broken").elements if tag == "details"]
    assert "QD304" in ids and "QD304-2" in ids


def test_the_fix_is_the_diff_and_the_page_of_the_rule_is_told() -> None:
    text = render(fixtures.broken(), "html")
    assert '<span class="remove">-  target_modules: [q_proj, v_proj]\n</span>' in text
    assert '<span class="add">+  target_modules: all-linear\n</span>' in text
    assert "About QD301" in text and "Why it matters" in text
    assert "```" not in page("broken").words  # the examples are the rule's tests


def test_skipped_stages_tell_reason_and_remedy() -> None:
    words = page("config_only").words
    assert "It needs torch, transformers, peft, bitsandbytes, accelerate, which are not installed." in words
    assert "pip install 'qlora-doctor[probe]'" in words
    assert "memory-title" not in render(fixtures.config_only(), "html")


def test_no_colour_of_a_skipped_check_is_that_of_a_passed_one() -> None:
    checks = re.findall(r'<details class="checks".*?</summary>', render(fixtures.config_only(), "html"), re.DOTALL)
    assert ["#i-pass" in each for each in checks] == [True, False]


def test_the_bars_add_up_to_the_peak_and_the_card_is_marked() -> None:
    view = memory_view(parts.memory())
    predicted = view.bars[0]
    assert sum(s.bytes for s in predicted.segments) == predicted.picture.peak_allocated_bytes
    assert predicted.segments[-1].x + predicted.segments[-1].width == pytest.approx(predicted.allocated, abs=0.01)
    assert predicted.over is None
    over = memory_view(parts.memory(3.77, measured=False)).bars[0]
    assert over.over is not None and sum(over.over) == pytest.approx(over.reserved)


def test_parts_that_would_be_slivers_on_the_card_have_a_scale_of_their_own() -> None:
    small, large = memory_view(parts.memory()), memory_view(parts.memory(1.6, measured=False))
    facts = parts.memory()
    assert small.card is None and small.zoom is not None
    tops = [p.peak_reserved_bytes for p in (facts.predicted, facts.measured) if p]
    assert facts.card_bytes and small.zoom == pytest.approx(max(t or 0 for t in tops) * 101.5 / facts.card_bytes)
    assert max(bar.reserved or 0 for bar in small.bars) == pytest.approx(100 / 1.015)
    assert large.zoom is None and large.card is not None and large.bars[0].allocated < large.card < 100


def test_what_a_measurement_cannot_tell_apart_is_told_as_within_activations() -> None:
    facts = parts.memory()
    assert facts.measured is not None
    seen = {"base_4bit": 4 * GIB, "adapter": GIB, "activations": 2 * GIB}
    measured = facts.measured.model_copy(update={"breakdown": seen})
    rows = {p.key: p for p in memory_view(facts.model_copy(update={"measured": measured})).parts}
    assert rows["logits-and-loss"].within and not rows["activations"].within and not rows["base-16bit"].within


def plan(fits: dict[tuple[int, int], bool | None], **more: Any) -> MemoryFacts:
    cells = [
        PlanCell(batch=b, sequence=s, peak_allocated_bytes=GIB, peak_reserved_bytes=(b * s // 512) * GIB, fits=fit)
        for (b, s), fit in fits.items()
    ]
    return MemoryFacts(plan=cells, card_bytes=10 * GIB, **more)


def test_the_frontier_runs_between_what_fits_and_what_does_not() -> None:
    fits: dict[tuple[int, int], bool | None] = {
        (1, 512): True, (1, 1024): True, (1, 2048): False, (4, 512): True, (4, 1024): False, (4, 2048): False,
    }  # fmt: skip
    (view,) = plan_views(plan(fits, predicted=MemoryPicture(batch=4, sequence=512)))
    assert view.sequences == (512, 1024, 2048)
    (first, second, third), (fourth, fifth, _) = (row.cells for row in view.rows)
    assert (second.edge_right, second.edge_below, second.longest) == (True, True, True)
    assert (first.edge_right, first.edge_below, first.longest) == (False, False, False)
    assert (fourth.edge_right, fourth.edge_below, fourth.longest, fourth.here) == (True, False, True, True)
    assert [c.kind for c in (first, second, third, fourth, fifth)] == ["l1", "l2", "tight", "l3", "tight"]
    assert view.sentences == (
        "At 512 tokens, batch 4 is the largest of the table that fits.",
        "At batch 1, 1,024 tokens are the longest of the table.",
        "The most tokens in one step of this table: 4 × 512.",
    )


def test_each_card_has_its_table_and_the_ends_of_its_frontier() -> None:
    cells = plan({(1, 512): True, (2, 512): False}).plan
    assert cells is not None
    large, small = (
        CardPlan(card="H200", card_bytes=140 * GIB, cells=cells, frontier=[], bf16=True,
                 largest_batch=PlanPoint(batch=90, sequence=512), longest_sequence=PlanPoint(batch=1, sequence=48_000)),
        CardPlan(card="T4", card_bytes=14 * GIB, cells=cells, frontier=[], bf16=False),
    )  # fmt: skip
    card = SufficientCard(card="A100 <80GB>", card_bytes=80 * GIB, bf16=True, share=0.4)
    notes = {"plan_notes": ["Two traces."], "plan_traces": 2, "plan_verified_ratio": 0.0}
    facts = MemoryFacts(plans=[large, small], plan=cells, sufficient_cards=[card], **notes)
    one, other = plan_views(facts)
    assert one.sentences[:2] == (
        "At 512 tokens, batch 90 is the largest that fits.",
        "At batch 1, 48,000 tokens are the longest.",
    )
    assert (one.card, one.emulated, other.card, other.emulated) == ("H200", False, "T4", True)
    report = fixtures.healthy()
    report = report.model_copy(update={"facts": report.facts.model_copy(update={"memory": facts})})
    words = Page(render(report, "html")).words
    assert "A100 <80GB> 40% full" in words and "no bfloat16 in hardware" in words
    assert "How the tables were found: 2 traces, verified cells differ by 0% at most" in words


def test_a_plan_with_holes_and_one_that_nothing_fits() -> None:
    assert plan_views(MemoryFacts()) == ()
    (nothing,) = plan_views(plan({(1, 512): False, (2, 1024): False}))
    assert nothing.sentences == ("Nothing in this table fits the card.",)
    assert nothing.rows[0].cells[1].cell is None and nothing.rows[0].cells[1].kind == "l0"
    (unknown,) = plan_views(plan({(1, 512): None}))
    assert unknown.sentences == () and unknown.rows[0].cells[0].kind == "l0"
    cell = PlanCell(batch=1, sequence=8, peak_allocated_bytes=11 * GIB, peak_reserved_bytes=12 * GIB, fits=False)
    (over,) = plan_views(MemoryFacts(plan=[cell], card_bytes=10 * GIB))
    assert over.rows[0].cells[0].kind == "full"  # what PlanCells of the other tests only reserve, this one holds


def test_a_cell_of_the_plan_says_in_words_what_its_colour_says() -> None:
    words = page("broken").words
    assert "✓19.9 fits" in words and "27.9 does not fit, the setup as it is" in words
    assert "22.6 fits, longest that fits at this batch" in words


def test_errors_that_are_nearly_alike_are_painted_alike() -> None:
    def kinds(values: list[float]) -> set[str]:
        errors = [
            QuantizationError(module=f"model.layers.{i}.mlp.up_proj", relative_error=v, max_error=v)
            for i, v in enumerate(values)
        ]
        strip = error_strip(errors)
        assert strip is not None
        return {path.kind for path in strip.paths}

    assert kinds([0.0919, 0.0920, 0.0920]) == {"h4"}
    assert kinds([0.05, 0.0920, 0.12]) == {"h1", "h5", "h7"}


def test_reasons_are_told_once_and_checks_by_stage() -> None:
    report = fixtures.config_only()
    late = [o for o in report.rules if o.status == "skipped"]
    groups = skipped_groups(late)
    assert sum(len(g.checks) for g in groups) == len(late)
    assert len({(g.heading, g.reason) for g in groups}) == len(groups)
    lacking = late[0].model_copy(update={"reason": f"Unknown: data.rows_seen, data.rows. {late[0].reason}"})
    (group,) = skipped_groups([lacking])
    assert (group.reason, group.checks[0].lacks) == (late[0].reason, "data.rows_seen, data.rows")
    passed = passed_groups([o for o in fixtures.healthy().rules if o.status == "pass"])
    assert [g.heading for g in passed] == [s for s in STAGES if s in {g.heading for g in passed}]


def test_headroom_is_of_the_measured_peak_where_there_is_one() -> None:
    facts = parts.memory()
    assert facts.measured and facts.card_bytes and facts.measured.peak_reserved_bytes
    assert memory_view(facts).headroom == facts.card_bytes - facts.measured.peak_reserved_bytes


def test_a_long_timeline_keeps_its_peak() -> None:
    points = parts.timeline(4 * parts.GIB, 9 * parts.GIB, 5000)
    points[3333] = points[3333].model_copy(update={"allocated_bytes": 20 * parts.GIB})
    picture = parts.picture().model_copy(update={"timeline": points})
    view = memory_view(parts.memory(measured=False).model_copy(update={"predicted": picture}))
    line = view.timelines[0]
    assert line.line.count("L") <= POINTS and line.peak == 20 * parts.GIB
    highest = min(int(pair.split()[1]) for pair in line.line[1:].split("L"))
    assert highest == round(1000 - 20 * parts.GIB / view.timeline_top * 1000)


def test_layers_that_stand_alike_share_a_column() -> None:
    projections = parts.coverage(80, lambda p, i: i % 2 == 0, lambda *_: True)
    groups = coverage_groups(projections)
    assert [(g.layers, g.count) for g in groups] == [("0–78 in steps of 2", 40), ("1–79 in steps of 2", 40)]
    assert groups[1].states[0] == ("no LoRA", "4-bit")
    strip = coverage_strip(parts.coverage(80, lambda *_: True, lambda *_: True))
    assert strip is not None and {p.kind for p in strip.paths} == {"lora", "four-bit"}
    assert strip.ticks[-1].layer == 79


def test_a_missing_gradient_is_marked_and_counted() -> None:
    strip = gradient_strip(parts.gradients(32, parts.PROJECTIONS[:4], dead=24))
    assert strip is not None and strip.missing == (("none", 32),)
    assert {"none", "cross"} <= {path.kind for path in strip.paths}
    assert strip.values[31] == (31, ("none",) * 4)


def _luminance(color: str) -> float:
    channels = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_text_contrast_is_that_of_wcag_aa(scheme: int) -> None:
    """4.5 : 1 for every ink on every ground it is used on (WCAG 2.2, 1.4.3); 3 : 1 for the main marks (1.4.11)."""
    style = (asset_folder("reports") / "html" / "report.css").read_text(encoding="utf-8")
    light, dark = (
        dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", block))
        for block in re.findall(r":root \{.*?\}", style, re.DOTALL)[:2]
    )
    colors = [light, {**light, **dark}][scheme]

    def ratio(ink: str, ground: str) -> float:
        low, high = sorted((_luminance(colors[ink]), _luminance(colors[ground])))
        return (high + 0.05) / (low + 0.05)

    pairs = [(ink, ground) for ink in ("ink", "soft", "accent") for ground in ("page", "card", "sunk")]
    pairs += [(ink, "card") for ink in ("error", "warning", "info", "pass")] + [
        (ink, "sunk") for ink in ("error", "warning", "info")
    ]
    pairs += [("error", "error-soft"), ("info", "info-soft"), ("accent", "accent-soft"), ("add", "add-soft")]
    pairs += [
        ("remove", "remove-soft"),
        ("ink", "warning-soft"),
        ("ink", "pass-soft"),
        ("ink", "info-soft"),
        ("card", "ink"),
    ]
    assert [(pair, round(ratio(*pair), 2)) for pair in pairs if ratio(*pair) < 4.5] == []
    marks = ["p-base-4bit", "p-adapter", "p-activations", "p-logits-and-loss", "p-unbroken", "error", "pass"]
    assert [(mark, round(ratio(mark, "card"), 2)) for mark in marks if ratio(mark, "card") < 3] == []


@pytest.mark.parametrize("name", NAMES)
def test_the_notebook_fragment_stands_alone(name: str) -> None:
    report: Report = fixtures.ALL[name]()
    text = notebook.render(report)
    assert text == report._repr_html_()
    seen = Page(text)
    assert not {tag for tag, _ in seen.elements} & {"script", "img", "iframe", "link", "html", "body"}
    assert all(not key.startswith("on") and key not in ("src", "href") for _, attrs in seen.elements for key in attrs)
    for selector in re.findall(r"(?:^|\})\s*([^{}]+)\{", seen.inside["style"][0]):
        assert all(part.strip().startswith(".qlora-doctor") for part in re.split(r",(?![^(]*\))", selector))
    for finding in report.findings:
        if finding.suppressed is None:
            assert finding.rule in seen.words

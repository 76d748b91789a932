"""The HTML report as a person meets it: in Chromium, by eye and by keyboard, on a desk and on a phone."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.reporters import fixtures

pytestmark = pytest.mark.browser

DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
NAMES = list(fixtures.ALL)
SEVERAL = ["index", "comparison", "hostile-comparison"]


@pytest.fixture
def visit(browser: Any, pages: dict[str, str]) -> Iterator[Callable[..., Any]]:
    """``visit("broken", "#QD301", **context options)``; what the page says on its console fails the test."""
    contexts, said = [], []

    def open_page(name: str, anchor: str = "", **options: Any) -> Any:
        context = browser.new_context(**{"viewport": DESKTOP, "reduced_motion": "reduce", **options})
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: said.append(request.url) if _leaves(request.url) else None)
        page.goto(pages[name] + anchor)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert said == []


def _leaves(url: str) -> bool:
    return not url.startswith(("file:", "data:", "blob:"))


@pytest.mark.parametrize("name", [*NAMES, *SEVERAL])
@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_violation(visit: Callable[..., Any], name: str, viewport: dict[str, int], scheme: str) -> None:
    """With everything unfolded, and once as it opens."""
    for unfolded in (False, True) if (viewport, scheme) == (DESKTOP, "light") else (True,):
        assert _violations(visit, name, unfolded, viewport=viewport, color_scheme=scheme) == []


@pytest.mark.parametrize(("viewport", "scheme"), [(DESKTOP, "light"), (PHONE, "dark")], ids=["desktop", "phone"])
def test_axe_finds_no_violation_in_the_gallery(
    visit: Callable[..., Any], pages: dict[str, str], viewport: dict[str, int], scheme: str
) -> None:
    names = [name for name in pages if name.startswith("gallery/")]
    assert len(names) > 5
    for name in names:
        assert _violations(visit, name, True, viewport=viewport, color_scheme=scheme) == [], name


def _violations(visit: Callable[..., Any], name: str, unfolded: bool, **options: Any) -> list[Any]:
    """What axe finds. The page's policy is bypassed here, for axe's own script."""
    axe_core_python = pytest.importorskip("axe_core_python")
    axe = (Path(axe_core_python.__file__).parent / "axe.min.js").read_text(encoding="utf-8")
    page = visit(name, bypass_csp=True, **options)
    page.evaluate(axe)
    if unfolded:
        page.evaluate("document.querySelectorAll('details').forEach(each => { each.open = true })")
    result = page.evaluate("async () => await axe.run(document, {resultTypes: ['violations']})")
    assert len(result["passes"]) > 10  # axe really looked
    return [(v["id"], v["help"], [n["html"][:120] for n in v["nodes"][:3]]) for v in result["violations"]]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_it_works_under_its_own_policy_and_does_not_scroll_sideways(
    visit: Callable[..., Any], name: str, viewport: dict[str, int]
) -> None:
    page = visit(name, viewport=viewport)
    assert page.evaluate("document.documentElement.classList.contains('js')")
    assert page.evaluate("getComputedStyle(document.querySelector('main')).display") == "grid"
    page.evaluate("document.querySelectorAll('details').forEach(each => { each.open = true })")
    assert page.evaluate("document.documentElement.scrollWidth") == viewport["width"]


@pytest.mark.parametrize("name", SEVERAL)
@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_pages_of_several_reports_need_no_script(
    visit: Callable[..., Any], name: str, viewport: dict[str, int]
) -> None:
    page = visit(name, viewport=viewport)
    assert page.locator("script, img, iframe, object, embed, base, form").count() == 0
    assert page.evaluate("window.pwned") is None
    assert page.evaluate("document.documentElement.scrollWidth") == viewport["width"]


def test_the_index_leads_to_the_finding(visit: Callable[..., Any]) -> None:
    page = visit("index")
    page.locator(".shared tr", has_text="QD112").get_by_role("link").click()
    assert page.url.endswith("broken.html#QD112")
    page.locator("#QD112 .diff").wait_for(state="visible")


def test_what_is_hostile_does_not_act(visit: Callable[..., Any]) -> None:
    page = visit("hostile")
    assert page.evaluate("window.pwned") is None
    assert page.locator("img, iframe, object, embed, base, form").count() == 0
    assert page.locator("script").count() == 2
    assert page.locator("a").evaluate_all("links => links.every(a => a.href.startsWith('file:') || "
                                          "a.href.startsWith('https://'))")  # fmt: skip
    assert page.locator("text=egnp.exe").count() > 3  # it is shown, as the text that it is
    again = json.loads(page.evaluate("document.getElementById('report-data').textContent"))
    assert again == json.loads(fixtures.hostile().model_dump_json())


def test_what_is_injected_after_all_is_stopped_by_the_policy(browser: Any, pages: dict[str, str]) -> None:
    page = browser.new_page()
    page.goto(pages["healthy"])
    page.evaluate(
        "() => { const s = document.createElement('script'); s.textContent = 'window.pwned = 1';"
        "document.body.append(s); document.body.setAttribute('onclick', 'window.pwned = 2'); document.body.click();"
        "document.body.setAttribute('style', 'color: rgb(1, 2, 3)') }"
    )
    assert page.evaluate("window.pwned") is None
    assert page.evaluate("getComputedStyle(document.body).color") != "rgb(1, 2, 3)"
    page.close()


def test_without_scripts_everything_is_there(visit: Callable[..., Any]) -> None:
    page = visit("broken", java_script_enabled=False)
    assert page.locator("#verdict").inner_text().startswith("3 errors")
    assert page.locator(".finding").count() == 8
    assert page.locator("#QD301 .diff").is_visible()  # errors are open
    closed = page.locator("#QD112")
    assert not closed.locator(".diff").is_visible()
    closed.locator("summary").first.click()
    assert closed.locator(".diff").is_visible()
    assert page.locator(".chip, .copy, [data-save], .readout").evaluate_all("all => all.length") > 5
    for dead in page.locator(".filters, .copy, .tools, .readout").all():
        assert not dead.is_visible()  # nothing that needs a script pretends to work


def test_chips_and_words_filter_together(visit: Callable[..., Any]) -> None:
    page = visit("broken")

    def shown() -> list[str]:
        return page.locator(".finding:visible").evaluate_all("all => all.map(each => each.id)")

    assert len(shown()) == 8
    page.get_by_role("button", name="Warnings 3").click()
    assert shown() == ["QD112", "QD304", "QD304-2"]
    assert page.get_by_role("button", name="Warnings 3").get_attribute("aria-pressed") == "true"
    assert page.locator("#shown").inner_text() == "3 of 8 findings shown"
    page.get_by_role("button", name="structure 3").click()
    assert shown() == ["QD304", "QD304-2"]
    page.get_by_role("button", name="Errors 3").click()  # severities add up, stages narrow them down
    assert shown() == ["QD301", "QD304", "QD304-2"]
    page.keyboard.press("/")
    page.keyboard.type("DENSE up_proj")  # every word, in any order and case
    assert shown() == ["QD304-2"]
    page.keyboard.press("Escape")
    assert len(shown()) == 8 and page.locator("#search").input_value() == ""
    assert page.get_by_role("button", name="All 8").get_attribute("aria-pressed") == "true"
    page.get_by_role("button", name="suppressed 1").click()
    assert shown() == ["QD101"]
    page.get_by_role("button", name="suppressed 1").click()
    assert len(shown()) == 8
    page.locator("#search").fill("nobody wrote this")
    assert shown() == [] and page.locator("#shown").inner_text() == "0 of 8 findings shown"
    page.get_by_role("button", name="All 8").click()
    assert len(shown()) == 8


def test_the_contents_tell_where_one_reads(visit: Callable[..., Any]) -> None:
    page = visit("broken")
    page.locator("#adapter-title").scroll_into_view_if_needed()
    page.evaluate("document.getElementById('adapter').scrollIntoView()")
    page.locator(".contents a[aria-current]", has_text="Adapter").wait_for()
    assert page.locator(".contents a[aria-current]").count() == 1


@pytest.mark.parametrize("chip", [None, "Errors 3"])
def test_a_deep_link_opens_its_finding(visit: Callable[..., Any], chip: str | None) -> None:
    page = visit("broken", "#QD112" if chip is None else "")
    if chip is not None:  # also one that a filter hides
        page.get_by_role("button", name=chip).click()
        page.evaluate("location.hash = '#QD112'")
    target = page.locator("#QD112")
    target.locator(".diff").wait_for(state="visible")
    assert target.evaluate("each => Math.abs(each.getBoundingClientRect().top) < 100")


def test_the_copied_fix_is_the_diff_itself(visit: Callable[..., Any]) -> None:
    page = visit("broken", permissions=["clipboard-read", "clipboard-write"])
    page.get_by_role("button", name="Copy the diff for QD301").click()
    copied = page.evaluate("navigator.clipboard.readText()")
    found = next(f for f in fixtures.broken().findings if f.rule == "QD301")
    assert found.remediation is not None and copied == found.remediation.diff
    page.get_by_role("button", name="Copy command 1 for QD301").click()
    assert page.evaluate("navigator.clipboard.readText()") == found.remediation.commands[0]


def test_the_saved_json_is_the_report(visit: Callable[..., Any]) -> None:
    page = visit("broken")
    with page.expect_download() as download:
        page.get_by_role("button", name="save it").click()
    assert download.value.suggested_filename == "qlora-doctor.json"
    saved = json.loads(Path(download.value.path()).read_text(encoding="utf-8"))
    assert saved == json.loads(fixtures.broken().model_dump_json())


def test_the_keyboard_reaches_everything(visit: Callable[..., Any]) -> None:
    page = visit("broken")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "report"
    page.locator("#QD112 > summary").focus()
    page.keyboard.press("Enter")
    assert page.locator("#QD112 .diff").is_visible()
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"
    page.get_by_role("button", name="Errors 3").focus()
    page.keyboard.press("Space")
    assert page.locator(".finding:visible").count() == 3


def test_pointing_at_a_cell_reads_its_value(visit: Callable[..., Any]) -> None:
    page = visit("large")
    strip = page.locator(".strip[data-table='gradient-values']")
    box = strip.locator(".cells").bounding_box()
    strip.scroll_into_view_if_needed()
    strip.locator(".cells").hover(position={"x": box["width"] * 12.5 / 80, "y": box["height"] * 2.5 / 7})
    gradients = fixtures.large().facts.step.gradients  # type: ignore[union-attr]
    assert gradients is not None
    expected = f"Layer 12, self_attn.v_proj: {gradients[2].norms[12]:.4g}"
    assert strip.locator(".readout").inner_text() == expected


def test_pointing_at_the_curve_reads_phase_and_size(visit: Callable[..., Any]) -> None:
    page = visit("broken")
    figure = page.locator(".timeline").first
    memory = fixtures.broken().facts.memory
    assert memory is not None and memory.predicted is not None and memory.predicted.timeline is not None
    peak = max(memory.predicted.timeline, key=lambda point: point.allocated_bytes)
    picture = figure.locator("svg").first
    picture.scroll_into_view_if_needed()
    picture.hover(position={"x": picture.bounding_box()["width"] * peak.at, "y": 100})
    phase, size = figure.locator(".readout").inner_text().removesuffix(" GiB").split(": ")
    assert phase == peak.phase and float(size) == pytest.approx(peak.allocated_bytes / 2**30, rel=0.01)
    page.mouse.move(0, 0)
    assert figure.locator(".readout").inner_text() == "Point at the curve to read it."


def test_memory_is_zoomed_down_to_tensors(visit: Callable[..., Any]) -> None:
    page = visit("large")
    figure = page.locator(".zoom")
    predicted = fixtures.large().facts.memory.predicted  # type: ignore[union-attr]
    assert predicted is not None and predicted.tensors is not None
    assert figure.locator(".zoom-phases [aria-pressed=true]").inner_text().startswith("backward ")
    figure.get_by_role("button", name="forward").click()
    figure.get_by_role("button", name="Base, packed 4-bit").click()
    figure.get_by_role("button", name="layers.*.mlp:").click()
    weight = next(each for each in predicted.tensors if each.phase == "forward" and each.part == "base_4bit")
    box = figure.locator(".zoom-rows > div").last.locator("button")
    assert box.count() == 1 and box.inner_text() == "stored, 29360128 × 1, uint8"
    box.click()
    told = figure.locator(".readout").inner_text()
    assert told == f"stored, 29360128 × 1, uint8: {weight.bytes / 2**30:#.3g} GiB in 32 tensors"
    figure.locator(".zoom-path button").first.click()
    assert figure.locator(".zoom-rows > div").count() == 4


def test_paper_shows_what_the_screen_folds(visit: Callable[..., Any]) -> None:
    page = visit("broken", color_scheme="dark")
    page.emulate_media(media="print")
    # Dark screens print in the colours of paper.
    assert page.evaluate("getComputedStyle(document.body).color") == "rgb(23, 33, 43)"
    assert not page.locator(".contents").is_visible() and not page.locator(".filters").is_visible()
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.locator("#QD112 .diff").is_visible()
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.locator("#QD112").get_attribute("open") is None
    assert len(page.pdf()) > 50_000


def test_a_report_without_findings_is_six_sheets_at_most(visit: Callable[..., Any]) -> None:
    sheet = dict.fromkeys(("top", "bottom", "left", "right"), "10mm")
    pages = re.findall(rb"/Type\s*/Page\b", visit("healthy").pdf(format="A4", margin=sheet))
    assert 1 <= len(pages) <= 6


def test_dark_and_light_are_different_pages_of_the_same_words(visit: Callable[..., Any]) -> None:
    light, dark = visit("healthy", color_scheme="light"), visit("healthy", color_scheme="dark")
    ground = "getComputedStyle(document.body).backgroundColor"
    assert light.evaluate(ground) != dark.evaluate(ground)
    assert light.locator("body").inner_text() == dark.locator("body").inner_text()


def test_headings_descend_one_by_one_and_landmarks_are_there(visit: Callable[..., Any]) -> None:
    page = visit("broken")
    levels = page.locator("h1, h2, h3, h4, h5").evaluate_all("all => all.map(each => Number(each.tagName[1]))")
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    assert all(page.locator(landmark).count() == 1 for landmark in ("header", "nav", "main", "footer"))


def test_the_card_keeps_its_own_sizes_and_colours(visit: Callable[..., Any]) -> None:
    """A style of the page for its drawings would win over the card's attributes."""
    page = visit("broken")
    told = page.evaluate(
        "() => [...document.querySelectorAll('.fit text')].map(t => [t.getAttribute('font-size') + 'px',"
        " getComputedStyle(t).fontSize])"
    )
    assert told and all(asked == shown for asked, shown in told), told

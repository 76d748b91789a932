"""The calculator says in Chromium what the command says, at every width and from the keyboard."""

from __future__ import annotations

import functools
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from qlora_doctor.memory.machine import Machine
from qlora_doctor.memory.replay import replay
from qlora_doctor.memory.shipped import MODELS, Variant, shipped_for
from qlora_doctor.setup.changed import with_value
from qlora_doctor.tables.cards import find_card
from qlora_doctor.tables.traces import read
from tools.docsite import calculator
from tools.traces import setup_of

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

ROOT = Path(__file__).resolve().parents[2]
PAGE = """<!doctype html><html lang="en"><meta name="viewport" content="width=device-width">
<link rel="stylesheet" href="assets/site.css"><title>Calculator</title><body>{form}</body></html>"""
CASES = [
    ("meta-llama/Llama-3.2-1B", "RTX 4090", "transformers", "all-linear", True, 2, 4096, 32),
    ("meta-llama/Llama-3.2-1B", "H100 SXM 80GB", "trl", "qkvo", False, 8, 1024, 64),
    ("meta-llama/Llama-3.2-3B", "Tesla T4", "transformers", "all-linear", False, 1, 2048, 8),
    ("meta-llama/Llama-3.2-3B", "A100 80GB", "trl", "all-linear", True, 32, 16384, 256),
]


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *arguments: Any) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server of the page alone, without the site's theme: its own style, script and traces."""
    if any(read(Variant(case[0], case[2], case[3], case[4]).file) is None for case in CASES):  # type: ignore[arg-type]
        pytest.skip("the traces are not made")
    folder = tmp_path_factory.mktemp("calculator")
    shutil.copytree(ROOT / "docs" / "assets", folder / "assets")
    shutil.copytree(calculator.TRACES, folder / "traces")
    text = calculator.page()
    form = text[text.index("<form") :].replace("../assets", "assets").replace("../traces", "traces")
    (folder / "index.html").write_text(PAGE.format(form=form), encoding="utf-8")
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()


@pytest.fixture(scope="module")
def page(address: str, browser: Browser) -> Iterator[Page]:
    page = browser.new_page(viewport={"width": 1200, "height": 900})
    page.goto(address)
    page.select_option("select[name=model]", label="meta-llama/Llama-3.2-1B")
    page.wait_for_selector("#calculator-picture svg")
    yield page
    page.close()


@pytest.mark.browser
@pytest.mark.parametrize("case", CASES)
def test_every_figure_is_the_commands(page: Page, case: Any) -> None:
    model, card_name, trainer, targets, checkpointing, batch, sequence, rank = case
    data = calculator.calculator_data()
    question = {
        "model": MODELS.index(model),
        "card": [each["name"] for each in data["cards"]].index(card_name),
        "trainer": trainer, "targets": targets, "checkpointing": checkpointing,
        "batch": batch, "sequence": sequence, "rank": rank,
    }  # fmt: skip
    script = """asked => qloraDoctor.predict(
        JSON.parse(document.getElementById("calculator-data").textContent), "traces/", asked)"""
    found = page.evaluate(script, question)

    setup = with_value(setup_of(Variant(model, trainer, targets, checkpointing), card_name), "lora.r", rank)
    shipped, machine = shipped_for(setup), Machine(find_card(card_name))
    if shipped is None:
        pytest.skip("other versions are installed than those that were traced")
    tape = shipped.scalable(machine, batch, sequence)
    assert tape is not None
    run = replay(tape.at(batch, sequence), machine)
    assert (found["allocated"], found["reserved"]) == (run.peak_allocated, run.peak_reserved)
    assert {part: size for part, size in found["breakdown"].items() if size} == {
        part: size for part, size in run.breakdown.items() if size
    }


@pytest.mark.browser
def test_the_keyboard_moves_the_answer(page: Page) -> None:
    def answer() -> str:
        return str(page.inner_text("#calculator-answer"))

    page.select_option("select[name=model]", label="meta-llama/Llama-3.2-1B")
    page.wait_for_function("document.getElementById('calculator-longest').textContent.includes('fits up to')")
    before = answer()
    assert before.startswith("Yes: ")
    page.focus("input[name=batch]")
    for _ in range(6):
        page.keyboard.press("ArrowRight")
    page.wait_for_function(f"document.getElementById('calculator-answer').textContent !== {before!r}")
    assert answer().startswith("No: ")
    assert "--batch 8" in page.inner_text("#calculator-command")
    names = set()
    for _ in range(12):
        names.add(page.evaluate("document.activeElement.name || document.activeElement.id"))
        page.keyboard.press("Tab")
    assert {"tokens", "rank", "targets", "trainer", "checkpointing", "calculator-command"} <= names


@pytest.mark.browser
def test_the_command_it_shows_gives_the_same_answer(page: Page) -> None:
    page.select_option("select[name=model]", label="meta-llama/Llama-3.2-1B")
    page.wait_for_function("!document.getElementById('calculator-longest').textContent.includes('…')")
    said = page.inner_text("#calculator-answer").removesuffix(".")
    words = re.findall(r'"[^"]*"|\S+', page.inner_text("#calculator-command"))[1:]
    command = [sys.executable, "-m", "qlora_doctor", *(word.strip('"') for word in words), "-q", "--offline"]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300).stdout
    figures = re.compile(r"\d+(?:\.\d+)? [GM]iB")
    assert [float(each.split()[0]) for each in figures.findall(told)[:2]] == [
        float(each.split()[0]) for each in figures.findall(said)
    ]


@pytest.mark.browser
@pytest.mark.parametrize("width", [360, 768])
def test_nothing_is_wider_than_the_window(page: Page, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    box = page.locator("#calculator-picture svg").bounding_box()
    assert box is not None and box["width"] > 200

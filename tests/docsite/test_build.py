"""The site is built strictly, and its search by symptom finds what the command finds."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from qlora_doctor.engine import search_symptoms

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytest.importorskip("material")
ROOT = Path(__file__).resolve().parents[2]
ASKED = (
    "loss does not go down",
    "CUDA out of memory",
    "ValueError: Target modules {'q_proj'} not found in the base model",
    "the reloaded adapter behaves like the base",
    "4bit model is huge",
    "nan",
    "constructor hasOwnProperty",
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_it_is_built_without_a_warning_and_loads_nothing_from_elsewhere(site: Path) -> None:
    assert (site / "rules" / "QD301" / "index.html").is_file()
    assert (site / "schema" / "config-v1.schema.json").is_file()
    for page in ("index.html", "symptoms/index.html", "rules/QD301/index.html"):
        text = (site / page).read_text(encoding="utf-8")
        assert 'src="http' not in text and "fonts.googleapis" not in text


@pytest.fixture(scope="module")
def field(site: Path, browser: Browser) -> Iterator[Page]:
    page = browser.new_page()
    page.goto((site / "symptoms" / "index.html").as_uri())
    yield page
    page.close()


@pytest.mark.browser
@pytest.mark.parametrize("asked", ASKED)
def test_the_page_finds_what_the_command_finds(field: Page, asked: str) -> None:
    field.fill("#symptom", asked)
    links = field.locator("#matches a")
    shown = [text.split()[0] for text in links.all_inner_texts()]
    assert shown == [match.rule.id for match in search_symptoms(asked, limit=8)]
    assert all(link.get_attribute("href") == f"../rules/{rule}/" for link, rule in zip(links.all(), shown, strict=True))

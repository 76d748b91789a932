"""A headless Chromium, and the reports as files that it can open."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from qlora_doctor.reporters import render
from qlora_doctor.reporters.comparing import compare
from qlora_doctor.reporters.comparison import render as render_comparison
from qlora_doctor.reporters.html.index import render_index
from tests.reporters import fixtures

if TYPE_CHECKING:
    from playwright.sync_api import Browser

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip
MISSING = "These tests look at the report in Chromium, which is not installed: apt-get install -y chromium"


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Chromium of this machine; CI must have one, elsewhere the tests are skipped without it."""
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None and os.environ.get("CI", "").lower() in ("1", "true"):
        pytest.fail(MISSING, pytrace=False)
    if path is None:
        pytest.skip(MISSING)
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=list(FLAGS))
        yield chromium
        chromium.close()


@pytest.fixture(scope="session")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Address of each report's HTML file by its name, those of an index and of comparisons, and the gallery."""
    folder: Path = tmp_path_factory.mktemp("reports")
    addresses = {}
    for name, make in fixtures.ALL.items():
        path = folder / f"{name}.html"
        path.write_text(render(make(), "html"), encoding="utf-8")
        addresses[name] = path.as_uri()
    several = [make() for make in fixtures.ALL.values()]
    index = render_index(several, [f"{name}.html" for name in fixtures.ALL], [f"{name}.yaml" for name in fixtures.ALL])
    comparison = render_comparison(compare(fixtures.healthy(), fixtures.broken()), "html")
    hostile = render_comparison(compare(fixtures.hostile(), fixtures.healthy()), "html")
    for name, text in {"index": index, "comparison": comparison, "hostile-comparison": hostile}.items():
        path = folder / f"{name}.html"
        path.write_text(text, encoding="utf-8")
        addresses[name] = path.as_uri()
    gallery = Path(__file__).resolve().parents[2] / "reports" / "examples"
    return addresses | {f"gallery/{path.stem}": path.as_uri() for path in gallery.glob("*.html")}

"""The gallery under ``reports/examples`` is what today's rules and templates make of the recorded facts."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
GALLERY = ROOT / "reports" / "examples"
EXPECTED = {
    "llama-3.1-8b": set(),
    "falcon-7b": {"QD202", "QD503"},
    "mixtral-8x7b": {"QD205", "QD311"},
    "out-of-memory": {"QD503"},
    "masked-data": {"QD605"},
    "measured-on-h200": set(),
}
"""What each page must tell; the healthy ones tell nothing."""


@pytest.fixture(scope="module")
def gallery() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gallery", ROOT / "tools" / "gallery.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["gallery"] = module
    spec.loader.exec_module(module)
    return module


def test_the_pages_are_current(gallery: ModuleType) -> None:
    made = gallery.pages()
    stored = {path.name: path.read_text(encoding="utf-8") for path in GALLERY.glob("*.html")}
    assert set(made) == set(stored)
    stale = [name for name, text in made.items() if text != stored[name]]
    assert not stale, f"{', '.join(stale)} differ from what the recorded facts make; run `make gallery` and commit"


def test_each_page_tells_what_it_is_there_for(gallery: ModuleType) -> None:
    for example in gallery.EXAMPLES:
        found = {finding.rule for finding in gallery.judged(example).findings}
        expected = EXPECTED[example.name]
        assert expected <= found and bool(expected) == bool(found), (example.name, found)


def test_the_pages_of_what_comes_after_a_run(gallery: ModuleType) -> None:
    course, adapter = gallery.after_the_run("run-that-overfits"), gallery.after_the_run("adapter")
    assert {finding.rule for finding in course.findings} == {"QD709"}
    assert not adapter.findings and adapter.facts.stored.reload == "same" and len(adapter.facts.stored.ways) == 7


def test_the_gallery_stays_small_and_tells_nothing_of_the_machine() -> None:
    pages = list(GALLERY.glob("*.html"))
    assert sum(path.stat().st_size for path in pages) < 1_750_000
    assert all(path.stat().st_size < 300_000 for path in pages)
    for path in [*pages, *GALLERY.glob("facts/*.json")]:
        assert not re.search(r"[\"' ](/(?:home|root|tmp|work)/|[A-Z]:\\\\)", path.read_text(encoding="utf-8")), path

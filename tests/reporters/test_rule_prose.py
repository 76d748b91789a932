"""Rule pages in a report: safe, also where the page is somebody else's."""

from __future__ import annotations

from pathlib import Path

import pytest

from qlora_doctor.core.assets import asset_folder
from qlora_doctor.reporters._pages import rule_page, rule_title

PAGE = """---
id: ACME1
name: acme
title: "The team's limit: r ≤ 64"
references: ["https://example.org/why", "javascript:alert(1)", "http://plain.example"]
---
## What it checks

A *rank* of `r`, a [link](https://example.org/x) and a [bad one](javascript:alert(1)).

<script>alert(1)</script> and <b onclick="x">raw</b> ![pixel](https://evil.example/p.png)

| a | b |
|---|---|
| 1 | 2 |

## Examples

```json fail
{}
```
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "ACME1-team-limit.md").write_text(PAGE, encoding="utf-8")
    (tmp_path / "notes-of-ours.md").write_text("# no rule", encoding="utf-8")
    (tmp_path / "ACME2-without-front-matter.md").write_text("# no rule", encoding="utf-8")
    return tmp_path


def test_a_page_is_told_without_its_examples(folder: Path) -> None:
    page = rule_page("ACME1", folder)
    assert page is not None and page.title == "The team's limit: r ≤ 64" == rule_title("ACME1", folder)
    assert [heading for heading, _ in page.sections] == ["What it checks"]
    assert page.references == ("https://example.org/why",)


def test_markup_of_a_page_cannot_act(folder: Path) -> None:
    page = rule_page("ACME1", folder)
    assert page is not None
    body = str(page.sections[0][1])
    assert "<em>rank</em>" in body and '<a href="https://example.org/x" rel="noopener noreferrer">link</a>' in body
    assert "<script" not in body and "<b " not in body and "<img" not in body
    assert 'href="javascript' not in body and "style=" not in body
    assert '<th scope="col">a</th>' in body


@pytest.mark.parametrize("rule", ["ACME9", "../ACME1", "*", "", "<script>", "notes", "ACME2"])
def test_a_rule_without_a_page_has_none(folder: Path, rule: str) -> None:
    assert rule_page(rule, folder) is None
    assert rule_title(rule, folder) is None


def test_every_page_of_ours_can_be_shown() -> None:
    paths = sorted(asset_folder("rules").glob("QD*.md"))
    assert paths
    for path in paths:
        page = rule_page(path.name.split("-")[0])
        assert page is not None and page.title, path.name
        assert [heading for heading, _ in page.sections] == [
            "What it checks", "Why it matters", "How to fix", "When to ignore",
        ], path.name  # fmt: skip

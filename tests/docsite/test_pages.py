"""The generated pages of the docs site: complete, linked, and none of them a dead end. No mkdocs is needed."""

from __future__ import annotations

import json
import posixpath
import re
from pathlib import Path

import jsonschema
import pytest
import yaml

from qlora_doctor.core.links import REPOSITORY
from qlora_doctor.reading.schema import config_schema
from tools.docsite import pages

ROOT = Path(__file__).resolve().parents[2]
_LINK = re.compile(r"\]\(([^)#\s]+\.md)(?:#[^)]*)?\)")
_FENCED = re.compile(r"```.*?```", re.DOTALL)


@pytest.fixture(scope="module")
def made() -> dict[str, str]:
    return {path: make() for path, make in pages.pages()}


def test_every_rule_has_a_page_and_stands_in_the_index(made: dict[str, str]) -> None:
    stems = {path.name.split("-")[0] for path in (ROOT / "rules").glob("QD*.md")}
    assert {path[6:-3] for path in made if path.startswith("rules/QD")} == stems
    assert all(f"({rule}.md)" in made["rules/index.md"] for rule in stems)
    for rule in pages.rules():
        page = made[f"rules/{rule.id}.md"]
        assert page.count("\n??? example") == len(rule.examples) and "## What it checks" in page


def test_links_between_pages_resolve(made: dict[str, str]) -> None:
    there = set(made) | {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    dead = [
        f"{path}: {target}"
        for path, page in made.items()
        for target in _LINK.findall(_FENCED.sub("", page))
        if posixpath.normpath(posixpath.join(posixpath.dirname(path), target)) not in there
    ]
    assert not dead


def test_every_command_and_every_key_is_told(made: dict[str, str]) -> None:
    for name in pages.command_names():
        assert f"qlora-doctor {name}" in made[f"commands/{name}.md"]
    for section, schema in config_schema()["properties"].items():
        for part in (schema, *schema.get("anyOf", [])):
            assert all(f"| `{key}` |" in made["keys.md"] for key in part.get("properties", {})), section


def test_the_api_page_speaks_of_every_public_name(made: dict[str, str]) -> None:
    import qlora_doctor

    assert all(f"\n## {name}\n" in made["api.md"] for name in qlora_doctor.__all__ if not name.startswith("_"))


def test_rules_are_linked_where_they_are_named_outside_code() -> None:
    text = "See QD301, `QD301`, [QD301](x.md) and QD999.\n```\nQD301\n```\n"
    told = pages.linked(text)
    assert told == "See [QD301](QD301.md), `QD301`, [QD301](x.md) and QD999.\n```\nQD301\n```\n"
    assert pages.linked("QD301", own="QD301") == "QD301"


def test_what_schemastore_asks_for() -> None:
    folder = ROOT / "docs" / "schemastore"
    entry = json.loads((folder / "catalog-entry.json").read_text(encoding="utf-8"))
    assert set(entry) == {"name", "description", "fileMatch", "url"} and entry["fileMatch"]
    validator = jsonschema.Draft7Validator(config_schema())
    assert not list(validator.iter_errors(yaml.safe_load((folder / "valid.yaml").read_text(encoding="utf-8"))))
    assert len(list(validator.iter_errors(yaml.safe_load((folder / "invalid.yaml").read_text(encoding="utf-8"))))) == 2


def test_there_is_one_place_that_names_the_repository() -> None:
    """Recipes say OWNER until it is named there."""
    recipes = [path.read_text(encoding="utf-8") for path in (ROOT / "docs").rglob("*.md")]
    named = re.compile(r"uses: (\S+)/qlora-doctor@")
    assert {name for text in recipes for name in named.findall(text)} == {"OWNER"}
    assert REPOSITORY is None or re.fullmatch(r"[\w.-]+/[\w.-]+", REPOSITORY)

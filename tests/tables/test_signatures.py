"""The tables of arguments by version agree with themselves: a release that is off by one shows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import qlora_doctor
from qlora_doctor.core.versions import version_tuple

TABLES = sorted((Path(qlora_doctor.__file__).parent / "tables" / "signatures").glob("*.json"))


def makers(path: Path) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["makers"]
    return found


@pytest.mark.parametrize("path", TABLES, ids=lambda path: path.stem)
def test_an_argument_comes_in_the_release_after_the_last_one_without_it(path: Path) -> None:
    entries = [entry for row in makers(path).values() for entry in row.get("since", {}).values()]
    pairs = {(version_tuple(entry["without"]), version_tuple(entry["since"])) for entry in entries}
    releases = {release for pair in pairs for release in pair}
    assert entries
    assert [(a, b) for a, b in pairs if a >= b or any(a < release < b for release in releases)] == []
    assert len({b for _, b in pairs}) == len(pairs), "one release has one before it"


@pytest.mark.parametrize("path", TABLES, ids=lambda path: path.stem)
def test_an_argument_that_went_has_its_new_name_from_then_on(path: Path) -> None:
    for maker, row in makers(path).items():
        for name, entry in row.get("gone", {}).items():
            assert next(iter(entry.get("now", {entry["since"]: None}))) == entry["since"], (maker, name)
            assert version_tuple(entry["since"]) >= version_tuple(row["from"]), (maker, name)

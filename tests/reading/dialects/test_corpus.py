"""Readers against configs that people really wrote, where a corpus of them lies beside the checkout.

``expectations.json`` holds facts that were looked up by hand in the files: canonical path → value, by origin.
"""

from __future__ import annotations

import csv
import json
import time
from pathlib import Path
from typing import Any

import pytest

from qlora_doctor.probes.config.conclude import conclude
from qlora_doctor.reading import Setup, read_setup

CORPUS = Path(__file__).parents[4] / "shared" / "configs"
EXPECTATIONS: dict[str, dict[str, Any]] = json.loads((Path(__file__).parent / "expectations.json").read_text("utf-8"))
SAME = {"autotrain-params": "autotrain", "custom-flat": "custom", "custom-nested": "custom"}
pytestmark = pytest.mark.skipif(not (CORPUS / "INDEX.tsv").exists(), reason="the corpus of configs is not here")


def rows() -> list[dict[str, str]]:
    with (CORPUS / "INDEX.tsv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def test_every_file_is_read_in_its_dialect() -> None:
    wrong = []
    for row in rows():
        setup = read_setup(CORPUS / row["file"])
        conclude(setup, None)
        if setup.dialect != SAME.get(row["dialect"], row["dialect"]):
            wrong.append((row["file"], setup.dialect))
    assert len(wrong) <= 0.01 * len(rows()), wrong


def test_reading_is_quick() -> None:
    files = [CORPUS / row["file"] for row in rows()]
    for file in files[:40]:
        read_setup(file)  # modules and key lists are read once
    began = time.process_time()
    for file in files:
        read_setup(file)
    assert (time.process_time() - began) / len(files) < 0.010


@pytest.mark.parametrize("file", EXPECTATIONS)
def test_values_are_those_of_the_file(file: str) -> None:
    expected = EXPECTATIONS[file]
    setup = read_setup(CORPUS / file)
    assert setup.dialect == expected["dialect"]
    for source, key in (("explicit", "explicit"), ("dialect_default", "default")):
        for path, value in expected.get(key, {}).items():
            assert (path, value_at(setup, path)) == (path, value)
            assert (path, setup.origins[path].source) == (path, source)
    for path in expected.get("explicit", {}):
        place = setup.place(path)
        assert place is not None and place.pointer, path
    for path in expected.get("unknown", ()):
        assert (path, setup.is_unknown(path)) == (path, True)
        assert value_at(setup, path) is None
    kinds = {remark.kind for remark in setup.remarks}
    assert set(expected.get("remarks", ())) <= kinds
    told = [remark for remark in setup.remarks if not remark.machine]
    refused = [remark.kind for remark in told if remark.effect == "refused"]
    assert refused == expected.get("refused", [])
    assert {key.key for key in setup.removed_keys} >= set(expected.get("removed", ()))
    assert set(expected.get("string_numbers", ())) <= set(setup.string_numbers)


def value_at(setup: Setup, path: str) -> Any:
    section, _, field = path.partition(".")
    return getattr(getattr(setup, section), field)

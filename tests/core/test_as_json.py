"""A setup as JSON is what pydantic's own dump gives."""

from __future__ import annotations

from pathlib import Path

import pytest

from qlora_doctor.core.as_json import as_json
from qlora_doctor.reading import read_setup
from qlora_doctor.reading.native import setup_from_mapping
from tests.small_configs import SMALL


@pytest.mark.parametrize("name", SMALL)
def test_of_every_dialect(tmp_path: Path, name: str) -> None:
    file, text = SMALL[name]
    path = tmp_path / file
    path.write_text(text, encoding="utf-8")
    setup = read_setup(path)
    assert as_json(setup) == setup.model_dump(mode="json")


def test_of_values_that_json_has_not() -> None:
    setup = setup_from_mapping({"model": {"name_or_path": "x/y", "device_map": {"": 0}}, "lora": {"r": 8}})
    setup = setup.model_copy(update={"file": "a.py", "stored_keys": {"r": True}})
    assert as_json(setup) == setup.model_dump(mode="json")

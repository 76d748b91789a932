"""What ``data.train`` names, as the trainer of its dialect looks it up."""

from __future__ import annotations

from pathlib import Path

import pytest

from qlora_doctor.setup.paths import train_data
from qlora_doctor.setup.setup import Data, Setup
from tests.traits import traits_of


@pytest.mark.parametrize(
    ("written", "named"),
    [
        ("AI-ModelScope/alpaca-gpt4-data-zh#500", ("AI-ModelScope/alpaca-gpt4-data-zh", None, 500)),
        ("HF::a/b:sub#20", ("a/b", "sub", 20)),
        ("MS::a/b", ("a/b", None, None)),
        ("swift/self-cognition:en", ("swift/self-cognition", "en", None)),
        ("data/rows.jsonl#7", ("data/rows.jsonl", None, 7)),
    ],
)
def test_ms_swift_writes_subset_and_rows_into_the_name(written: str, named: tuple[str, str | None, int | None]) -> None:
    assert train_data(Setup(dialect="ms-swift", traits=traits_of("ms-swift"), data=Data(train=written))) == named
    assert train_data(Setup(dialect="native", data=Data(train=written))) == (written, None, None)


def test_a_file_of_that_very_name_is_the_file(tmp_path: Path) -> None:
    file = tmp_path / "rows#7"
    file.write_text("", encoding="utf-8")
    assert train_data(Setup(dialect="ms-swift", traits=traits_of("ms-swift"), data=Data(train=str(file)))) == (
        str(file),
        None,
        None,
    )

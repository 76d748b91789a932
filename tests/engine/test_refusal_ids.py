"""The ids of a trainer's own checks, where rules are chosen and explained."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from qlora_doctor.cli import main
from qlora_doctor.core.errors import UsageError
from qlora_doctor.engine import Selection, check_selection, load_rules
from qlora_doctor.run.checking import check
from qlora_doctor.tables.refusals import refusal_ids

TWO_FAULTS = """\
base_model: my/model
adapter: qlora
load_in_4bit: true
load_in_8bit: true
micro_batch_size: 2
gradient_accumulation_steps: 4
warmup_steps: 1
warmup_ratio: 0.1
learning_rate: 0.0002
datasets: [{path: my/rows, type: alpaca}]
"""
"""AX003, which QD126 tells, and AX038, which QD125 tells."""


def found(tmp_path: Path, selection: Selection) -> dict[str, str]:
    path = tmp_path / "config.yaml"
    path.write_text(TWO_FAULTS, encoding="utf-8")
    report = check(path, stages=("config",), selection=selection, cache=False)
    assert report.facts.config is not None
    assert {row.id for row in report.facts.config.refused or ()} == {"AX003", "AX038"}, "the facts stay whole"
    return {finding.rule: finding.message for finding in report.findings if finding.severity == "error"}


def test_a_row_is_ignored_alone(tmp_path: Path) -> None:
    assert set(found(tmp_path, Selection())) == {"QD125", "QD126"}
    assert set(found(tmp_path, Selection(ignore=["AX003"]))) == {"QD125"}
    assert set(found(tmp_path, Selection(ignore=["ax0"]))) == set()


def test_a_row_is_selected_alone(tmp_path: Path) -> None:
    assert set(found(tmp_path, Selection(select=["AX003"]))) == {"QD126"}
    assert set(found(tmp_path, Selection(select=["AX001"]))) == set()
    assert set(found(tmp_path, Selection(select=["QD125", "AX003"], ignore=["AX038"]))) == {"QD126"}


def test_an_id_that_no_row_has_is_an_error() -> None:
    check_selection(Selection(ignore=["AX003", "LF0"]), load_rules(), refusal_ids)
    with pytest.raises(UsageError, match="AX999"):
        check_selection(Selection(ignore=["AX999"]), load_rules(), refusal_ids)


def test_explain_knows_a_row() -> None:
    shown = CliRunner().invoke(main, ["explain", "ax003", "--format", "json"])
    assert shown.exit_code == 0
    row = json.loads(shown.output)
    assert row["trainer"] == "axolotl" and row["kind"] == "qlora-with-8bit" and row["fails"] == [{"load_in_8bit": True}]
    text = CliRunner().invoke(main, ["explain", "AX003"]).output
    assert row["note"] in text and row["when"] in text
    assert CliRunner().invoke(main, ["explain", "AX999"]).exit_code == 2

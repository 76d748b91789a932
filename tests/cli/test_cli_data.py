"""``data``: rows as the model sees them, in a terminal and as a page that hostile text cannot act in."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

pytest.importorskip("torch")
pytest.importorskip("trl")

from qlora_doctor.cli import main
from tests.faults.planting import healthy_config, run_stages_here, write

EVIL = "\x1b[31m<script>alert(1)</script>\u202e"


@pytest.fixture
def show(tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    monkeypatch.setattr("qlora_doctor.worker.runner.run_stages", run_stages_here)
    monkeypatch.setattr(sys, "argv", ["qlora-doctor"])
    rows = [{"prompt": f"Say {n}:", "completion": f" base {n}" + " layer" * (40 if n == 7 else 0)} for n in range(9)]
    rows[4]["completion"] = f" {EVIL}"
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    config = healthy_config(tiny_llama, data={"train": "rows.jsonl"}, training={"trainer": "trl", "max_length": 40})
    path = write(tmp_path / "config.json", config)

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(main, ["data", str(path), *arguments], catch_exceptions=False)

    return run


def test_rows_with_marks(show: Callable[..., Result]) -> None:
    shown = show("--rows", "3", "--no-color")
    assert shown.exit_code == 0, shown.output
    text = shown.stdout
    assert "‹trained›  masked  ░{padding}  [special]  ✂{cut off}" in text and "\x1b" not in text
    assert "Say 7:‹ base 7 layer" in text and "✂{ layer" in text and text.count("──  ") == 0
    assert [line.split(" · ")[0] for line in text.splitlines() if line.startswith("──")] == [
        "── shortest", "── median", "── longest",
    ]  # fmt: skip
    assert "[<|im_end|>]›" in text and "cut here" in text


def test_rows_in_colours(show: Callable[..., Result], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    text = show("--rows", "12").stdout
    assert "\x1b[32mtrained\x1b[0m" in text and "\x1b[31m<script>" not in text and "\u202e" not in text


def test_the_page_holds_the_rows_and_nothing_acts(show: Callable[..., Result], tmp_path: Path) -> None:
    page = tmp_path / "rows.html"
    assert show("--rows", "3", "-q", "-o", f"html={page}").exit_code == 0
    html = page.read_text("utf-8")
    assert '<span class="trained">' in html and 'type="range"' in html and "Rows as the model sees them" in html
    body = html[: html.index('id="report-data"')] if 'id="report-data"' in html else html
    assert "<script>alert" not in body and "\x1b" not in html and "\u202e" not in body


def test_data_that_is_not_here_is_told(tmp_path: Path, show: Callable[..., Result]) -> None:
    (tmp_path / "rows.jsonl").unlink()
    gone = show()
    assert gone.exit_code == 3 and "There is no file" in gone.output


def test_text_of_the_data_stays_out_where_it_is_to(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qlora_doctor.worker.runner.run_stages", run_stages_here)
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps({"text": f"a secret of number {n}"}) for n in range(9)))
    config = healthy_config(tiny_llama, data={"train": "rows.jsonl"}, training={"trainer": "trl", "max_length": 40})
    path = write(tmp_path / "config.json", config)

    def document(*more: str) -> str:
        arguments = ["check", str(path), "--stage", "config,data", "--format", "json", "--no-cache", *more]
        return CliRunner().invoke(main, arguments, catch_exceptions=False).stdout

    assert "a secret" in document()
    without = document("--no-rows")
    assert "a secret" not in without and json.loads(without)["facts"]["data"]["rows_seen"] == 9


def test_arguments_of_a_script_are_split_as_a_shell_does(tiny_llama: Path, tmp_path: Path) -> None:
    from qlora_doctor.cli.data import command

    context = command.make_context("data", ["x.py", "--script-args", "--text 'two words' -n 3"])
    assert context.params["script_arguments"] == ("--text", "two words", "-n", "3")
    open_quote = CliRunner().invoke(main, ["check", "x.py", "--script-args", "'two"])
    assert open_quote.exit_code == 2 and "--script-args cannot be read" in open_quote.stderr
    refused = CliRunner().invoke(main, ["check", "x.py", "--run-data", "--script-memory", "much"])
    assert refused.exit_code == 2 and "12GiB" in refused.stderr

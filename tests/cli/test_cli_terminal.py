"""What a person sees: standard input, a line a finding, stages by name, what was seen."""

from __future__ import annotations

import json
import re
from pathlib import Path

from click.testing import CliRunner, Result

import qlora_doctor
from qlora_doctor.cli import main
from qlora_doctor.reporters import render, text
from qlora_doctor.reporters._seen import seen
from tests.reporters import fixtures

CONFIG = """\
model_name_or_path: someone/model
stage: sft
do_train: true
finetuning_type: lora
lora_rank: 16
lora_target: all
quantization_bit: 4
quantization_method: bitsandbytes
dataset: identity
template: qwen
output_dir: out
per_device_train_batch_size: 1
learning_rate: 1.0e-4
bf16: true
"""
MATCHER = Path(__file__).parents[2] / "docs" / "ci" / "problem-matcher.json"


def run(*arguments: object, input: str | None = None) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments], input=input)


def test_a_line_a_finding_that_the_problem_matcher_reads() -> None:
    pattern = json.loads(MATCHER.read_text())["problemMatcher"][0]["pattern"][0]
    report = fixtures.broken()
    lines = render(report, "concise").splitlines()
    matched = [re.match(pattern["regexp"], line) for line in lines]
    assert all(matched)
    codes = [found[pattern["code"]] for found in matched if found]
    assert {finding.rule for finding in report.findings if finding.suppressed is None} <= set(codes)
    assert render(fixtures.healthy(), "concise") == ""


def test_no_finding_is_no_line(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(CONFIG.replace("bitsandbytes", "bnb"))
    result = run("check", path, "--stage", "config", "--format", "concise")
    assert (result.exit_code, result.stdout) == (0, "")


def test_a_renamed_value_is_written(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(CONFIG)
    result = run("check", path, "--fix", "--stage", "config")
    assert path.read_text() == CONFIG.replace("bitsandbytes", "bnb") and "QD128" in result.stderr


def test_a_fix_that_does_nothing_says_why(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(CONFIG.replace("bitsandbytes", "bnb").replace("1.0e-4", "1.0e-1"))
    result = run("check", path, "--fix", "--stage", "config")
    assert "fixed nothing; no fix that can be written for QD121" in result.stderr


def test_fix_says_of_what_is_held_back_only_that(tmp_path: Path) -> None:
    config = tmp_path / "axolotl.yml"
    config.write_text(
        "base_model: meta-llama/Llama-3.1-8B\nload_in_4bit: true\nadapter: qlora\nlora_r: 16\nlora_alpha: 32\n"
        "lora_target_linear: true\nsequence_len: 512\nmicro_batch_size: 1\nnum_epochs: 1\nbf16: true\n"
        "optimizer: paged_adamw_8bit\nlearning_rate: 0.00002\ndatasets: [{path: x/y, type: alpaca}]\n"
    )
    result = CliRunner().invoke(main, ["check", str(config), "--fix", "--stage", "config"])
    assert "fixed nothing; --unsafe-fixes would fix 1 more (QD120)" in result.stderr


def test_findings_print_as_lines(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(CONFIG)
    report = qlora_doctor.check(path, stages=("config",))
    assert re.match(r"\[.*c\.yaml:8:1: error QD128 quantization_method", repr(report.findings))


def test_a_check_of_one_stage_speaks_of_that_stage(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(CONFIG)
    shown = run("check", path, "--stage", "config", "--gpu", "l4").stdout
    assert "not evaluated" not in shown and "Not asked for" not in shown and "looked at config" in shown
    assert "config.remark_notes" not in shown
    assert "config.remark_notes" in run("check", path, "--stage", "config", "-v").stdout
    assert run("check", path, "--gpu", "rtx-4091", "--stage", "config").exit_code == 2


def test_a_healthy_check_says_what_was_seen() -> None:
    report = fixtures.healthy()
    told = seen(report)
    assert any(part.startswith("adapter ") for part in told) and any(part.startswith("loss ") for part in told)
    assert "base unchanged" in told
    shown = text.render(report, width=60)
    assert all(f"{part} ✓" in shown for part in told)
    assert "✓" not in text.render(fixtures.broken())
    assert seen(fixtures.config_only()) == []


def test_rules_by_tag_and_stage() -> None:
    listed = json.loads(run("rules", "--tag", "memory", "--stage", "memory", "--format", "json").stdout)
    assert listed and all("memory" in rule["tags"] and rule["stage"] == "memory" for rule in listed)
    assert run("rules", "--tag", "memroy").exit_code == 2

"""What people read breaks between words at any width; a pipe gets lines as they are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from qlora_doctor.cli import main
from qlora_doctor.cli._terminal import narrowed

BROKEN = {
    "model": "meta-llama/Llama-3.1-8B",
    "quantization": {"load_in_4bit": True},
    "lora": {"r": 16, "lora_alpha": 256, "target_modules": "all-linear", "task_type": "CAUSAL_LM"},
    "training": {"learning_rates": 2e-4, "per_device_train_batch_size": 1, "max_length": 512, "bf16": True},
}


def test_lines_break_between_words() -> None:
    text = "  a\x1b[31mbb\x1b[0m cc\n1234567890123 1\nshort"
    assert narrowed(text, 6) == "  a\x1b[31mbb\x1b[0m\n   cc\n1234567890123\n  1\nshort"
    assert narrowed(text, 20) == text


@pytest.mark.parametrize(
    "arguments",
    [
        ["explain", "--symptom", "the loss does not go down"],
        ["explain", "QD301"],
        ["explain", "AX001"],
        ["rules", "--tag", "memory", "--stage", "memory"],
        ["check", "CONFIG", "--stage", "config"],
        ["check", "CONFIG", "CONFIG", "--stage", "config"],
        ["check", "CONFIG", "--stage", "config", "-v"],
        ["plan", "--model", "Qwen/Qwen2.5-0.5B", "--gpu", "rtx-4090", "--batch", "1,2", "--sequence", "512,1024"],
        ["convert", "CONFIG", "--to", "axolotl", "-o", "OUT"],
        ["env"],
    ],
    ids=lambda arguments: " ".join(arguments[:2]),
)
def test_60_columns(arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("NO_COLOR", "1")
    Path("c.json").write_text(json.dumps(BROKEN))
    said = {"CONFIG": "c.json", "OUT": "o.yml"}
    result = CliRunner().invoke(main, [said.get(each, each) for each in arguments])
    lines = (result.stdout + result.stderr).splitlines()
    assert lines and "\x1b" not in result.output
    too_long = [line for line in lines if len(line) > 60 and " " in line.strip()]
    assert not too_long


def test_a_pipe_gets_a_line_a_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    result = CliRunner().invoke(main, ["rules", "--tag", "memory", "--stage", "memory"])
    assert sum(line.startswith("QD") for line in result.stdout.splitlines()) == len(result.stdout.splitlines()) - 2

"""Values in programs: literals of scripts and notebooks, options of command lines; all else is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from qlora_doctor.reading import read_setup
from qlora_doctor.writing.patch import CannotEdit
from qlora_doctor.writing.program import rewritten, understood

SCRIPT = """\
from transformers import AutoModelForCausalLM, BitsAndBytesConfig
from peft import LoraConfig
from trl import SFTConfig, SFTTrainer

RANK = 16
model = AutoModelForCausalLM.from_pretrained("a/b", quantization_config=BitsAndBytesConfig(load_in_4bit=True))
args = SFTConfig(
    output_dir="out",
    per_device_train_batch_size = 8,  # as the paper
    max_length=2048,
)
trainer = SFTTrainer(model=model, args=args, peft_config=LoraConfig(r=RANK, lora_alpha=32))
trainer.train()
"""
SHELL = """\
swift sft \\
    --model Qwen/Qwen2.5-7B-Instruct --train_type lora \\
    --quant_method bnb --quant_bits 4 \\
    --per_device_train_batch_size 8 \\
    --lora_rank $RANK \\
    --output_dir output
"""


def changed(path: Path, text: str, values: dict[str, Any]) -> list[tuple[str, ...]]:
    """The lines that a change takes away and brings."""
    path.write_text(text, encoding="utf-8")
    setup = read_setup(path)
    after = rewritten(setup, values)
    for key, value in values.items():
        section, _, field = key.partition(".")
        assert getattr(getattr(understood(setup, after), section), field) == value
    old, new = text.splitlines(), after.splitlines()
    return [tuple(line for line in old if line not in new), tuple(line for line in new if line not in old)]


def test_a_literal_changes_and_its_comment_stays(tmp_path: Path) -> None:
    assert changed(tmp_path / "a.py", SCRIPT, {"training.per_device_train_batch_size": 2}) == [
        ("    per_device_train_batch_size = 8,  # as the paper",),
        ("    per_device_train_batch_size = 2,  # as the paper",),
    ]


def test_what_is_not_said_stands_behind_the_last_argument_of_its_call(tmp_path: Path) -> None:
    added = {"training.optim": "paged_adamw_8bit", "training.gradient_accumulation_steps": 4}
    assert changed(tmp_path / "a.py", SCRIPT, added) == [
        (),
        ('    optim="paged_adamw_8bit",', "    gradient_accumulation_steps=4,"),
    ]


def test_a_notebook_stays_json(tmp_path: Path) -> None:
    cell = {"cell_type": "code", "metadata": {}, "execution_count": None, "outputs": []}
    cells = [cell | {"source": SCRIPT.splitlines(keepends=True)}]
    text = json.dumps({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}, indent=1)
    gone, new = changed(tmp_path / "a.ipynb", text, {"training.max_length": 512, "training.optim": "adamw_8bit"})
    assert len(gone) == len(new) == 1 and "max_length=512, optim='adamw_8bit'" in new[0]


def test_options_of_a_command_line(tmp_path: Path) -> None:
    values = {"training.per_device_train_batch_size": 2, "training.optim": "paged_adamw_8bit"}
    gone, new = changed(tmp_path / "a.sh", SHELL, values)
    assert gone == ("    --per_device_train_batch_size 8 \\",)
    assert new == ("    --per_device_train_batch_size 2 \\", "    --optim paged_adamw_8bit \\")


@pytest.mark.parametrize(
    ("name", "text", "path", "value"),
    [
        ("a.py", SCRIPT, "lora.r", 8),  # a name that is used elsewhere
        ("a.py", SCRIPT, "lora.no_such_key", 8),
        ("a.py", SCRIPT.replace("trl", "transformers").replace("SFT", ""), "training.optim", "no_such"),
        ("a.sh", SHELL, "lora.r", 8),  # a variable
        ("a.sh", SHELL, "lora.target_modules", ["q_proj"]),
    ],
)
def test_all_else_is_refused(tmp_path: Path, name: str, text: str, path: str, value: Any) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises((CannotEdit, KeyError)):
        rewritten(read_setup(tmp_path / name), {path: value})

"""The cure command, and questions without a file: documents, files, exit codes."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from qlora_doctor.cli import main


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def folder(model_folder: Callable[..., Path]) -> Path:
    return model_folder("llama", num_hidden_layers=8)


@pytest.fixture
def config(folder: Path, tmp_path: Path) -> Path:
    path = tmp_path / "c.yml"
    path.write_text(
        f"model_name_or_path: {folder}\nuse_peft: true  # ours\nload_in_4bit: true\nlora_r: 16\nlora_alpha: 32\n"
        "lora_target_modules: all-linear\nper_device_train_batch_size: 16\ngradient_accumulation_steps: 1\n"
        "max_length: 256\nlearning_rate: 0.0002\noptim: adamw_torch\nbf16: true\ngradient_checkpointing: false\n"
        "dtype: bfloat16\ndataset_name: x/y\n",
        encoding="utf-8",
    )
    return path


def test_the_cure_is_written_in_the_files_own_keys(config: Path, tmp_path: Path) -> None:
    before, cured = config.read_text(), tmp_path / "cured.yml"
    result = run("cure", config, "--gpu", "600MiB", "-o", cured, "--offline")
    assert result.exit_code == 0, result.output
    assert "learns otherwise" in result.stdout and "Checked again: no error" in result.stdout
    assert "Really loaded and stepped: 4-bit" in result.stdout and "base unchanged" in result.stdout
    assert config.read_text() == before
    after = cured.read_text()
    assert "# ours" in after and after != before
    changed = {key for key, value in yaml.safe_load(after).items() if yaml.safe_load(before).get(key) != value}
    assert changed and changed <= {
        "per_device_train_batch_size", "gradient_accumulation_steps", "gradient_checkpointing",
        "gradient_checkpointing_kwargs", "optim", "attn_implementation", "use_bnb_nested_quant",
    }  # fmt: skip


def test_keys_that_are_kept_are_not_in_the_diff(config: Path) -> None:
    result = run("cure", config, "--gpu", "600MiB", "--keep", "per_device_train_batch_size", "--offline")
    assert "per_device_train_batch_size" not in result.stdout and result.exit_code in (0, 1)


SCRIPT = """\
import torch
from datasets import load_dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, BitsAndBytesConfig
from trl import SFTConfig, SFTTrainer
{constants}
bits = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_compute_dtype=torch.bfloat16)
model = AutoModelForCausalLM.from_pretrained("{folder}", quantization_config=bits)
args = SFTConfig(
    output_dir="out", per_device_train_batch_size={batch}, gradient_accumulation_steps=1, max_length=256, bf16=True,
    optim="adamw_torch", gradient_checkpointing=False, learning_rate=2e-4,
)
lora = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
SFTTrainer(model=model, args=args, peft_config=lora, train_dataset=load_dataset("x/y", split="train")).train()
"""


def test_the_cure_of_a_script_is_written_into_its_literals(folder: Path, tmp_path: Path) -> None:
    script, cured = tmp_path / "train.py", tmp_path / "cured.py"
    script.write_text(SCRIPT.format(folder=folder, constants="", batch=16), encoding="utf-8")
    result = run("cure", script, "--gpu", "600MiB", "--offline", "-o", cured)
    assert result.exit_code == 0, result.output
    assert "-    output_dir=" in result.stdout and "Checked again: no error" in result.stdout
    before, after = script.read_text(encoding="utf-8").splitlines(), cured.read_text(encoding="utf-8").splitlines()
    assert len(before) == len(after)
    assert {number for number, line in enumerate(before) if line != after[number]} <= {9, 10, 11}
    assert run("cure", cured, "--gpu", "600MiB", "--offline").stdout.startswith("It fits")


def test_what_is_no_literal_in_a_script_is_shown_and_not_written(folder: Path, tmp_path: Path) -> None:
    script, cured = tmp_path / "train.py", tmp_path / "cured.py"
    script.write_text(SCRIPT.format(folder=folder, constants="BATCH = 16", batch="BATCH"), encoding="utf-8")
    keep = ("--keep", "optim,gradient_checkpointing,loss_type,attn_implementation")
    result = run("cure", script, "--gpu", "600MiB", "--offline", *keep, "-o", cured)
    assert "These are no literals in the program; set there:\n  per_device_train_batch_size=" in result.stdout
    assert re.search(r"^  \w+=\S+ \(line \d+\)$", result.stdout, re.MULTILINE)
    assert result.exit_code == 2 and "only shown" in result.stderr and not cured.exists()


def test_usage_of_cure(config: Path) -> None:
    assert run("cure", config, "--gpu", "rtx-4091").exit_code == 2
    assert run("cure", config, "--fix", "-o", "x.yml").exit_code == 2


def test_a_plan_without_a_file(folder: Path) -> None:
    told = run(
        "plan", "--model", folder, "--gpu", "24GiB", "--r", "4", "--batch", "2", "--sequence", "128", "--offline"
    )
    assert told.exit_code == 0, told.output
    assert told.stdout.startswith("Yes: ")
    setting = [
        "--set",
        "lora.target_modules=q_proj,v_proj",
        "--set",
        "optim=adamw_torch",
        "--set",
        "max_seq_length=128",
    ]
    result = run("plan", "--model", folder, "--gpu", "1GiB", *setting, "--batch", "999", "--sequence", "256",
                 "--format", "json", "--offline")  # fmt: skip
    setup = json.loads(result.stdout)["setup"]
    assert setup["lora"]["target_modules"] == ["q_proj", "v_proj"] and setup["training"]["optim"] == "adamw_torch"
    assert setup["training"]["max_length"] == 128
    (plan,) = json.loads(result.stdout)["facts"]["memory"]["plans"]
    assert plan["asked"]["fits"] is False and plan["instead"]["batch"] < 999


def test_questions_that_make_no_sense(folder: Path) -> None:
    assert run("plan").exit_code == 2
    assert run("plan", "c.yaml", "--model", "x").exit_code == 2
    wrong = run("plan", "--model", folder, "--set", "lora.rank_patern=1")
    assert wrong.exit_code == 2 and "rank_pattern" in wrong.stderr
    assert run("plan", "--model", folder, "--set", "r=many").exit_code == 2

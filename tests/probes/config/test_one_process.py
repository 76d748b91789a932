"""Cards that one process sees: what decides their number, and what a trainer makes of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import qlora_doctor
from qlora_doctor.facts.environment import EnvironmentFacts, Gpu, Packages
from qlora_doctor.memory.scope import seen_cards, unmodelled
from qlora_doctor.probes.config.conclude import conclude
from qlora_doctor.reading.dialects import read_setup

SCRIPT = """
import os
import torch
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, Trainer, TrainingArguments
from peft import LoraConfig, get_peft_model
{first}
quantization = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_compute_dtype=torch.bfloat16)
model = AutoModelForCausalLM.from_pretrained("some/model", quantization_config=quantization{more})
model = get_peft_model(model, LoraConfig(r=8, target_modules="all-linear", task_type="CAUSAL_LM"))
args = TrainingArguments("out", per_device_train_batch_size=4, gradient_accumulation_steps=2, bf16=True)
Trainer(model=model, args=args, train_dataset=data).train()
"""
TWO = 'os.environ["CUDA_VISIBLE_DEVICES"] = "0,1"'
BY_TRL = ("import Trainer, TrainingArguments", "import SFTTrainer as Trainer, SFTConfig as TrainingArguments")


def machine(cards: int) -> EnvironmentFacts:
    gpus = [Gpu(index=index, name="NVIDIA H200", memory_bytes=150 << 30) for index in range(cards)]
    return EnvironmentFacts(
        tool_version="0", python="3.11", platform="Linux", packages=Packages(trl="1.16.0"), gpus=gpus
    )


def notebook(folder: Path, first: str = "", more: str = "", trl: bool = False) -> Path:
    code = SCRIPT.format(first=first, more=more)
    if trl:
        code = code.replace(", Trainer, TrainingArguments", "\nfrom trl import SFTTrainer as Trainer")
        code = code.replace("as Trainer", "as Trainer, SFTConfig as TrainingArguments", 1)
    cells = [
        {"cell_type": "code", "source": [text], "metadata": {}, "outputs": [], "execution_count": None}
        for text in ("!pip install -U accelerate", code)
    ]
    path = folder / "train.ipynb"
    path.write_text(json.dumps({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}))
    return path


def script(folder: Path, first: str = "", more: str = "") -> Path:
    path = folder / "train.py"
    path.write_text(SCRIPT.format(first=first, more=more))
    return path


@pytest.mark.parametrize(
    ("first", "more", "cards"),
    [
        ("", "", 2),
        (TWO, "", 2),
        (TWO.replace("0,1", "1"), "", 1),
        (TWO.replace('"0,1"', "chosen()"), "", None),
        ("", ', device_map="auto"', None),
        ("", ', device_map={"": 0}', 2),
        ("", ', device_map={"": 1}', None),
    ],
)
def test_the_cards_of_a_notebook(tmp_path: Path, first: str, more: str, cards: int | None) -> None:
    facts = conclude(read_setup(notebook(tmp_path, first, more)), machine(2))
    assert (facts.launch, facts.visible_cards) == ("alone", cards)


def test_a_script_may_be_given_to_a_launcher_and_one_that_knows_of_ranks_is(tmp_path: Path) -> None:
    facts = conclude(read_setup(script(tmp_path)), machine(2))
    assert (facts.launch, facts.visible_cards) == ("unsaid", 2)
    ranked = script(tmp_path, "rank = int(os.environ['LOCAL_RANK'])", ', device_map={"": rank}')
    assert conclude(read_setup(ranked), machine(2)).launch is None


@pytest.mark.parametrize(
    ("command", "launch", "cards"),
    [
        ("CUDA_VISIBLE_DEVICES=0,1 python qlora.py", "alone", None),  # its device_map is auto
        ("export CUDA_VISIBLE_DEVICES=0,1\npython finetune.py", "alone", 2),
        ("export CUDA_VISIBLE_DEVICES=0\npython finetune.py", "alone", 1),
        ("CUDA_VISIBLE_DEVICES=0,1 torchrun --nproc_per_node 2 finetune.py", None, None),
        ("CUDA_VISIBLE_DEVICES=0,1 accelerate launch finetune.py", None, None),
    ],
)
def test_a_command_says_how_it_starts(tmp_path: Path, command: str, launch: str | None, cards: int | None) -> None:
    path = tmp_path / "train.sh"
    arguments = "--model_name_or_path m --load_in_4bit True --lora_r 8 --device_map cuda:0 --bits 4"
    path.write_text(f"#!/bin/bash\n{command} {arguments} --output_dir out --learning_rate 2e-4\n")
    facts = conclude(read_setup(path), machine(4))
    assert (facts.launch, facts.visible_cards) == (launch, cards)


def test_transformers_trainer_doubles_the_batch_and_has_no_figure(tmp_path: Path) -> None:
    path = notebook(tmp_path, TWO)
    report = qlora_doctor.check(path, stages=["config"], cache=False)
    assert [finding.severity for finding in report.findings if finding.rule == "QD253"] == ["warning"]
    assert report.facts.config is not None and report.facts.config.schedule is not None
    assert report.facts.config.schedule.effective_batch == 16
    reason = unmodelled(read_setup(path), report.facts)
    assert reason is not None and "2 × 4 samples" in reason
    alone = qlora_doctor.check(notebook(tmp_path, TWO.replace("0,1", "0")), stages=["config"], cache=False)
    assert "QD253" not in {finding.rule for finding in alone.findings}


def test_trl_stops_where_one_process_sees_several_cards(tmp_path: Path) -> None:
    """Unless it loads the model by its name: then it spreads it, and Trainer counts one card."""
    path = notebook(tmp_path, trl=True)
    refused = conclude(read_setup(path), machine(2)).refused or []
    assert [remark.kind for remark in refused] == ["one-process-of-several-cards"]
    assert not conclude(read_setup(path), machine(1)).refused
    by_name = path.read_text().replace("Trainer(model=model", 'Trainer(model=\\"some/model\\"')
    path.write_text(by_name.replace("model = AutoModelForCausalLM.from_pretrained", "dict"))
    assert conclude(read_setup(path), machine(2)).visible_cards is None


def test_a_command_of_python_alone_is_not_a_count_of_ranks_that_someone_wrote(tmp_path: Path) -> None:
    path = tmp_path / "train.sh"
    path.write_text("#!/bin/bash\npython finetune.py --model_name_or_path m --load_in_4bit True --lora_r 8 --bits 4\n")
    facts = qlora_doctor.check(path, stages=["config"], cache=False).facts
    assert seen_cards(read_setup(path), facts.model_copy(update={"environment": machine(2)})) == 2

"""Which adapter of a script trains: the one that it loads, or a new one beside it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from qlora_doctor.reading import read_setup
from qlora_doctor.setup.setup import Setup

START = """\
import torch
from datasets import load_dataset
from peft import LoraConfig, PeftModel, get_peft_model, prepare_model_for_kbit_training
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, Trainer, TrainingArguments

bits = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16)
base = AutoModelForCausalLM.from_pretrained("base", quantization_config=bits)
new = LoraConfig(r=8, lora_alpha=16, target_modules=["q_proj"], task_type="CAUSAL_LM")
"""
END = """
data = load_dataset("json", data_files="rows.jsonl")["train"]
Trainer(model=model, args=TrainingArguments(output_dir="out", learning_rate=2e-4), train_dataset=data).train()
"""
NEW = {
    "looked at before": """\
reference = PeftModel.from_pretrained(base, "adapter", adapter_name="old")
model = get_peft_model(prepare_model_for_kbit_training(base), new, adapter_name="new")
""",
    "a reference beside": """\
model = get_peft_model(base, new)
model.load_adapter("adapter", adapter_name="reference")
""",
    "on another base": """\
other = AutoModelForCausalLM.from_pretrained("base", quantization_config=bits)
reference = PeftModel.from_pretrained(other, "adapter")
model = get_peft_model(base, new)
""",
}
STORED = {
    "continued": 'model = PeftModel.from_pretrained(base, "adapter", is_trainable=True)\n',
    "with a reference": """\
model = PeftModel.from_pretrained(base, "adapter", is_trainable=True, adapter_name="train")
model.load_adapter("adapter", adapter_name="reference")
""",
    "named again beside a reference": """\
model = PeftModel.from_pretrained(base, "adapter", adapter_name="policy", is_trainable=True)
model.load_adapter("other", adapter_name="reference")
model.set_adapter("policy")
""",
    "loaded for inference, then the one that trains": """\
model = PeftModel.from_pretrained(base, "adapter")
model.set_adapter("default")
""",
    "a second one that is chosen": """\
model = PeftModel.from_pretrained(base, "other", adapter_name="first")
model.load_adapter("adapter", "second")
model.set_adapter("second")
""",
}


def read(tmp_path: Path, middle: str) -> Setup:
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 4}))
    (tmp_path / "train.py").write_text(START + middle + END)
    return read_setup(tmp_path / "train.py")


@pytest.mark.parametrize("kind", NEW)
def test_a_new_adapter_trains_beside_a_loaded_one(tmp_path: Path, kind: str) -> None:
    setup = read(tmp_path, NEW[kind])
    assert setup.model.adapter is None and not setup.is_unknown("model.adapter")
    assert setup.lora.r == 8 and not setup.is_unknown("lora.r")


@pytest.mark.parametrize("kind", STORED)
def test_a_stored_adapter_is_continued(tmp_path: Path, kind: str) -> None:
    setup = read(tmp_path, STORED[kind])
    assert (setup.model.adapter, setup.model.adapter_is_trainable) == ("adapter", True)


def test_frozen_where_it_is_what_would_train(tmp_path: Path) -> None:
    setup = read(tmp_path, 'model = PeftModel.from_pretrained(base, "adapter")\n')
    assert (setup.model.adapter, setup.model.adapter_is_trainable) == ("adapter", False)


def test_frozen_again(tmp_path: Path) -> None:
    """What is loaded beside the one that trains stays for inference, and a new one that is chosen is new."""
    middle = """\
model = get_peft_model(base, new)
model.load_adapter("adapter", adapter_name="reference")
model.set_adapter("reference")
model.set_adapter("default")
"""
    setup = read(tmp_path, middle)
    assert setup.model.adapter is None and setup.lora.r == 8


def test_a_name_that_is_worked_out_may_be_any(tmp_path: Path) -> None:
    middle = """\
import os
model = get_peft_model(base, new)
model.load_adapter("adapter", adapter_name="reference")
model.set_adapter(os.environ["WHICH"])
"""
    assert read(tmp_path, middle).is_unknown("model.adapter")


def test_either_of_them(tmp_path: Path) -> None:
    middle = """\
import os
if os.path.exists("resume"):
    model = PeftModel.from_pretrained(base, "adapter", is_trainable=True)
else:
    model = get_peft_model(base, new)
"""
    assert read(tmp_path, middle).is_unknown("model.adapter")

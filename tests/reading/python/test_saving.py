"""What a script makes of its adapter after the training: saved, or gone; loaded again onto what it fits."""

from __future__ import annotations

from pathlib import Path

import pytest

from qlora_doctor.reading import read_setup

SCRIPT = """\
import torch
from datasets import load_dataset
from peft import LoraConfig, PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig
from trl import SFTConfig, SFTTrainer

tokenizer = AutoTokenizer.from_pretrained("my/model")
model = AutoModelForCausalLM.from_pretrained("my/model", quantization_config=BitsAndBytesConfig(load_in_4bit=True))
{before}
trainer = SFTTrainer(
    model=model,
    args=SFTConfig(output_dir="out", learning_rate=2e-4, per_device_train_batch_size=2{arguments}),
    train_dataset=load_dataset("json", data_files="rows.jsonl", split="train"),
    processing_class=tokenizer,
    peft_config=LoraConfig(r=8, target_modules=["q_proj"]),
)
trainer.train()
{after}
"""
ADDED = 'tokenizer.add_tokens(["<a>"])\nmodel.resize_token_embeddings(len(tokenizer))'
BASE = 'trainer.save_model("out")\nbase = AutoModelForCausalLM.from_pretrained("my/model")\n'
LOADED = 'merged = PeftModel.from_pretrained(base, "out").merge_and_unload()'


def kinds(folder: Path, before: str = "", arguments: str = "", after: str = "") -> set[str]:
    (folder / "train.py").write_text(SCRIPT.format(before=before, arguments=arguments, after=after))
    return {remark.kind for remark in read_setup(folder / "train.py").remarks}


@pytest.mark.parametrize(
    ("arguments", "after", "gone"),
    [
        (', save_strategy="no"', "", True),
        (', save_strategy="no"', "print(trainer.state.log_history)", True),
        (', save_strategy="no"', "trainer.save_model()", False),
        (', save_strategy="no"', 'trainer.model.save_pretrained("adapter")', False),
        (', save_strategy="no"', "trainer.push_to_hub()", False),
        (', save_strategy="no"', 'torch.save(trainer.model.state_dict(), "x.pt")', False),
        ("", "", False),
        (', save_strategy="epoch"', "", False),
    ],
)
def test_what_is_trained_is_saved(arguments: str, after: str, gone: bool, tmp_path: Path) -> None:
    assert ("nothing-saved" in kinds(tmp_path, arguments=arguments, after=after)) is gone


@pytest.mark.parametrize(
    ("before", "after", "stops"),
    [
        (ADDED, BASE + LOADED, True),
        (ADDED, BASE + "base.resize_token_embeddings(len(tokenizer))\n" + LOADED, False),
        ("", BASE + LOADED, False),
        (ADDED, 'trainer.save_model("out")', False),
    ],
)
def test_a_base_that_is_read_again_has_no_added_tokens(before: str, after: str, stops: bool, tmp_path: Path) -> None:
    """Stored embeddings of another size: RuntimeError, size mismatch, in PeftModel.from_pretrained (peft 0.21)."""
    assert ("reloaded-without-tokens" in kinds(tmp_path, before=before, after=after)) is stops

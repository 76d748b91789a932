"""Slips in the code that makes a script's rows, planted: exactly the rule is told, and nothing of the twin."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("datasets")

from tests.faults.planting import check_here, found, told
from tests.models import make_data

HEAD = """\
import json
import torch
from datasets import load_dataset
from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
from transformers import (AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, DataCollatorForSeq2Seq, Trainer,
                          TrainingArguments, default_data_collator)

tok = AutoTokenizer.from_pretrained("MODEL")
bits = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
                          bnb_4bit_compute_dtype=torch.bfloat16)
model = AutoModelForCausalLM.from_pretrained("MODEL", quantization_config=bits)
lora = LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
data = load_dataset("json", data_files="rows.jsonl", split="train")
"""
TRAINER = """
model = get_peft_model(prepare_model_for_kbit_training(model), lora)
trainer = Trainer(model=model, train_dataset=data, data_collator=COLLATOR,
                  args=TrainingArguments(output_dir="out", per_device_train_batch_size=2, learning_rate=2e-4))
trainer.train()
"""
SFT = """
from trl import SFTConfig, SFTTrainer
trainer = SFTTrainer(model=model, train_dataset=data, peft_config=lora, processing_class=tok,
                     args=SFTConfig(output_dir="out", per_device_train_batch_size=2, learning_rate=2e-4, SETTINGS))
trainer.train()
"""
ENCODE = """
def encode(row):
    prompt = f"Question: {row['q']}\\nAnswer: "
    ids = tok(prompt + row["a"] + tok.eos_token)["input_ids"]
    masked = COUNT
    return {"input_ids": ids, "attention_mask": [1] * len(ids), "labels": ([-100] * masked + ids[masked:])[: len(ids)]}
data = data.map(encode, remove_columns=data.column_names)
"""
PADDED = """
tok.padding_side = "left"
tok.pad_token = "<|im_end|>"
def encode(row):
    prompt = f"Question: {row['q']}\\nAnswer: "
    made = tok(prompt + row["a"] + tok.eos_token, padding="max_length", max_length=190, truncation=True)
    masked = len(tok(prompt)["input_ids"])
    labels = made["input_ids"].copy()
    labels[:masked] = [-100] * masked
    return {**made, "labels": labels}
data = data.map(encode, remove_columns=data.column_names)
"""
TENSORS = """
def encode(row):
    made = tok(row["q"] + row["a"], padding="max_length", max_length=128, truncation=True, return_tensors="pt")
    made["labels"] = made["input_ids"].clone()
    return {name: PART for name, values in made.items()}
data = data.map(encode, remove_columns=data.column_names)
"""
CUT = """
def encode(row):
    made = tok(row["q"] + row["a"] + tok.eos_token, truncation=True, max_length=LIMIT)
    made["labels"] = made["input_ids"].copy()
    return made
data = data.map(encode, remove_columns=data.column_names)
"""
ADDED = """
tok.add_special_tokens({"additional_special_tokens": ["One more"]})
"""
SAVED = """
lora = LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", modules_to_save=["embed_tokens"])
"""
QUESTIONS = [
    {"q": f"What is the number behind {10**n}?", "a": f"One more: {10**n + 1}, which is easily found by adding one."}
    for n in range(24)
]


def script(folder: Path, model: Path, code: str, rows: list[dict[str, Any]] = QUESTIONS) -> Path:
    (folder / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    path = folder / "train.py"
    path.write_text((HEAD + code).replace("MODEL", str(model)))
    return path


def trained(code: str, collator: str = "DataCollatorForSeq2Seq(tok)") -> str:
    return code + TRAINER.replace("COLLATOR", collator)


CASES: dict[str, tuple[str, set[str]]] = {
    "characters": (trained(ENCODE.replace("COUNT", "len(prompt)")), {"QD678"}),
    "tokens": (trained(ENCODE.replace("COUNT", 'len(tok(prompt)["input_ids"])')), set()),
    "padded before": (trained(PADDED, "default_data_collator"), {"QD631", "QD678"}),
    "tensors": (trained(TENSORS.replace("PART", "values"), "default_data_collator"), {"QD679"}),
    "rows of tensors": (trained(TENSORS.replace("PART", "values[0]"), "default_data_collator"), {"QD631"}),
    "cut in the function": (trained(CUT.replace("LIMIT", "40")), {"QD609"}),
    "not cut": (trained(CUT.replace("LIMIT", "200")), set()),
    "no answer": (
        trained(ENCODE.replace("COUNT", 'len(tok(prompt)["input_ids"])').replace('row["a"]', '""')),
        {"QD692"},
    ),
    "one token": (trained(ENCODE.replace("COUNT", "len(ids) - 1")), {"QD692"}),
    "added tokens": (trained(ADDED + ENCODE.replace("COUNT", "3")), {"QD674"}),
    "added tokens that are trained": (trained(ADDED + ENCODE.replace("COUNT", "3") + SAVED), set()),
    "not assigned": (trained("data.map(lambda row: tok(row['q']))\n"), {"QD676"}),
    "for its effect": (
        trained("seen = []\ndata.map(lambda row: seen.append(row['q']))\n" + ENCODE.replace("COUNT", "0")),
        set(),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_slips_of_a_mapped_function(
    case: str, tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, rules = CASES[case]
    report = check_here(script(tmp_path, tiny_llama, code), monkeypatch, stages=("config", "data"))
    level = "warning" if rules & {"QD609", "QD660", "QD692"} else "error"
    assert found(report, level) == rules, told(report)


def test_empty_answers_of_a_scripts_rows(tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{**row, "a": "" if n % 3 == 0 else row["a"]} for n, row in enumerate(QUESTIONS)]
    path = script(tmp_path, tiny_llama, trained(ENCODE.replace("COUNT", 'len(tok(prompt)["input_ids"])')), rows)
    assert found(check_here(path, monkeypatch, stages=("config", "data")), "warning") == {"QD660"}


def test_what_a_mapped_function_leaves_out_of_a_talk(
    model_folder: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The template of the function is asked, not the one that TRL would use."""
    code = trained("""
def encode(row):
    made = tok("".join(turn["content"] for turn in row["messages"] if turn["role"] in ROLES) + tok.eos_token)
    made["labels"] = made["input_ids"].copy()
    return made
data = data.map(encode, remove_columns=data.column_names)
""")
    rows = [{"messages": [{"role": "system", "content": f"Clerk {n}"}, *row["messages"]]}
            for n, row in enumerate(messages(12))]  # fmt: skip
    path = script(tmp_path, model_folder("llama"), code.replace("ROLES", '("user", "assistant")'), rows)
    assert found(check_here(path, monkeypatch, stages=("config", "data")), "warning") == {"QD656"}
    path = script(tmp_path, model_folder("llama"), code.replace("ROLES", '("system", "user", "assistant")'), rows)
    report = check_here(path, monkeypatch, stages=("config", "data"))
    assert not found(report, "warning"), told(report)


def messages(count: int = 12) -> list[dict[str, Any]]:
    return [
        {"messages": [{"role": "user", "content": f"Say {n}."}, {"role": "assistant", "content": f"It is {n}."}]}
        for n in range(count)
    ]


AS_TEXT = [{"messages": json.dumps(row["messages"])} for row in messages()]
ROWS: dict[str, tuple[list[dict[str, Any]], str, str | None]] = {
    "messages as text": (AS_TEXT, "", "holds a conversation as JSON text"),
    "other names": (
        [{"messages": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}],
        "",
        "A message of the column 'messages' has from, value",
    ),
    "messages": (messages(), "", None),
    "unknown end token": (messages(), "eos_token='<EOS_TOKEN>'", "is not found in the vocabulary"),
    "known end token": (messages(), "eos_token='<|im_end|>'", None),
    "not prepared": ([{"text": "a b c"}] * 4, "dataset_kwargs={'skip_prepare_dataset': True}", "and no input_ids"),
}


@pytest.mark.parametrize("case", ROWS)
def test_rows_that_trl_cannot_use(case: str, tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("trl")
    rows, settings, why = ROWS[case]
    path = script(tmp_path, tiny_llama, SFT.replace("SETTINGS", settings), rows)
    report = check_here(path, monkeypatch, stages=("config", "data"))
    failed = [finding.message for finding in report.findings if finding.rule == "QD601"]
    assert bool(failed) == (why is not None), told(report)
    assert why is None or why in failed[0]


def test_a_conversation_that_is_trained_as_its_text(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("trl")
    rows = [{"text": row["messages"]} for row in AS_TEXT]
    report = check_here(script(tmp_path, tiny_llama, SFT.replace("SETTINGS", ""), rows), monkeypatch, stages=("data",))
    assert "QD680" in found(report, "error"), told(report)
    make_data(tmp_path / "rows.jsonl", "text", rows=12)
    report = check_here(tmp_path / "train.py", monkeypatch, stages=("data",))
    assert "QD680" not in found(report, "error"), told(report)


def test_a_slice_that_takes_nothing(tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = trained(ENCODE.replace("COUNT", "0"))
    path = script(tmp_path, tiny_llama, code)
    path.write_text(path.read_text().replace('split="train"', 'split="train[:1%]"'))
    report = check_here(path, monkeypatch, stages=("data",))
    said = next(finding.message for finding in report.findings if finding.rule == "QD601")
    assert said.endswith("takes none of the 24 rows of rows.jsonl.")

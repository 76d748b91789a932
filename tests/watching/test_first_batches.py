"""Scripts that are run up to their training: their own batches, and how those end that never come there."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from qlora_doctor.watching.first_batches.drawing import Drawn, facts_of_drawn
from qlora_doctor.watching.first_batches.noting import Noted
from qlora_doctor.watching.first_batches.request import Outcome, RunData
from qlora_doctor.watching.first_batches.running import run_to_first_batches

ROOT = Path(__file__).resolve().parents[2]
HEAD = """
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, Trainer, TrainingArguments

tok = AutoTokenizer.from_pretrained({model!r})
bits = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_compute_dtype=torch.bfloat16)
model = AutoModelForCausalLM.from_pretrained({model!r}, quantization_config=bits, device_map={{"": 0}})
model = get_peft_model(prepare_model_for_kbit_training(model), LoraConfig(r=8, target_modules="all-linear"))
data = Dataset.from_list([{{"q": f"What is {{i}}?", "a": f"It is {{i}}."}} for i in range(20)])
"""
TRAINER = """
def encode(row):
    prompt = tok(row["q"]).input_ids
    answer = tok(row["a"] + tok.eos_token, add_special_tokens=False).input_ids
    return {"input_ids": prompt + answer, "labels": [-100] * len(prompt) + answer}

def collate(rows):
    batch = tok.pad([{"input_ids": row["input_ids"]} for row in rows], return_tensors="pt")
    labels = [row["labels"] + [-100] * (batch.input_ids.shape[1] - len(row["labels"])) for row in rows]
    batch["labels"] = LABELS
    return batch

args = TrainingArguments("out", per_device_train_batch_size=4, bf16=True, optim="paged_adamw_8bit")
data = data.map(encode, remove_columns=["q", "a"], num_proc=2)
Trainer(model, args, train_dataset=data, data_collator=collate).train()
raise SystemExit("it was trained")
"""
LOOP = """
from torch.utils.data import DataLoader
def moved(row):
    ids = tok(row["q"] + row["a"], padding="max_length", max_length=24, truncation=True).input_ids
    return {"input_ids": ids, "labels": ids[1:] + [-100]}

loader = DataLoader(data.map(moved, remove_columns=["q", "a"]).with_format("torch"), batch_size=4)
optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad])
for epoch in range(2):
    for batch in loader:
        loss = model(**{name: value.to("cuda") for name, value in batch.items()}).loss
        loss.backward()
        optimizer.step()
"""


def drawn_of(tmp_path: Path, code: str, **bounds: Any) -> Outcome:
    script = tmp_path / "train.py"
    script.write_text(code, encoding="utf-8")
    return run_to_first_batches(RunData(script=str(script), **bounds), lambda *given: None)


@pytest.mark.slow
def test_a_collator_that_drops_the_mask_is_named(tiny_llama: Path, tmp_path: Path) -> None:
    outcome = drawn_of(
        tmp_path, HEAD.format(model=str(tiny_llama)) + TRAINER.replace("LABELS", "batch.input_ids.clone()")
    )
    assert outcome.reason is None and outcome.batch is not None and outcome.data is not None
    assert outcome.batch.rows == 20 and outcome.batch.mask_discarded
    assert outcome.batch.labels_by == f"the collator {outcome.batch.collator}"
    assert outcome.batch.collator == "collate (train.py:18)"
    assert outcome.data.trained_ratio == 1.0 and outcome.data.shown


@pytest.mark.slow
def test_its_healthy_twin(tiny_llama: Path, tmp_path: Path) -> None:
    code = HEAD.format(model=str(tiny_llama)) + TRAINER.replace("LABELS", "torch.tensor(labels)")
    outcome = drawn_of(tmp_path, code)
    assert outcome.batch is not None and outcome.data is not None
    assert outcome.batch.mask_discarded is False and outcome.batch.labels_shifted is False
    assert outcome.batch.labels_by == "the mapped function encode (train.py:13)"
    assert outcome.batch.labels_on_padding == 0 and 0.2 < (outcome.data.trained_ratio or 0) < 0.8


@pytest.mark.slow
def test_a_loop_of_its_own_is_not_trained_either(tiny_llama: Path, tmp_path: Path) -> None:
    outcome = drawn_of(tmp_path, HEAD.format(model=str(tiny_llama)) + LOOP)
    assert outcome.batch is not None
    assert outcome.batch.labels_shifted and outcome.batch.rows == 20, "one epoch"
    assert outcome.batch.labels_by == "the mapped function moved (train.py:14)"
    assert outcome.batch.labels_on_padding


@pytest.mark.slow
@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("def stuck():\n    while True:\n        pass\nstuck()", "it was in stuck at train.py:"),
        ("import urllib.request\nurllib.request.urlopen('http://example.org')", "asks for the network (example.org"),
        ("import os\nos._exit(3)", "ended its process (os._exit, exit code 3)"),
        ("def broken(row):\n    return row['no']\nbroken({})", "in broken (train.py:2): KeyError: 'no'"),
        ("kept = []\nwhile True:\n    kept.append(bytearray(1 << 26))", "memory"),
        (
            "import argparse\np = argparse.ArgumentParser()\np.add_argument('--m', required=True)\np.parse_args()",
            "code 2",
        ),
    ],
    ids=["hangs", "network", "os._exit", "crashes", "memory", "arguments"],
)
def test_a_script_that_never_trains_ends_in_a_sentence(code: str, said: str, tmp_path: Path) -> None:
    seconds = 25.0 if "stuck" in code else 300.0
    outcome = drawn_of(tmp_path, code, seconds=seconds, memory=(2 << 30) if "bytearray" in code else 8 << 30)
    assert not outcome.drawn
    assert outcome.reason is not None and said in outcome.reason


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="orphans are adopted on Linux")
def test_what_a_script_leaves_in_the_background_is_ended(tmp_path: Path) -> None:
    code = (
        "import os, time\n"
        "if os.fork() == 0:\n"
        "    os.setsid()\n"
        "    if os.fork() == 0:\n"
        "        open('pid', 'w').write(str(os.getpid()))\n"
        "        time.sleep(120)\n"
        "    os._exit(0)\n"
        "time.sleep(1)\n"
    )
    outcome = drawn_of(tmp_path, code)
    assert outcome.reason is not None and "without a trainer" in outcome.reason
    pid = int((tmp_path / "pid").read_text())
    for _ in range(50):
        if not Path(f"/proc/{pid}").exists() or "Z" in Path(f"/proc/{pid}/stat").read_text().split()[2]:
            return
        time.sleep(0.1)
    raise AssertionError(f"{pid} still runs")


@pytest.mark.skipif(sys.platform != "linux", reason="the filter is Linux's")
def test_no_process_below_reaches_the_network() -> None:
    code = (
        "from qlora_doctor.core.confining import confine\n"
        "import subprocess, sys\n"
        "asked = []\n"
        "confine(8 << 30, asked)\n"
        "import socket\n"
        "try:\n    socket.create_connection(('192.0.2.1', 80), timeout=2)\n"
        "except OSError as error:\n    print(type(error).__name__)\n"
        "print(asked)\n"
        "socket.socketpair()\n"
        "below = 'import socket\\ntry:\\n socket.socket()\\n print(\"open\")\\nexcept OSError as e: print(e.errno)'\n"
        "print(subprocess.run([sys.executable, '-c', below], capture_output=True, text=True).stdout)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=60)
    assert found.stdout.split() == ["NetworkClosed", "['192.0.2.1']", "101"], found


def test_labels_that_only_end_otherwise_are_no_mask(tmp_path: Path) -> None:
    """A data set whose last label is -100, handed on as it is: nothing was masked by hand and lost."""
    rows = [{"input_ids": [1, 2, 3, 4], "labels": [1, 2, 3, -100]} for _ in range(4)]

    def collate(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        return {name: torch.tensor([row[name] for row in rows]) for name in ("input_ids", "labels")}

    drawn = Drawn(batches=[collate(rows)], dataset=rows, collator=collate)
    _, batch = facts_of_drawn(drawn, Noted(str(tmp_path / "train.py")))
    assert batch is not None and batch.mask_discarded is False
    assert batch.labels_by == "the data set's own column"


def test_pairs_are_no_conflict(tmp_path: Path) -> None:
    ids = torch.tensor([[1, 2, 3], [1, 2, 4]])
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "completion_mask": torch.tensor([[0, 0, 1]] * 2)}
    rows = [{"prompt_ids": [1, 2], "chosen_ids": [3], "rejected_ids": [3]}]
    data, facts = facts_of_drawn(Drawn(batches=[batch], dataset=rows), Noted(str(tmp_path / "dpo.py")))
    assert data.identical_pairs == 1 and data.conflicting_rows is None
    assert facts is not None and facts.trained_tokens == 2


@pytest.mark.slow
def test_a_filter_that_leaves_no_row_is_named(tiny_llama: Path, tmp_path: Path) -> None:
    code = HEAD.format(model=str(tiny_llama)) + TRAINER.replace("LABELS", "torch.tensor(labels)")
    outcome = drawn_of(tmp_path, code.replace("data = data.map", "data = data.filter(lambda row: False).map"))
    assert outcome.data is not None and outcome.data.rows == 0, outcome.reason
    assert outcome.data.left_out_reasons == ["The filter a lambda (train.py:25) keeps none of the 20 rows it is given."]


def test_rows_that_end_at_a_limit_are_cut_and_no_copies(tiny_llama: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    ids = torch.full((40, 8), 5)
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids.clone()}

    def data_of(last: int, **given: Any) -> Any:
        ids[:, -1] = batch["labels"][:, -1] = last
        return facts_of_drawn(Drawn(batches=[batch], tokenizer=tokenizer, **given), Noted(str(tmp_path / "a.py")))[0]

    cut = data_of(5, limit=8)
    assert (cut.truncated_ratio, cut.limit, cut.duplicate_rows) == (1.0, 8, None)
    assert data_of(tokenizer.eos_token_id, limit=8).truncated_ratio == 0.0
    for limit in (None, 16):
        assert data_of(5, limit=limit).truncated_ratio is None

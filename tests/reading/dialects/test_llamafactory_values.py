"""LLaMA-Factory: values that HfArgumentParser hands on as they are, and at which the trainer stops."""

from __future__ import annotations

from pathlib import Path

import pytest

from qlora_doctor.probes.config.conclude import conclude
from qlora_doctor.reading import read_setup

HEALTHY = """\
model_name_or_path: my/model
stage: sft
do_train: true
finetuning_type: lora
quantization_bit: 4
upcast_layernorm: true
template: llama3
dataset: mine
learning_rate: 2e-4
bf16: true
val_size: 0.1
"""


def refused(folder: Path, line: str) -> dict[str, str]:
    (folder / "lf.yaml").write_text(f"{HEALTHY}{line}\n")
    setup = read_setup(folder / "lf.yaml")
    assert setup.dialect == "llamafactory"
    found = conclude(setup, None).refused
    return {remark.kind: str(remark.key).removeprefix("training.") for remark in found or []}


@pytest.mark.parametrize(
    ("line", "kind", "key"),
    [
        ("per_device_train_batch_size: '4'", "text-for-a-number", "per_device_train_batch_size"),
        ("lora_rank: eight", "text-for-a-number", "lora_rank"),
        ("warmup_ratio: '0.1'", "text-for-a-number", "warmup_ratio"),
        ("cutoff_len: 2k", "text-for-a-number", "cutoff_len"),
        ("save_strategy: no", "strategy-is-a-switch", "save_strategy"),
        ("eval_strategy: true", "strategy-is-a-switch", "eval_strategy"),
        ("save_strategy: sometimes", "strategy-unknown", "save_strategy"),
        ("logging_strategy: epochs", "strategy-unknown", "logging_strategy"),
        ("logging_steps: 10.5", "interval-with-a-fraction", "logging_steps"),
        ("eval_strategy: steps\neval_steps: 2.5", "interval-with-a-fraction", "eval_steps"),
    ],
)
def test_what_stops_the_trainer(tmp_path: Path, line: str, kind: str, key: str) -> None:
    assert refused(tmp_path, line) == {kind: key}


@pytest.mark.parametrize(
    "line",
    [
        "per_device_train_batch_size: 4",
        "save_strategy: 'no'",
        "save_strategy: best\nmetric_for_best_model: loss\neval_strategy: steps",
        "logging_steps: 0.5",
        "eval_steps: 2.5",
        "save_strategy: epoch\nsave_steps: 1.5",
        "weight_decay: 1e-2",
    ],
)
def test_what_it_takes(tmp_path: Path, line: str) -> None:
    assert refused(tmp_path, line) == {}

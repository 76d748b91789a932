"""Home-made files: the names and sections that people give the usual values, and what no name can tell."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from qlora_doctor.reading.dialects import read_setup
from qlora_doctor.setup.resolved import Resolved

MODEL, BITS, KIND = "model.name_or_path", "quantization.load_in_4bit", "quantization.bnb_4bit_quant_type"
RANK, ALPHA, TARGETS = "lora.r", "lora.lora_alpha", "lora.target_modules"
RATE, BATCH, ACCUMULATION = (
    f"training.{name}" for name in ("learning_rate", "per_device_train_batch_size", "gradient_accumulation_steps")
)
EPOCHS, STEPS, LENGTH = (f"training.{name}" for name in ("num_train_epochs", "max_steps", "max_length"))
OPTIM, SCHEDULE = "training.optim", "training.lr_scheduler_type"

FILES: dict[str, tuple[str, dict[str, Any]]] = {
    "short.yaml": (
        """
base: mistralai/Mistral-7B-v0.1
quant: {bits: 4, type: nf4, double: true, compute: bf16}
peft: {r: 16, alpha: 32, dropout: 0.05, targets: [q_proj, v_proj]}
train: {lr: 2.0e-4, bs: 4, accum: 8, epochs: 3, seq_len: 2048}
""",
        {MODEL: "mistralai/Mistral-7B-v0.1", BITS: True, KIND: "nf4", RANK: 16, ALPHA: 32, RATE: 2e-4, BATCH: 4}
        | {ACCUMULATION: 8, EPOCHS: 3, LENGTH: 2048, TARGETS: ["q_proj", "v_proj"]},
    ),
    "sections.toml": (
        """
[model]
path = "meta-llama/Llama-3.1-8B"
[quant]
bits = 4
[lora]
rank = 8
[optim]
lr = 1e-4
name = "paged_adamw_8bit"
[schedule]
type = "cosine"
warmup = 100
""",
        {MODEL: "meta-llama/Llama-3.1-8B", BITS: True, RANK: 8, RATE: 1e-4, OPTIM: "paged_adamw_8bit"}
        | {"training.warmup_steps": 100},
    ),
    "nested.yaml": (
        """
training:
  optimizer: {lr: 0.0003, name: adamw_torch}
  scheduler: {name: linear, warmup: 0.03}
  batch: {micro: 1, accumulation: 32}
  steps: 500
  eval: {steps: 5}
model: {id: Qwen/Qwen2.5-7B, quantization: {bits: 4, quant_type: fp4}}
lora: {params: {r: 64}}
""",
        {MODEL: "Qwen/Qwen2.5-7B", BITS: True, KIND: "fp4", RANK: 64, RATE: 0.0003, BATCH: 1, ACCUMULATION: 32}
        | {STEPS: 500, OPTIM: "adamw_torch", SCHEDULE: "linear", "training.warmup_ratio": 0.03},
    ),
    "camel.json": (
        '{"baseModel": "Qwen/Qwen2.5-0.5B", "loadIn4bit": true, "loraR": 8, "learningRate": 1e-4, "batchSize": 2}',
        {MODEL: "Qwen/Qwen2.5-0.5B", BITS: True, RANK: 8, RATE: 1e-4, BATCH: 2},
    ),
    "by-method.yaml": (
        "model: ./models/llama-7b\nmethod: qlora\nrank: 8\nlr: 0.0001\nbs: 2\n",
        {MODEL: "./models/llama-7b", BITS: True, RANK: 8, RATE: 1e-4, BATCH: 2},
    ),
    "adapter-section.yaml": (
        "adapter: {type: qlora, r: 8, alpha: 16}\nbase_model: a/b-1\ntrain: {lr: 0.0002, batch: 3}\n",
        {MODEL: "a/b-1", BITS: True, RANK: 8, ALPHA: 16, RATE: 2e-4, BATCH: 3},
    ),
    "two-names.yaml": (
        "model: {name: my-run, path: meta-llama/Llama-3.2-1B}\nquant: {type: nf4}\nlora: {r: 8}\n",
        {MODEL: "meta-llama/Llama-3.2-1B", BITS: True, RANK: 8},
    ),
    "student.yaml": (
        "teacher: {path: big/m-70b, lr: 1.0}\nstudent: {path: small/m-1b}\nlora: {r: 8}\noptim: {lr: 0.0001}\n",
        {MODEL: "small/m-1b", RANK: 8, RATE: 1e-4},
    ),
    "lightning.yaml": (
        """
model_name: meta-llama/Llama-3.2-1B
quantization: {enabled: true, method: bitsandbytes, bits: 4}
lora: {r: 8}
trainer: {precision: bf16-mixed, accumulate_grad_batches: 4, max_epochs: 2, gradient_clip_val: 1.0}
datamodule: {batch_size: 4, max_length: 512, size: 1000}
""",
        {BITS: True, RANK: 8, BATCH: 4, ACCUMULATION: 4, EPOCHS: 2, LENGTH: 512, "training.bf16": True},
    ),
}
"""File → (text, canonical path → what its script is meant to have there)."""


@pytest.mark.parametrize("name", FILES)
def test_the_usual_names_in_any_section(name: str, tmp_path: Path) -> None:
    text, meant = FILES[name]
    (tmp_path / name).write_text(text)
    setup = read_setup(tmp_path / name)
    resolved = Resolved(setup)
    assert setup.dialect == "custom"
    assert {path: resolved[path] for path in meant} == meant


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("base: ../configs/base.yaml", MODEL),
        ("base: configs/qlora-7b", MODEL),
        ("base: /home/me/project-1", MODEL),
        ("model: llama-7b", MODEL),
        ("tokenizer: {name: a/b-1, path: x/y-1}", MODEL),
        ("tokenizer: {name: a/b-1, path: x/y-1}", "data.train"),
        ("train: {save: {steps: 7}}", STEPS),
        ("data: {size: 1000}", BATCH),
        ("quant: {type: int4}", KIND),
        ("lora: {layers: [0, 1]}", TARGETS),
        ("data: [{path: a.json}, {path: b.json}]", "data.train"),
    ],
)
def test_what_no_name_tells_stays_unknown(text: str, path: str, tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text(f"{text}\nlora_r: 8\nload_in_4bit: true\n")
    setup = read_setup(tmp_path / "own.yaml")
    assert setup.dialect == "custom"
    assert path not in setup.origins or setup.is_unknown(path)

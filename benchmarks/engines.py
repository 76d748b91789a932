"""A real training of a tiny model by an engine of others, under ``run``: what is seen of it.

    PYTHON benchmarks/engines.py llamafactory|swift|axolotl|unsloth|zero-2|zero-3 [--out FILE]

PYTHON is that of an environment with the engine and with this tool's dependencies; the tree is taken from here. On a
CPU: LLaMA-Factory wants torchaudio to be importable (its libraries do not load beside a CPU build of torch, and are not
needed), axolotl wants triton, which is not used, and DeepSpeed is built with ``DS_BUILD_OPS=0``; where there are two
cards, its ranks use them. Each result is put beside those of the other engines in the file.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("llamafactory", "ms-swift", "axolotl", "unsloth", "deepspeed", "torch", "transformers", "peft", "trl",
            "accelerate", "datasets", "bitsandbytes")  # fmt: skip
LLAMAFACTORY = """
model_name_or_path: base
stage: sft
do_train: true
finetuning_type: lora
lora_target: all
lora_rank: 8
quantization_bit: 4
template: llama2
dataset: mine
dataset_dir: .
cutoff_len: 128
output_dir: out
per_device_train_batch_size: 2
gradient_accumulation_steps: 2
learning_rate: 1.0e-4
max_steps: 8
logging_steps: 1
save_steps: 8
warmup_steps: 1
report_to: none
bf16: true
use_cpu: true
"""
AXOLOTL = """
base_model: base
load_in_4bit: true
adapter: qlora
lora_r: 8
lora_alpha: 16
lora_target_linear: true
lora_mlp_kernel: false
lora_qkv_kernel: false
lora_o_kernel: false
datasets: [{path: rows.jsonl, ds_type: json, type: chat_template, field_messages: messages}]
chat_template: chatml
sequence_len: 128
micro_batch_size: 2
gradient_accumulation_steps: 2
max_steps: 8
learning_rate: 0.0001
optimizer: adamw_torch
lr_scheduler: constant
logging_steps: 1
output_dir: out
bf16: false
fp16: false
tf32: false
gradient_checkpointing: true
save_steps: 8
special_tokens: {pad_token: "<|im_end|>"}
dataset_num_proc: 1
val_set_size: 0
"""
UNSLOTH = """
from unsloth import FastLanguageModel
from datasets import load_dataset
from trl import SFTConfig, SFTTrainer

model, tokenizer = FastLanguageModel.from_pretrained("base", max_seq_length=128, load_in_4bit=True)
model = FastLanguageModel.get_peft_model(model, r=8, lora_alpha=16, target_modules=[
    "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"])
rows = load_dataset("json", data_files="rows.json", split="train")
rows = rows.map(lambda row: {"text": row["instruction"] + row["output"] + tokenizer.eos_token},
                remove_columns=rows.column_names)
arguments = SFTConfig(output_dir="out", max_steps=8, per_device_train_batch_size=2, gradient_accumulation_steps=2,
                      learning_rate=1e-4, logging_steps=1, report_to="none", max_length=128, dataset_num_proc=1,
                      save_strategy="no")
SFTTrainer(model=model, processing_class=tokenizer, train_dataset=rows, args=arguments).train()
model.save_pretrained("out/final")
"""
ZERO = """
import json, sys, torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import (AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, DataCollatorForLanguageModeling,
                          Trainer, TrainingArguments)

torch.manual_seed(0)
tokenizer = AutoTokenizer.from_pretrained("base")
tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
quantization = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16,
                                  bnb_4bit_quant_storage=torch.bfloat16)
settings = {"zero_optimization": {"stage": int(sys.argv[1])}, "bf16": {"enabled": True},
            "train_micro_batch_size_per_gpu": 2, "gradient_accumulation_steps": 1,
            "zero_allow_untested_optimizer": True}
arguments = TrainingArguments(output_dir="out", max_steps=4, per_device_train_batch_size=2, learning_rate=1e-3,
                              logging_steps=1, report_to="none", use_cpu=torch.cuda.device_count() < 2, bf16=True,
                              save_strategy="no", gradient_checkpointing=False, deepspeed=settings)
model = AutoModelForCausalLM.from_pretrained("base", quantization_config=quantization, dtype=torch.bfloat16)
model = get_peft_model(model, LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM"))
texts = [row["instruction"] + row["output"] + tokenizer.eos_token for row in json.load(open("rows.json"))]
rows = Dataset.from_dict(dict(tokenizer(texts, truncation=True, max_length=64)))
Trainer(model=model, args=arguments, train_dataset=rows,
        data_collator=DataCollatorForLanguageModeling(tokenizer, mlm=False)).train()
"""
SWIFT = ("swift sft --model base --model_type llama --template default --use_hf true --dataset rows.jsonl "
         "--tuner_type lora --quant_method bnb --quant_bits 4 --bnb_4bit_compute_dtype bfloat16 --torch_dtype bfloat16 "
         "--target_modules all-linear --lora_rank 8 --max_steps 8 --per_device_train_batch_size 2 "
         "--gradient_accumulation_steps 2 --learning_rate 1e-4 --logging_steps 1 --max_length 128 --output_dir out "
         "--report_to none --use_cpu true --dataset_num_proc 1 --dataloader_num_workers 0")  # fmt: skip
TORCHRUN = "torchrun --standalone --nproc-per-node 2"
COMMANDS = {
    "llamafactory": "llamafactory-cli train config.yaml",
    "swift": SWIFT,
    "axolotl": "axolotl train config.yaml --launcher python",
    "unsloth": "python train.py",
    "zero-2": f"{TORCHRUN} train.py 2",
    "zero-3": f"{TORCHRUN} train.py 3",
}
FILES = {"llamafactory": LLAMAFACTORY, "axolotl": AXOLOTL, "unsloth": UNSLOTH, "zero-2": ZERO, "zero-3": ZERO}


def prepared(folder: Path, engine: str) -> None:
    """The model, the rows in the forms that the engines read, and what the engine is given."""
    sys.path.insert(0, str(ROOT))
    from tests.models import make_model, sentences

    make_model(folder / "base", "llama")
    halves = [(text[: len(text) // 2], text[len(text) // 2 :]) for text in sentences()]
    rows = [{"instruction": first, "input": "", "output": second} for first, second in halves]
    (folder / "rows.json").write_text(json.dumps(rows), encoding="utf-8")
    (folder / "dataset_info.json").write_text(json.dumps({"mine": {"file_name": "rows.json"}}), encoding="utf-8")
    talks = [
        {"messages": [{"role": "user", "content": first}, {"role": "assistant", "content": second}]}
        for first, second in halves
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(talk) + "\n" for talk in talks), encoding="utf-8")
    if engine in FILES:
        name = "config.yaml" if engine in ("llamafactory", "axolotl") else "train.py"
        (folder / name).write_text(FILES[engine], encoding="utf-8")


def seen(folder: Path, engine: str) -> dict[str, Any]:
    """What ``run`` says of the engine's training."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(paths),
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "HF_HUB_OFFLINE": "1", "USE_HF": "1", "DISABLE_VERSION_CHECK": "1", "AXOLOTL_DO_NOT_TRACK": "1",
        "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    if not (engine.startswith("zero") and torch.cuda.device_count() > 1):
        environment["DS_ACCELERATOR"] = "cpu"
    command = [sys.executable, "-m", "qlora_doctor", "run", "-q", "-o", "json=report.json", "--"]
    done = subprocess.run([*command, *COMMANDS[engine].split()], cwd=folder, env=environment, check=False)
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    return {"exit": done.returncode, **told(report)}


def told(report: dict[str, Any]) -> dict[str, Any]:
    """The part of a report that is recorded."""
    facts = report["facts"]
    run, step, batch = facts.get("run") or {}, facts.get("step") or {}, facts.get("batch") or {}
    return {
        "trainer": run.get("trainer"),
        "parallel": run.get("parallel"),
        "ranks": len(run.get("ranks") or []),
        "steps": run.get("steps"),
        "watched_steps": run.get("watched_steps"),
        "ended": run.get("ended"),
        "losses": step.get("losses"),
        "changed_base_tensors": step.get("changed_base_tensors"),
        "parameters_not_updated": step.get("parameters_not_updated"),
        "adapter_saved_differs": run.get("adapter_saved_differs"),
        "text": batch.get("text"),
        "findings": [f"{each['severity']} {each['rule']}: {each['message']}" for each in report["findings"]],
        "troubles": run.get("troubles"),
    }


def versions() -> dict[str, str]:
    """Of what is installed."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def main() -> None:
    """Run one engine and put its result beside the others."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("engine", choices=list(COMMANDS))
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        prepared(Path(temporary), arguments.engine)
        result = seen(Path(temporary), arguments.engine) | {"versions": versions()}
    print(json.dumps(result, indent=2))
    if arguments.out is not None:
        others = json.loads(arguments.out.read_text(encoding="utf-8")) if arguments.out.is_file() else {}
        text = json.dumps(others | {arguments.engine: result}, indent=2, ensure_ascii=False)
        arguments.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

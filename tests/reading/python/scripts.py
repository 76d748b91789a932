"""Scripts in the manner of those that people train with, and how a test reads one."""

from __future__ import annotations

import json
from pathlib import Path

from qlora_doctor.reading import Setup, read_setup

TUTORIAL = """\
import torch
from datasets import load_dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, TrainingArguments
from trl import SFTTrainer

model_name = "my/model"
lora_r = 64
use_4bit = True
bnb_4bit_compute_dtype = "float16"
compute_dtype = getattr(torch, bnb_4bit_compute_dtype)

bnb_config = BitsAndBytesConfig(
    load_in_4bit=use_4bit,
    bnb_4bit_quant_type="nf4",
    bnb_4bit_compute_dtype=compute_dtype,
)
if compute_dtype == torch.float16 and use_4bit:
    major, _ = torch.cuda.get_device_capability()
    if major >= 8:
        print("Your card has bfloat16")

model = AutoModelForCausalLM.from_pretrained(model_name, quantization_config=bnb_config, device_map={"": 0})
model.config.use_cache = False
model.config.pretraining_tp = 1
tokenizer = AutoTokenizer.from_pretrained(model_name, trust_remote_code=True)
peft_config = LoraConfig(r=lora_r, lora_alpha=16, lora_dropout=0.1, bias="none", task_type="CAUSAL_LM")
training_arguments = TrainingArguments(
    output_dir="./results",
    per_device_train_batch_size=4,
    optim="paged_adamw_32bit",
    learning_rate=2e-4,
    fp16=False,
    bf16=False,
    max_grad_norm=0.3,
)
trainer = SFTTrainer(
    model=model,
    train_dataset=load_dataset("my/rows", split="train"),
    peft_config=peft_config,
    dataset_text_field="text",
    max_seq_length=512,
    tokenizer=tokenizer,
    args=training_arguments,
    packing=False,
)
trainer.train()
model.config.use_cache = True
base_model = AutoModelForCausalLM.from_pretrained(model_name, torch_dtype=torch.float16)
"""

ARGPARSE = """\
import argparse
import torch
from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, Trainer, TrainingArguments


def parse():
    parser = argparse.ArgumentParser()
    parser.add_argument("--model_name", type=str, default="my/model")
    parser.add_argument("--lora-r", type=int, default=8)
    parser.add_argument("--lora_alpha", type=int, default="32")
    parser.add_argument("--learning_rate", type=float, required=True)
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--no_double_quant", action="store_true")
    parser.add_argument("--use_lora", action="store_true", default=True)
    return parser.parse_args()


def load(args):
    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
        bnb_4bit_use_double_quant=not args.no_double_quant,
    )
    model = AutoModelForCausalLM.from_pretrained(args.model_name, quantization_config=config)
    return prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)


def main():
    args = parse()
    model = load(args)
    if args.use_lora:
        modules = ["q_proj", "v_proj"]
        modules.append("o_proj")
        model = get_peft_model(model, LoraConfig(r=args.lora_r, lora_alpha=args.lora_alpha, target_modules=modules))
    training = TrainingArguments(
        output_dir=f"out/{args.model_name.split('/')[-1]}",
        learning_rate=args.learning_rate,
        num_train_epochs=args.epochs,
        per_device_train_batch_size=2 * 2,
    )
    Trainer(model=model, args=training, train_dataset=rows()).train()


if __name__ == "__main__":
    main()
"""

DATACLASS = """\
from dataclasses import dataclass, field
from typing import List, Optional

import torch
from peft import LoraConfig, TaskType, get_peft_model
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, HfArgumentParser, Trainer, TrainingArguments


@dataclass
class ModelArguments:
    model_name_or_path: Optional[str] = field(default="my/model", metadata={"help": "the base"})
    bits: int = field(default=4)
    target_modules: List[str] = field(default_factory=lambda: ["q_proj", "v_proj"])
    lora_r: int = 16


@dataclass
class Arguments(TrainingArguments):
    optim: str = field(default="paged_adamw_8bit")
    learning_rate: float = 1e-4


def main():
    model_args, args = HfArgumentParser((ModelArguments, Arguments)).parse_args_into_dataclasses()
    model = AutoModelForCausalLM.from_pretrained(
        model_args.model_name_or_path,
        quantization_config=BitsAndBytesConfig(
            load_in_4bit=model_args.bits == 4, load_in_8bit=model_args.bits == 8, bnb_4bit_quant_type="nf4"
        ),
        torch_dtype=torch.bfloat16 if args.bf16 else torch.float32,
    )
    model.gradient_checkpointing_enable()
    model.enable_input_require_grads()
    model = get_peft_model(
        model,
        LoraConfig(task_type=TaskType.CAUSAL_LM, r=model_args.lora_r, target_modules=model_args.target_modules),
    )
    trainer = Trainer(model=model, args=args, train_dataset=None)
    trainer.train()


main()
"""

HANDBOOK = """\
import logging
from alignment import DataArguments, H4ArgumentParser, ModelArguments, SFTConfig
from alignment import get_peft_config, get_quantization_config
from trl import SFTTrainer


def main():
    parser = H4ArgumentParser((ModelArguments, DataArguments, SFTConfig))
    model_args, data_args, training_args = parser.parse()
    model_kwargs = dict(
        revision=model_args.model_revision,
        torch_dtype=model_args.torch_dtype,
        quantization_config=get_quantization_config(model_args),
    )
    trainer = SFTTrainer(
        model=model_args.model_name_or_path,
        model_init_kwargs=model_kwargs,
        args=training_args,
        peft_config=get_peft_config(model_args),
    )
    trainer.train()


if __name__ == "__main__":
    main()
"""

CLASS_BASED = """\
import torch
from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, Trainer, TrainingArguments


class Config:
    model = "my/model"
    rank = 32
    lr = 1e-4


class Tuner:
    def __init__(self, config, alpha=16):
        self.config = config
        self.alpha = alpha
        self.model = None

    @property
    def targets(self):
        return ["q_proj", "k_proj"]

    def load(self):
        bits = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_compute_dtype="bfloat16")
        model = AutoModelForCausalLM.from_pretrained(self.config.model, quantization_config=bits, device_map="auto")
        self.model = prepare_model_for_kbit_training(model)

    def adapt(self):
        self.model = get_peft_model(
            self.model, LoraConfig(r=self.config.rank, lora_alpha=self.alpha, target_modules=self.targets)
        )

    def train(self, rows):
        args = TrainingArguments(output_dir="out", learning_rate=self.config.lr, bf16=True)
        trainer = Trainer(model=self.model, args=args, train_dataset=rows)
        trainer.train()


Config.lr = 3e-4
tuner = Tuner(Config(), alpha=64)
tuner.load()
tuner.adapt()
tuner.train(None)
"""

UNSLOTH = """\
from unsloth import FastLanguageModel, is_bfloat16_supported
from transformers import TrainingArguments
from trl import SFTTrainer

max_seq_length = 2048
dtype = None
load_in_4bit = True
model, tokenizer = FastLanguageModel.from_pretrained(
    model_name="unsloth/my-model",
    max_seq_length=max_seq_length,
    dtype=dtype,
    load_in_4bit=load_in_4bit,
)
model = FastLanguageModel.get_peft_model(
    model,
    r=16,
    target_modules=["q_proj", "k_proj"],
    lora_alpha=32,
    use_gradient_checkpointing="unsloth",
    random_state=3407,
)
trainer = SFTTrainer(
    model=model,
    tokenizer=tokenizer,
    train_dataset=dataset,
    max_seq_length=max_seq_length,
    args=TrainingArguments(
        per_device_train_batch_size=2,
        learning_rate=2e-4,
        fp16=not is_bfloat16_supported(),
        bf16=is_bfloat16_supported(),
        optim="adamw_8bit",
    ),
)
trainer_stats = trainer.train()
"""


def read(folder: Path, text: str, name: str = "train.py") -> Setup:
    """The Setup of a script."""
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return read_setup(path)


def notebook(*cells: str) -> str:
    """A notebook with these cells, those that begin with ``#md`` being no code."""
    made = [
        {
            "cell_type": "markdown" if cell.startswith("#md") else "code",
            "metadata": {},
            "source": cell.splitlines(keepends=True),
            **({} if cell.startswith("#md") else {"outputs": [], "execution_count": None}),
        }
        for cell in cells
    ]
    return json.dumps({"cells": made, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}, indent=1, ensure_ascii=False)


def value(setup: Setup, path: str) -> object:
    """What stands at a canonical path."""
    section, _, field = path.partition(".")
    return getattr(getattr(setup, section), field)


def source(setup: Setup, path: str) -> str:
    """Whose value it is; ``silent`` where the script does not give it."""
    origin = setup.origins.get(path)
    return "silent" if origin is None else origin.source

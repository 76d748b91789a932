"""Firefly: TrainingArguments and CustomizedArguments in one JSON file; ``train_mode`` is qlora where it is silent.

Defaults are those of Firefly at its last commit (October 2024): component/argument.py, train.py.
"""

from __future__ import annotations

from typing import Any

from ...setup.setup import Setup
from ...setup.traits import Traits
from ..document import Document
from .fields import Reading, Table
from .llamafactory import HF_ARGUMENTS
from .values import text

name = "firefly"
TRAITS = Traits(hf_names=True, lists_linear=True, data_key="train_file")

IMPLIED_BY_FORM = frozenset({"train_mode"})
"""Keys that say what another dialect says by being what it is; a conversion does not carry them."""
_VERSION = "Firefly (October 2024)"

_FIELDS: Table = {
    **HF_ARGUMENTS,
    "model_name_or_path": ("model.name_or_path", text),
    "lora_rank": "lora.r",
    "lora_alpha": "lora.lora_alpha",
    "lora_dropout": "lora.lora_dropout",
    "max_seq_length": "training.max_length",
    "gradient_checkpointing": "training.gradient_checkpointing",
    "gradient_checkpointing_kwargs": "training.gradient_checkpointing_kwargs",
    "task_type": "training.method",
    "train_file": ("data.train", text),
    "eval_file": ("data.eval", text),
}
_DEFAULTS: dict[str, Any] = {
    "lora.r": 64,
    "lora.lora_alpha": 16,
    "lora.lora_dropout": 0.05,
    "lora.bias": "none",
    "lora.task_type": "CAUSAL_LM",
    "training.method": "sft",
    "training.bf16": False,
    "training.fp16": False,
    "training.trainer": "transformers",
}


def recognise(document: Document) -> float:
    """A model, a file to train on and a LoRA rank, in Firefly's names."""
    data = document.data
    if not isinstance(data, dict) or not {"model_name_or_path", "train_file"} <= data.keys():
        return 0.0
    if {"use_qlora", "use_lora", "load_in_4bit", "finetuning_type"} & data.keys():
        return 0.0
    own = {"lora_rank", "train_mode", "template_name", "max_seq_length"} & data.keys()
    return 0.95 if len(own) >= 2 else 0.0


def read(document: Document) -> Setup:
    """A Firefly config → Setup."""
    reading = Reading(document, name, _VERSION, traits=TRAITS, typed=False)
    reading.take(_FIELDS)
    mode = str(reading.get("train_mode", "qlora"))
    quantized = mode == "qlora"
    reading.put("quantization.load_in_4bit", quantized, "train_mode", f"train_mode: {mode}")
    reading.put("quantization.load_in_8bit", False)
    if mode == "full":
        reading.remark("no-lora", "train_mode", "train_mode: full trains without LoRA.")
    computed = "float16" if reading.get("fp16") else "bfloat16"
    key = "fp16" if reading.get("fp16") else None
    reading.put("model.dtype", computed, key)
    if quantized:
        reading.put("quantization.bnb_4bit_compute_dtype", computed, key)
        reading.put("quantization.bnb_4bit_quant_type", "nf4", None, "written out in Firefly's code")
        reading.put("quantization.bnb_4bit_use_double_quant", True, None, "written out in Firefly's code")
        reading.put("quantization.bnb_4bit_quant_storage", "uint8")
        reading.default("training.prepare_for_kbit_training", True)
    reading.put("lora.target_modules", "all-linear", None, "Firefly adapts every linear layer but the head")
    reading.defaults(_DEFAULTS)
    return reading.setup()

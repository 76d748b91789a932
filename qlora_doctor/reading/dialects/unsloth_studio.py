"""Unsloth Studio and ``unsloth train``: three sections, read by pydantic models that ignore unknown keys.

Defaults are those of unsloth_cli/config.py and the trainer that it calls, read in August 2026.
"""

from __future__ import annotations

from typing import Any

from ...setup.setup import Setup
from ...setup.traits import Traits
from ..document import Document
from .fields import Reading, Table
from .values import chosen, names, positive, switch, text

name = "unsloth-studio"
TRAITS = Traits(own_loop="Unsloth", data_key="data.dataset")
_VERSION = "Unsloth 0.1.8"

_FIELDS: Table = {
    "model": ("model.name_or_path", text),
    "lora.lora_r": "lora.r",
    "lora.lora_alpha": "lora.lora_alpha",
    "lora.lora_dropout": "lora.lora_dropout",
    "lora.target_modules": ("lora.target_modules", names),
    "lora.use_rslora": "lora.use_rslora",
    "lora.use_dora": "lora.use_dora",
    "training.load_in_4bit": ("quantization.load_in_4bit", switch),
    "training.batch_size": "training.per_device_train_batch_size",
    "training.gradient_accumulation_steps": "training.gradient_accumulation_steps",
    "training.learning_rate": "training.learning_rate",
    "training.weight_decay": "training.weight_decay",
    "training.max_steps": ("training.max_steps", positive),
    "training.num_epochs": ("training.num_train_epochs", positive),
    "training.warmup_steps": "training.warmup_steps",
    "training.warmup_ratio": "training.warmup_ratio",
    "training.max_seq_length": "training.max_length",
    "training.packing": "training.packing",
    "training.random_seed": "training.seed",
    "training.output_dir": "training.output_dir",
    "training.gradient_checkpointing": (
        "training.gradient_checkpointing",
        chosen({"unsloth": True, "true": True, "none": False, "false": False}, "unsloth, true or none"),
    ),
    "data.dataset": ("data.train", text),
}
_SEVEN = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
_DEFAULTS: dict[str, Any] = {
    "lora.r": 64,
    "lora.lora_alpha": 16,
    "lora.lora_dropout": 0.0,
    "lora.target_modules": _SEVEN,
    "lora.bias": "none",
    "lora.task_type": "CAUSAL_LM",
    "lora.use_rslora": False,
    "lora.use_dora": False,
    "quantization.load_in_4bit": True,
    "training.per_device_train_batch_size": 2,
    "training.gradient_accumulation_steps": 4,
    "training.learning_rate": 2e-4,
    "training.weight_decay": 0.01,
    "training.num_train_epochs": 3,
    "training.warmup_steps": 5,
    "training.max_length": 2048,
    "training.packing": False,
    "training.gradient_checkpointing": True,
    "training.seed": 3407,
    "training.lr_scheduler_type": "linear",
    "training.trainer": "trl",
    "training.method": "sft",
}


def recognise(document: Document) -> float:
    """``lora.lora_r`` beside a training section, with something that is Unsloth's alone."""
    data = document.data
    if not isinstance(data, dict):
        return 0.0
    lora, training = data.get("lora"), data.get("training")
    if not isinstance(lora, dict) or not isinstance(training, dict):
        return 0.0
    own = {"use_loftq", "vision_all_linear", "finetune_language_layers", "finetune_vision_layers"} & lora.keys()
    if "lora_r" in lora and ("training_type" in training or own):
        return 0.97
    return 0.9 if training.get("gradient_checkpointing") == "unsloth" and "random_seed" in training else 0.0


def read(document: Document) -> Setup:
    """An Unsloth config → Setup."""
    reading = Reading(document, name, _VERSION, traits=TRAITS, typed=False)
    reading.take(_FIELDS)
    if not reading.has("model"):
        reading.leave("model.name_or_path", why="The file names no model; Studio adds the one that is chosen there.")
    optimizer = "adamw_8bit"
    if reading.has("training.optim"):
        note = "`unsloth train` has no key optim and trains with adamw_8bit; Studio itself reads it."
        reading.put("training.optim", str(reading.get("training.optim")), "training.optim", note)
    reading.default("training.optim", optimizer)
    if reading.get("training.training_type") == "full":
        reading.remark("no-lora", "training.training_type", "training_type: full trains without LoRA.")
    if reading.get("lora.use_loftq"):
        reading.put("lora.init_lora_weights", "loftq", "lora.use_loftq")
    if reading.get("lora.vision_all_linear"):
        note = "vision_all_linear counts for vision models only."
        reading.forget("lora.target_modules", note, "lora.vision_all_linear")
    reading.defaults(_DEFAULTS)
    if reading.value("quantization.load_in_4bit"):
        reading.put("quantization.bnb_4bit_quant_type", "nf4")
        reading.put("quantization.bnb_4bit_use_double_quant", True)
        reading.put("quantization.bnb_4bit_quant_storage", "uint8")
        reading.leave(
            "quantization.bnb_4bit_compute_dtype", why="It is the model's dtype, which Unsloth picks by the GPU."
        )
    else:
        reading.put("quantization.load_in_8bit", False)
    picks = "Unsloth picks it by the GPU."
    reading.leave(
        "model.dtype", "training.bf16", "training.fp16", "model.attn_implementation", "model.device_map", why=picks
    )
    reading.leave("training.gradient_checkpointing_kwargs", why="Unsloth checkpoints by code of its own.")
    if reading.value("lora.lora_dropout"):
        note = f"Unsloth's fast kernels need lora_dropout: 0, found {reading.value('lora.lora_dropout')}."
        reading.remark("kernels-passed-by", "lora.lora_dropout", note)
    if document.string_numbers:
        reading.remark("string-numbers-converted", None, "pydantic, with which Unsloth reads, turns them into numbers.")
    return reading.setup()

"""MFTCoder: one JSON file of MftTrainArgs, in which ``$NAMES`` are filled in by the shell script that starts it.

Defaults are those of MFTCoder 0.4: mftcoder_accelerate/src/pefts/{mft_arguments,mft_accelerate}.py.
"""

from __future__ import annotations

from typing import Any

from ...setup.setup import Setup
from ...setup.traits import Traits
from ..document import Document
from .fields import Reading, Table
from .values import names_or_all, text

name = "mftcoder"
TRAITS = Traits(own_loop="MFTCoder", own_options=True, data_key="data_paths")
_VERSION = "MFTCoder 0.4"
_OWN_LOOP = "MFTCoder's own loop trains; it has no such option."

_FIELDS: Table = {
    "pretrained_model_path": ("model.name_or_path", text),
    "attn_implementation": "model.attn_implementation",
    "lora_rank": "lora.r",
    "lora_alpha": "lora.lora_alpha",
    "lora_dropout": "lora.lora_dropout",
    "target_modules": ("lora.target_modules", names_or_all),
    "per_device_train_batch_size": "training.per_device_train_batch_size",
    "per_device_eval_batch_size": "training.per_device_eval_batch_size",
    "gradient_accumulation_steps": "training.gradient_accumulation_steps",
    "learning_rate": "training.learning_rate",
    "weight_decay": "training.weight_decay",
    "lr_scheduler_type": "training.lr_scheduler_type",
    "num_warmup_steps": "training.warmup_steps",
    "num_train_epochs": "training.num_train_epochs",
    "max_train_steps": "training.max_steps",
    "seq_length": "training.max_length",
    "seed": "training.seed",
    "output_dir": ("training.output_dir", text),
    "data_paths": ("data.train", text),
}
_DEFAULTS: dict[str, Any] = {
    "lora.r": 96,
    "lora.lora_alpha": 32,
    "lora.lora_dropout": 0.05,
    "lora.target_modules": "all-linear",
    "lora.bias": "lora_only",
    "lora.task_type": "CAUSAL_LM",
    "lora.use_rslora": False,
    "lora.use_dora": False,
    "lora.init_lora_weights": True,
    "training.per_device_train_batch_size": 8,
    "training.gradient_accumulation_steps": 1,
    "training.learning_rate": 5e-5,
    "training.weight_decay": 0.01,
    "training.num_train_epochs": 4,
    "training.max_length": 4096,
    "training.lr_scheduler_type": "cosine",
    "training.gradient_checkpointing": True,
    "training.prepare_for_kbit_training": True,
    "training.bf16": True,
    "training.fp16": False,
    "training.padding_free": False,
    "training.use_liger_kernel": False,
    "training.method": "sft",
    "model.dtype": "bfloat16",
}


def recognise(document: Document) -> float:
    """Data paths with MFTCoder's names of the adapter or the quantization."""
    data = document.data
    if not isinstance(data, dict) or "data_paths" not in data:
        return 0.0
    return 0.97 if {"peft_type", "quantization", "weighted_loss_mode", "pretrained_model_path"} & data.keys() else 0.0


def read(document: Document) -> Setup:
    """An MFTCoder config → Setup."""
    reading = Reading(document, name, _VERSION, traits=TRAITS, typed=False)
    reading.take(_FIELDS)
    key = "quantization"
    kind = str(reading.get(key, None if reading.written(key) else "4bit"))
    reading.put("quantization.load_in_4bit", kind == "4bit", key)
    reading.put("quantization.load_in_8bit", kind == "8bit", key)
    if kind == "4bit":
        reading.put("quantization.bnb_4bit_quant_type", "nf4", None, "written out in MFTCoder's code")
        reading.put("quantization.bnb_4bit_use_double_quant", True, None, "written out in MFTCoder's code")
        reading.put("quantization.bnb_4bit_compute_dtype", "bfloat16", None, "written out in MFTCoder's code")
        reading.put("quantization.bnb_4bit_quant_storage", "bfloat16", None, "written out in MFTCoder's code")
    packed = reading.get("padding_mode")
    if packed is not None:
        reading.put("training.packing", packed == "pack", "padding_mode")
    reading.defaults(_DEFAULTS)
    reading.leave_rest("training", why=_OWN_LOOP)
    reading.leave("model.use_cache", "model.device_map", "model.attn_implementation", why=_OWN_LOOP)
    return reading.setup()

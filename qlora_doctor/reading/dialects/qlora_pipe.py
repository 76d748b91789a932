"""qlora-pipe and qlora-pipe-lite: TOML files for pipeline-parallel training by DeepSpeed.

Defaults are those of both train.py at their last commits (April and October 2025).
"""

from __future__ import annotations

from typing import Any

from ...setup.setup import Setup
from ...setup.traits import Traits
from ..document import Document
from .fields import Reading, Table
from .values import dtype, name_list, names, switch, text, truthy

name = "qlora-pipe"
TRAITS = Traits(own_loop="qlora-pipe", own_options=True, data_key="datasets")
_OWN_LOOP = "qlora-pipe's own loop trains; it has no such option."

_FIELDS: Table = {
    "model": ("model.name_or_path", text),
    "model_dir": ("model.name_or_path", text),
    "model_weight_dtype": ("model.dtype", dtype),
    "lora_rank": "lora.r",
    "lora_alpha": "lora.lora_alpha",
    "lora_dropout": "lora.lora_dropout",
    "use_dora": "lora.use_dora",
    "use_rslora": "lora.use_rslora",
    "target_modules": ("lora.target_modules", names),
    "modules_to_save": ("lora.modules_to_save", name_list),
    "quantization.bnb.load_in_4bit": ("quantization.load_in_4bit", switch),
    "quantization.bnb.load_in_8bit": ("quantization.load_in_8bit", switch),
    "quantization.bnb.bnb_4bit_quant_type": "quantization.bnb_4bit_quant_type",
    "quantization.bnb.bnb_4bit_use_double_quant": ("quantization.bnb_4bit_use_double_quant", switch),
    "quantization.bnb.bnb_4bit_compute_dtype": ("quantization.bnb_4bit_compute_dtype", dtype),
    "quantization.bnb.llm_int8_skip_modules": ("quantization.llm_int8_skip_modules", name_list),
    "load_in_4bit": ("quantization.load_in_4bit", switch),
    "micro_batch_size_per_gpu": "training.per_device_train_batch_size",
    "gradient_accumulation_steps": "training.gradient_accumulation_steps",
    "gradient_clipping": "training.max_grad_norm",
    "optimizer.lr": "training.learning_rate",
    "lr": "training.learning_rate",
    "optimizer.weight_decay": "training.weight_decay",
    "optimizer.type": ("training.optim", text),
    "epochs": "training.num_train_epochs",
    "warmup_steps": "training.warmup_steps",
    "lr_scheduler": ("training.lr_scheduler_type", text),
    "group_by_length": "training.group_by_length",
    "activation_checkpointing": ("training.gradient_checkpointing", truthy),
    "sequence_len": "training.max_length",
    "datasets.0.sequence_len": "training.max_length",
    "output_dir": ("training.output_dir", text),
    "datasets.0.dataset_path": ("data.train", text),
}
_DEFAULTS: dict[str, Any] = {
    "lora.lora_dropout": 0.0,
    "lora.target_modules": "all-linear",
    "lora.bias": "none",
    "lora.task_type": "CAUSAL_LM",
    "lora.use_dora": False,
    "lora.use_rslora": False,
    "lora.init_lora_weights": True,
    "quantization.load_in_4bit": False,
    "quantization.load_in_8bit": False,
    "training.per_device_train_batch_size": 1,
    "training.gradient_accumulation_steps": 1,
    "training.max_grad_norm": 1.0,
    "training.packing": False,
    "training.padding_free": False,
    "training.use_liger_kernel": False,
    "training.prepare_for_kbit_training": False,
}


def recognise(document: Document) -> float:
    """Pipeline stages beside a LoRA rank."""
    data = document.data
    if not isinstance(data, dict) or "pipeline_stages" not in data:
        return 0.0
    return 0.97 if {"lora_rank", "micro_batch_size_per_gpu", "model_dir", "quantization"} & data.keys() else 0.0


def read(document: Document) -> Setup:
    """A qlora-pipe config → Setup."""
    lite = isinstance(document.data, dict) and "model_dir" in document.data
    reading = Reading(document, name, "qlora-pipe-lite" if lite else "qlora-pipe", traits=TRAITS, typed=False)
    reading.take(_FIELDS)
    if lite and not reading.has("lora_alpha") and reading.value("lora.r"):
        reading.put("lora.lora_alpha", reading.value("lora.r"), "lora_rank", "qlora-pipe-lite sets alpha to the rank.")
    if reading.get("use_control_adapters"):
        reading.remark("no-lora", "use_control_adapters", "Control adapters, one per layer, are no LoRA.")
    if isinstance(reading.get("quantization.hqq"), dict):
        reading.put("quantization.backend", "hqq", "quantization.hqq")
    if reading.value("quantization.load_in_4bit") and not lite:
        reading.default("quantization.bnb_4bit_quant_type", "nf4")
        reading.default("quantization.bnb_4bit_use_double_quant", False, "BitsAndBytesConfig's own default")
        reading.default("quantization.bnb_4bit_compute_dtype", "float32", "BitsAndBytesConfig's own default")
        reading.default("quantization.llm_int8_skip_modules", ["lm_head"])
    if not lite and not reading.has("activation_checkpointing"):
        reading.leave("training.gradient_checkpointing", why="activation_checkpointing has to be set.")
    if reading.get("full_fine_tune"):
        reading.remark("no-lora", "full_fine_tune", "full_fine_tune: true trains without LoRA.")
    reading.defaults(_DEFAULTS)
    reading.leave_rest("training", "lora", "quantization", why=_OWN_LOOP)
    reading.leave("model.attn_implementation", "model.use_cache", "model.device_map", "model.dtype", why=_OWN_LOOP)
    return reading.setup()

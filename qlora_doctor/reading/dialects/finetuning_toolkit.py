"""Georgian's LLM-finetuning-toolkit: ``llmtune``'s YAML; a list in place of a value asks for one run per element.

Defaults are those of llmtune 0.2.3, pydantic_models/config_model.py.
"""

from __future__ import annotations

from typing import Any

from ...setup.setup import Setup
from ...setup.traits import Traits
from ..document import Document
from .fields import Reading, Table
from .llamafactory import HF_ARGUMENTS
from .values import dtype, names, storage_dtype, switch, text

name = "llm-finetuning-toolkit"
TRAITS = Traits(data_key="data.path")
_VERSION = "llmtune 0.2.3"


_MODEL: Table = {
    "model.hf_model_ckpt": ("model.name_or_path", text),
    "model.torch_dtype": ("model.dtype", dtype),
    "model.attn_implementation": "model.attn_implementation",
    "model.device_map": "model.device_map",
    "model.bitsandbytes.load_in_8bit": ("quantization.load_in_8bit", switch),
    "model.bitsandbytes.bnb_4bit_quant_type": "quantization.bnb_4bit_quant_type",
    "model.bitsandbytes.bnb_4bit_use_double_quant": ("quantization.bnb_4bit_use_double_quant", switch),
    "model.bitsandbytes.bnb_4bit_compute_dtype": ("quantization.bnb_4bit_compute_dtype", dtype),
    "model.bitsandbytes.bnb_4bit_quant_storage": ("quantization.bnb_4bit_quant_storage", storage_dtype),
    "lora.r": "lora.r",
    "lora.lora_alpha": "lora.lora_alpha",
    "lora.lora_dropout": "lora.lora_dropout",
    "lora.bias": "lora.bias",
    "lora.task_type": "lora.task_type",
    "lora.target_modules": ("lora.target_modules", names),
    "lora.modules_to_save": "lora.modules_to_save",
    "lora.fan_in_fan_out": "lora.fan_in_fan_out",
    "lora.layers_to_transform": "lora.layers_to_transform",
    "training.sft_args.max_seq_length": "training.max_length",
    "training.sft_args.neftune_noise_alpha": "training.neftune_noise_alpha",
    "training.training_args.gradient_checkpointing": "training.gradient_checkpointing",
    "data.path": ("data.train", text),
}
_DEFAULTS: dict[str, Any] = {
    "lora.r": 8,
    "lora.lora_alpha": 16,
    "lora.lora_dropout": 0.1,
    "lora.bias": "none",
    "lora.task_type": "CAUSAL_LM",
    "lora.target_modules": "all-linear",
    "training.num_train_epochs": 1,
    "training.per_device_train_batch_size": 1,
    "training.gradient_accumulation_steps": 1,
    "training.gradient_checkpointing": True,
    "training.optim": "paged_adamw_32bit",
    "training.learning_rate": 2e-4,
    "training.bf16": False,
    "training.fp16": False,
    "training.max_grad_norm": 0.3,
    "training.warmup_ratio": 0.03,
    "training.lr_scheduler_type": "constant",
    "training.trainer": "trl",
    "training.method": "sft",
    "training.prepare_for_kbit_training": True,
}
_BNB: dict[str, Any] = {
    "quantization.bnb_4bit_quant_type": "nf4",
    "quantization.bnb_4bit_use_double_quant": True,
    "quantization.bnb_4bit_compute_dtype": "bfloat16",
}


def recognise(document: Document) -> float:
    """The toolkit's names of the model or of the prompt."""
    data = document.data
    if not isinstance(data, dict) or not isinstance(data.get("model"), dict):
        return 0.0
    section = data.get("data")
    own = ("hf_model_ckpt" in data["model"]) + (isinstance(section, dict) and "prompt_stub" in section)
    return 0.97 if own == 2 else 0.9 if own else 0.0


def read(document: Document) -> Setup:
    """An llmtune config → Setup."""
    reading = Reading(document, name, _VERSION, traits=TRAITS, typed=False)
    ablation = bool(reading.get("ablation.use_ablate"))
    if ablation:
        reading.remark("several-runs", "ablation.use_ablate", "Every list asks for one run per element.")
    reading.take(_MODEL)
    reading.take({f"training.training_args.{key}": row for key, row in HF_ARGUMENTS.items()})
    if (
        ablation
        and isinstance(reading.get("lora.target_modules"), list)
        and any(isinstance(target, list) for target in reading.get("lora.target_modules"))
    ):
        reading.forget("lora.target_modules", "One run per element of the list.", "lora.target_modules")
    quantized = bool(reading.get("model.quantize", False)) and bool(
        reading.get("model.bitsandbytes.load_in_4bit", True)
    )
    key = "model.bitsandbytes.load_in_4bit" if reading.get("model.quantize") else "model.quantize"
    reading.put("quantization.load_in_4bit", quantized, key)
    if quantized:
        reading.defaults(_BNB)
    reading.defaults(_DEFAULTS)
    if document.string_numbers:
        reading.remark("string-numbers-converted", None, "pydantic, with which llmtune reads, turns them into numbers.")
    return reading.setup()

"""LLaMA-Factory's second generation (``llamafactory-cli`` with USE_V1): flat, with one mapping per plugin.

Defaults are those of LLaMA-Factory 0.9.5, src/llamafactory/v1/config/ and v1/plugins/model_plugins/.
"""

from __future__ import annotations

from typing import Any

from ...setup.setup import Setup
from ...setup.traits import Traits
from ...tables.keys import key_list
from ..document import Document
from .fields import Reading, Table, Writing
from .values import dtype, name_list, names_or_all, switch, text

name = "llamafactory-v1"
TRAITS = Traits(lists_linear=True, data_key="train_dataset")

_FIELDS: Table = {
    "model": ("model.name_or_path", text),
    "trust_remote_code": "model.trust_remote_code",
    "peft_config.r": "lora.r",
    "peft_config.lora_alpha": "lora.lora_alpha",
    "peft_config.lora_dropout": "lora.lora_dropout",
    "peft_config.target_modules": ("lora.target_modules", names_or_all),
    "peft_config.modules_to_save": ("lora.modules_to_save", name_list),
    "peft_config.use_dora": "lora.use_dora",
    "peft_config.use_rslora": "lora.use_rslora",
    "quant_config.double_quantization": ("quantization.bnb_4bit_use_double_quant", switch),
    "quant_config.quantization_type": "quantization.bnb_4bit_quant_type",
    "quant_config.compute_dtype": ("quantization.bnb_4bit_compute_dtype", dtype),
    "micro_batch_size": "training.per_device_train_batch_size",
    "cutoff_len": "training.max_length",
    "learning_rate": "training.learning_rate",
    "max_steps": "training.max_steps",
    "num_train_epochs": "training.num_train_epochs",
    "max_grad_norm": "training.max_grad_norm",
    "bf16": "training.bf16",
    "enable_activation_checkpointing": "training.gradient_checkpointing",
    "seed": "training.seed",
    "output_dir": "training.output_dir",
    "train_dataset": ("data.train", text),
}
_DEFAULTS: dict[str, Any] = {
    "quantization.load_in_4bit": False,
    "quantization.load_in_8bit": False,
}


WRITINGS: dict[str, Writing] = {
    "quantization.load_in_4bit": lambda on, data: (
        {"quant_config.name": "bnb", "quant_config.quantization_bit": 4} if on else {"quant_config": None}
    ),
    "lora.target_modules": lambda value, data: {"peft_config.target_modules": "all"} if value == "all-linear" else {},
}


def recognise(document: Document) -> float:
    """``model`` is a text beside a train_dataset and one of the plugins' mappings."""
    data = document.data
    if not isinstance(data, dict) or not isinstance(data.get("model"), str) or "train_dataset" not in data:
        return 0.0
    return 0.97 if {"model_class", "peft_config", "dist_config", "kernel_config", "quant_config"} & data.keys() else 0.0


def read(document: Document) -> Setup:
    """A LLaMA-Factory v1 config → Setup."""
    known = key_list("llamafactory-v1")
    reading = Reading(document, name, f"LLaMA-Factory v1 {known.version}", traits=TRAITS, typed=False)
    reading.read_by_omegaconf()
    reading.take(_FIELDS)
    method, bits = str(reading.get("quant_config.name", "")), str(reading.get("quant_config.quantization_bit", ""))
    if method in ("bnb", "auto") and bits in ("4", "8"):
        reading.put("quantization.load_in_4bit", bits == "4", "quant_config.quantization_bit")
        reading.put("quantization.load_in_8bit", bits == "8", "quant_config.quantization_bit")
        if bits == "4":
            reading.default("quantization.bnb_4bit_quant_type", "nf4")
            reading.default("quantization.bnb_4bit_use_double_quant", True)
            reading.default("quantization.bnb_4bit_compute_dtype", "float16")
            computed = reading.value("quantization.bnb_4bit_compute_dtype")
            reading.default("quantization.bnb_4bit_quant_storage", computed, "the dtype that it computes in")
    elif method:
        reading.forget("quantization.load_in_4bit", f"quant_config.name: {method} decides.", "quant_config.name")
    kind = reading.get("peft_config.name")
    if kind != "lora":
        reading.remark("no-lora", "peft_config", f"peft_config.name is {kind}, not lora.")
    reading.defaults(_DEFAULTS)
    if str(reading.get("dist_config.name", "")) == "fsdp2":
        reading.put("training.fsdp", "full_shard", "dist_config.name")
        reading.put("training.fsdp_config", {"version": 2}, "dist_config.name")
    if document.string_numbers:
        reading.remark(
            "string-numbers-converted", None, "OmegaConf, with which LLaMA-Factory reads, takes them as numbers."
        )
    why = "LLaMA-Factory v1's own trainer decides."
    reading.leave_rest("training", "lora", "quantization", why=why)
    reading.leave("model.dtype", "model.attn_implementation", "model.use_cache", "model.device_map", why=why)
    reading.check_keys(known)
    return reading.setup()

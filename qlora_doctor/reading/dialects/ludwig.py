"""Ludwig: ``model_type: llm`` with input and output features, an adapter and a quantization section.

Defaults are those of Ludwig 0.17: schema/llms/{quantization,peft}.py, schema/trainer.py, models/llm.py.
"""

from __future__ import annotations

from typing import Any

from ...setup.setup import Setup
from ...setup.traits import Traits
from ..document import Document
from .fields import Reading, Table, Writing
from .values import dtype, names, switch, text

name = "ludwig"
TRAITS = Traits(own_loop="Ludwig", own_options=True)
_VERSION = "Ludwig 0.17"
_OWN_TRAINER = "Ludwig's own trainer trains; it has no such option."

_FIELDS: Table = {
    "base_model": ("model.name_or_path", text),
    "trust_remote_code": "model.trust_remote_code",
    "adapter.r": "lora.r",
    "adapter.alpha": "lora.lora_alpha",
    "adapter.dropout": "lora.lora_dropout",
    "adapter.bias_type": "lora.bias",
    "adapter.target_modules": ("lora.target_modules", names),
    "adapter.use_rslora": "lora.use_rslora",
    "adapter.use_dora": "lora.use_dora",
    "quantization.bnb_4bit_quant_type": "quantization.bnb_4bit_quant_type",
    "quantization.bnb_4bit_use_double_quant": ("quantization.bnb_4bit_use_double_quant", switch),
    "quantization.bnb_4bit_compute_dtype": ("quantization.bnb_4bit_compute_dtype", dtype),
    "trainer.batch_size": ("training.per_device_train_batch_size", lambda value: None if value == "auto" else value),
    "trainer.eval_batch_size": (
        "training.per_device_eval_batch_size",
        lambda value: None if value == "auto" else value,
    ),
    "trainer.gradient_accumulation_steps": (
        "training.gradient_accumulation_steps",
        lambda value: None if value == "auto" else value,
    ),
    "trainer.learning_rate": ("training.learning_rate", lambda value: None if value == "auto" else value),
    "trainer.epochs": "training.num_train_epochs",
    "trainer.learning_rate_scheduler.decay": ("training.lr_scheduler_type", text),
    "trainer.learning_rate_scheduler.warmup_fraction": "training.warmup_ratio",
    "trainer.optimizer.type": ("training.optim", text),
    "trainer.enable_gradient_checkpointing": "training.gradient_checkpointing",
    "preprocessing.global_max_sequence_length": "training.max_length",
}
_DEFAULTS: dict[str, Any] = {
    "lora.r": 8,
    "lora.lora_dropout": 0.05,
    "lora.bias": "none",
    "lora.task_type": "CAUSAL_LM",
    "lora.use_rslora": False,
    "lora.use_dora": False,
    "lora.init_lora_weights": True,
    "training.per_device_train_batch_size": 1,
    "training.per_device_eval_batch_size": 2,
    "training.learning_rate": 2e-4,
    "training.num_train_epochs": 3,
    "training.gradient_checkpointing": False,
    "training.packing": False,
    "training.padding_free": False,
    "training.use_liger_kernel": False,
    "training.method": "sft",
}


WRITINGS: dict[str, Writing] = {
    "quantization.load_in_4bit": lambda on, data: {"quantization.bits": 4} if on else {"quantization": None},
}


def recognise(document: Document) -> float:
    """Input and output features."""
    data = document.data
    if not isinstance(data, dict) or not {"input_features", "output_features"} <= data.keys():
        return 0.0
    return 0.98 if data.get("model_type") == "llm" or "base_model" in data else 0.9


def read(document: Document) -> Setup:
    """A Ludwig config → Setup."""
    reading = Reading(document, name, _VERSION, traits=TRAITS, typed=False)
    reading.take(_FIELDS)
    _quantization(reading)
    adapter = reading.get("adapter")
    kind = adapter.get("type") if isinstance(adapter, dict) else adapter
    if kind != "lora":
        reading.remark("no-lora", "adapter", f"The adapter is {kind}, not LoRA.")
    _refusals(reading, kind)
    rank = reading.value("lora.r") or 8
    reading.default("lora.lora_alpha", 2 * rank, "alpha is twice r")
    reading.defaults(_DEFAULTS)
    for field in ("batch_size", "gradient_accumulation_steps", "learning_rate"):
        if reading.get(f"trainer.{field}") == "auto":
            path = {"batch_size": "training.per_device_train_batch_size"}.get(field, f"training.{field}")
            reading.forget(path, "Ludwig finds it out when it trains: auto.", f"trainer.{field}")
    if document.string_numbers:
        reading.remark("string-numbers-converted", None, "Ludwig's schema turns such texts into numbers.")
    reading.leave_rest("training", why=_OWN_TRAINER)
    reading.leave("model.dtype", "model.attn_implementation", "model.use_cache", "model.device_map", why=_OWN_TRAINER)
    return reading.setup()


def _refusals(reading: Reading, kind: Any) -> None:
    """What config_validation/checks.py says of a quantized base that is fine-tuned."""
    if not isinstance(reading.get("quantization"), dict) or reading.get("trainer.type") != "finetune":
        return
    if kind != "lora":
        note = "Ludwig stops: a quantized base is fine-tuned with adapter type lora only."
        reading.refused("quantized-without-lora", "adapter", note, "quantization")
    merges = reading.get("adapter.postprocessor.merge_adapter_into_base_model")
    if merges and reading.get("quantization.bits", 4) == 4:
        note = "Ludwig stops: an adapter is not merged into a 4-bit base."
        reading.refused("merged-into-4bit", "adapter", note, "quantization")
    if reading.get("backend.type") == "ray" or reading.get("backend") == "ray":
        note = "Ludwig stops: a quantized base needs the local backend."
        reading.refused("quantized-on-ray", "backend", note, "distribution")


def _quantization(reading: Reading) -> None:
    """A quantization section stands for 4 bits where it does not say how many."""
    section = reading.get("quantization")
    if not isinstance(section, dict):
        reading.put("quantization.load_in_4bit", False)
        return
    bits = reading.get("quantization.bits", 4)
    key = "quantization.bits" if reading.has("quantization.bits") else "quantization"
    backend = str(reading.get("quantization.backend", "bitsandbytes"))
    reading.put("quantization.load_in_4bit", bits == 4 and backend == "bitsandbytes", key)
    reading.put("quantization.load_in_8bit", bits == 8 and backend == "bitsandbytes", key)
    if backend != "bitsandbytes":
        reading.put("quantization.backend", backend, "quantization.backend")
        return
    if bits == 4:
        reading.default("quantization.bnb_4bit_quant_type", "nf4")
        reading.default("quantization.bnb_4bit_use_double_quant", True)
        reading.default("quantization.bnb_4bit_compute_dtype", "float16")
        reading.default("quantization.bnb_4bit_quant_storage", "uint8")
    prepared = "it prepares with checkpointing off, which trainer.enable_gradient_checkpointing turns on"
    reading.default("training.prepare_for_kbit_training", True, prepared)

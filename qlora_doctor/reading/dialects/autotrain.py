"""AutoTrain: its YAML (task, base_model, params) and the training_params.json that it writes beside the adapter.

Defaults are those of autotrain-advanced at its last commit (January 2025): trainers/clm/params.py and clm/utils.py,
where the 4-bit options are written out: NF4, float16 to compute in whatever the precision, no double quantization.
"""

from __future__ import annotations

from typing import Any

from ...setup.setup import Setup
from ...setup.traits import Traits
from ...tables.keys import key_list
from ..document import Document
from .fields import Reading, Table
from .values import names, negated, positive, strategy, text, truthy

name = "autotrain"
TRAITS = Traits(data_key="data.path", forms=name)

IMPLIED_BY_FORM = frozenset({"task", "project_name"})
"""Keys that say what another dialect says by being what it is; a conversion does not carry them."""
_VERSION = "AutoTrain 0.8.37"

_PARAMS: Table = {
    "lora_r": "lora.r",
    "lora_alpha": "lora.lora_alpha",
    "lora_dropout": "lora.lora_dropout",
    "target_modules": ("lora.target_modules", names),
    "lr": "training.learning_rate",
    "epochs": "training.num_train_epochs",
    "batch_size": "training.per_device_train_batch_size",
    "gradient_accumulation": "training.gradient_accumulation_steps",
    "warmup_ratio": "training.warmup_ratio",
    "weight_decay": "training.weight_decay",
    "max_grad_norm": "training.max_grad_norm",
    "optimizer": "training.optim",
    "scheduler": "training.lr_scheduler_type",
    "seed": "training.seed",
    "block_size": ("training.max_length", positive),
    "eval_strategy": ("training.eval_strategy", strategy),
    "evaluation_strategy": ("training.eval_strategy", strategy),
    "disable_gradient_checkpointing": ("training.gradient_checkpointing", negated),
}
_DEFAULTS: dict[str, Any] = {
    "lora.r": 16,
    "lora.lora_alpha": 32,
    "lora.lora_dropout": 0.05,
    "lora.target_modules": "all-linear",
    "lora.bias": "none",
    "training.learning_rate": 3e-5,
    "training.num_train_epochs": 1,
    "training.per_device_train_batch_size": 2,
    "training.gradient_accumulation_steps": 4,
    "training.warmup_ratio": 0.1,
    "training.optim": "adamw_torch",
    "training.lr_scheduler_type": "linear",
    "training.max_grad_norm": 1.0,
    "training.weight_decay": 0.0,
    "training.gradient_checkpointing": True,
    "training.eval_strategy": "epoch",
    "training.seed": 42,
}


def recognise(document: Document) -> float:
    """A task with a base model and params; or the flat record with project_name, data_path and LoRA keys."""
    data = document.data
    if not isinstance(data, dict):
        return 0.0
    if isinstance(data.get("task"), str) and isinstance(data.get("base_model"), str):
        return 0.98 if {"params", "project_name"} & data.keys() else 0.0
    record = {"project_name", "data_path"} <= data.keys() and "lora_r" in data
    return 0.97 if record and {"quantization", "use_int4", "peft", "use_peft"} & data.keys() else 0.0


def read(document: Document) -> Setup:
    """An AutoTrain config or record → Setup."""
    reading = Reading(document, name, _VERSION, traits=TRAITS, typed=False)
    flat = "task" not in reading.data
    prefix = "" if flat else "params."
    reading.take({"model" if flat else "base_model": ("model.name_or_path", text)})
    reading.take({"data_path" if flat else "data.path": ("data.train", text)})
    reading.take(_PARAMS, prefix)
    _quantization(reading, prefix)
    _precision(reading, prefix)
    trainer = _trainer(reading, flat)
    if not flat and not trainer.startswith("llm"):
        reading.leave("lora.target_modules", why="Another trainer of AutoTrain than the one for text reads this task.")
    flag = "disable_gradient_checkpointing"
    on = not reading.get(prefix + flag, False)
    key = prefix + flag if reading.has(prefix + flag) else None
    bits = reading.value("quantization.load_in_4bit") or reading.value("quantization.load_in_8bit")
    if on:
        reading.put("training.gradient_checkpointing_kwargs", {"use_reentrant": bool(bits)}, key)
    if reading.get(prefix + "use_flash_attention_2"):
        reading.put("model.attn_implementation", "flash_attention_2", prefix + "use_flash_attention_2")
    batch = reading.value("training.per_device_train_batch_size") or _DEFAULTS["training.per_device_train_batch_size"]
    if trainer.startswith(("llm", "vlm")):
        reading.default("training.per_device_eval_batch_size", batch, "the batch size of training")
    else:
        reading.leave("training.per_device_eval_batch_size", why="Each of AutoTrain's trainers has its own.")
    if reading.get("data.valid_split", reading.get("valid_split")) is None:
        reading.default("training.eval_strategy", "no", "there is no valid_split")
    reading.defaults(_DEFAULTS)
    if not reading.knows("training.max_length"):
        reading.leave("training.max_length", why="Without block_size AutoTrain takes the tokenizer's own length.")
    if not flat and trainer.startswith("llm"):
        reading.check_keys(key_list("autotrain"), section="params")
    if document.string_numbers:
        reading.remark(
            "string-numbers-converted", None, "pydantic, with which AutoTrain reads, turns them into numbers."
        )
    return reading.setup()


def _quantization(reading: Reading, prefix: str) -> None:
    """int4 is the default, and it counts only with ``peft: true``."""
    peft = next((key for key in ("peft", "use_peft") if reading.has(prefix + key)), "peft")
    adapter = bool(reading.get(prefix + peft, False))
    if not adapter:
        note = "AutoTrain trains an adapter with peft: true only; without it the whole model is trained, unquantized."
        reading.remark("no-lora", prefix + peft if reading.written(prefix + peft) else None, note)
        asked = ("lora_r", "lora_alpha", "target_modules", "quantization", "use_int4")
        key = next((prefix + key for key in asked if reading.get(prefix + key)), None)
        if reading.written(prefix + peft):
            reading.remark("lora-switched-off", prefix + peft, note)
        elif key is not None:
            reading.remark("lora-not-switched-on", key, note)
    if reading.has(prefix + "use_int4") or reading.has(prefix + "use_int8"):
        four, eight = reading.get(prefix + "use_int4", False), reading.get(prefix + "use_int8", False)
        key, key8 = prefix + "use_int4", prefix + "use_int8"
    else:
        written = prefix + "quantization"
        word = reading.get(written, None if reading.written(written) else "int4")
        four, eight, key, key8 = word == "int4", word == "int8", written, written
    reading.put("quantization.load_in_4bit", bool(adapter and four), key)
    reading.put("quantization.load_in_8bit", bool(adapter and eight), key8)
    if adapter and four:
        written_out = "written out in AutoTrain's code"
        reading.put("quantization.bnb_4bit_quant_type", "nf4", None, written_out)
        reading.put(
            "quantization.bnb_4bit_compute_dtype",
            "float16",
            None,
            "written out in AutoTrain's code, whatever the precision",
        )
        reading.put("quantization.bnb_4bit_use_double_quant", False, None, written_out)
        reading.put("quantization.bnb_4bit_quant_storage", "uint8")
        reading.default("training.prepare_for_kbit_training", True)


def _precision(reading: Reading, prefix: str) -> None:
    written = reading.get(prefix + "mixed_precision")
    fp16, bf16 = reading.get(prefix + "fp16"), reading.get(prefix + "bf16")
    key = prefix + ("mixed_precision" if reading.has(prefix + "mixed_precision") else "fp16")
    reading.put("training.fp16", written == "fp16" or truthy(fp16), key)
    reading.put("training.bf16", written == "bf16" or truthy(bf16), key)


def _trainer(reading: Reading, flat: bool) -> str:
    task = f"llm-{reading.get('trainer', 'default')}" if flat else str(reading.get("task"))
    key = "trainer" if flat else "task"
    kind = task.partition("-")[2].partition(":")[0]
    if task.startswith("llm"):
        reading.put("training.trainer", "trl" if kind in ("sft", "dpo", "orpo", "reward") else "transformers", key)
        if kind:
            reading.put("training.method", "sft" if kind in ("default", "generic") else kind, key)
    return task

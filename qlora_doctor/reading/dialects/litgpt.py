"""LitGPT: the arguments of ``litgpt finetune_lora``, read by jsonargparse, which stops at unknown keys.

Defaults are those of litgpt 0.5.13, finetune/lora.py. With ``quantize`` it trains on a single device.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...setup.setup import Setup
from ...setup.traits import Traits
from ...tables.keys import key_list
from ..document import Document
from .fields import Reading, Table, Writing
from .values import chosen, positive, text

name = "litgpt"
TRAITS = Traits(own_loop="LitGPT", own_model=True, own_options=True, folders_only=True, data_key="data")

_PRECISION = chosen(
    {
        "bf16-true": "bfloat16",
        "bf16-mixed": "bfloat16",
        "16-true": "float16",
        "16-mixed": "float16",
        "32-true": "float32",
        "32": "float32",
    },
    "one of bf16-true, bf16-mixed, 16-true, 16-mixed, 32-true",
)
_FIELDS: Table = {
    "checkpoint_dir": ("model.name_or_path", text),
    "precision": ("model.dtype", _PRECISION),
    "lora_r": "lora.r",
    "lora_alpha": "lora.lora_alpha",
    "lora_dropout": "lora.lora_dropout",
    "train.micro_batch_size": "training.per_device_train_batch_size",
    "train.epochs": "training.num_train_epochs",
    "train.max_steps": "training.max_steps",
    "train.max_seq_length": ("training.max_length", positive),
    "train.lr_warmup_steps": "training.warmup_steps",
    "train.max_norm": "training.max_grad_norm",
    "optimizer.init_args.lr": "training.learning_rate",
    "optimizer.init_args.weight_decay": "training.weight_decay",
    "out_dir": "training.output_dir",
    "seed": "training.seed",
}
_DEFAULTS: dict[str, Any] = {
    "lora.r": 8,
    "lora.lora_alpha": 16,
    "lora.lora_dropout": 0.05,
    "lora.bias": "none",
    "lora.use_dora": False,
    "lora.use_rslora": False,
    "lora.init_lora_weights": True,
    "training.per_device_train_batch_size": 1,
    "training.packing": False,
    "training.padding_free": False,
    "training.use_liger_kernel": False,
    "training.prepare_for_kbit_training": False,
    "training.method": "sft",
    "quantization.load_in_4bit": False,
    "quantization.load_in_8bit": False,
}
_TARGETS = {"query": True, "key": False, "value": True, "projection": False, "mlp": False, "head": False}
"""The switches lora_query, … and their defaults."""


def _word(**changes: Any) -> Writing:
    """``quantize`` with one part of its word changed; the value stands for the part that is None."""

    def write(value: Any, data: Mapping[str, Any]) -> dict[str, Any]:
        kind, _, suffix = str(data.get("quantize") or "bnb.nf4").removeprefix("bnb.").partition("-")
        parts = {"kind": kind, "double": suffix == "dq"} | {k: value if v is None else v for k, v in changes.items()}
        return {"quantize": f"bnb.{parts['kind']}{'-dq' if parts['double'] else ''}"}

    return write


WRITINGS: dict[str, Writing] = {
    "quantization.load_in_4bit": lambda on, data: {"quantize": "bnb.nf4" if on else None},
    "quantization.bnb_4bit_quant_type": _word(kind=None),
    "quantization.bnb_4bit_use_double_quant": _word(double=None),
    "quantization.bnb_4bit_compute_dtype": lambda value, data: {
        "precision": {"bfloat16": "bf16-true", "float16": "16-true", "float32": "32-true"}.get(value)
    },
    "training.gradient_accumulation_steps": lambda steps, data: {
        "train.global_batch_size": steps
        * int(data.get("devices", 1))
        * int((data.get("train") or {}).get("micro_batch_size", 1))
    },
}
_OWN = {"lora_r", "lora_query", "lora_value", "quantize"}
_OWN_LOOP = "LitGPT's own loop trains; it has no such option."


def recognise(document: Document) -> float:
    """``checkpoint_dir`` with the LoRA or quantize keys and a section that only LitGPT has."""
    data = document.data
    if not isinstance(data, dict) or "checkpoint_dir" not in data:
        return 0.0
    return 0.98 if _OWN & data.keys() and {"train", "data", "precision"} & data.keys() else 0.0


def read(document: Document) -> Setup:
    """A LitGPT config → Setup."""
    known = key_list("litgpt")
    reading = Reading(document, name, f"LitGPT {known.version}", traits=TRAITS, typed=False)
    reading.take(_FIELDS)
    _quantization(reading)
    targets = [part for part, default in _TARGETS.items() if reading.get(f"lora_{part}", default)]
    written = [f"lora_{part}" for part in _TARGETS if reading.has(f"lora_{part}")]
    note = "LitGPT's own names: lora_query, lora_key, lora_value, lora_projection, lora_mlp, lora_head."
    reading.put("lora.target_modules", targets, written[0] if written else None, note)
    total, micro = (
        reading.get("train.global_batch_size", 16),
        reading.value("training.per_device_train_batch_size") or 1,
    )
    devices = reading.get("devices", 1)
    if all(isinstance(n, int) and n > 0 for n in (total, micro, devices)):
        steps = max(1, total // devices // micro)
        key = "train.global_batch_size" if reading.has("train.global_batch_size") else None
        reading.put(
            "training.gradient_accumulation_steps", steps, key, "global_batch_size / devices / micro_batch_size"
        )
        reading.put("hardware.count", devices, "devices")
    precision = reading.value("model.dtype")
    if precision is None:
        reading.leave("model.dtype", "training.bf16", "training.fp16", why="LitGPT picks the precision by the GPU.")
    else:
        reading.put("training.bf16", precision == "bfloat16", "precision")
        reading.put("training.fp16", precision == "float16", "precision")
    reading.default("training.gradient_checkpointing", False, "on one device it does not checkpoint")
    reading.take({"optimizer.class_path": ("training.optim", lambda value: str(value).rsplit(".", 1)[-1])})
    reading.take({"optimizer": ("training.optim", lambda value: value if isinstance(value, str) else None)})
    reading.take({"data.class_path": ("data.train", text)})
    reading.defaults(_DEFAULTS)
    if reading.has("quantize"):
        _refusals(reading)
    reading.leave_rest("training", "lora", "quantization", why=_OWN_LOOP)
    reading.leave("model.attn_implementation", "model.use_cache", "model.device_map", why=_OWN_LOOP)
    if document.string_numbers:
        reading.remark(
            "string-numbers-converted", None, "jsonargparse, with which LitGPT reads, turns them into numbers."
        )
    reading.check_keys(known, also=("config", "name", "prepare_data_path"))
    return reading.setup()


def _quantization(reading: Reading) -> None:
    """``quantize: bnb.nf4-dq``: backend, type and double quantization in one word."""
    word = str(reading.get("quantize", "")).lower()
    if not word or word == "none":
        return
    backend, _, kind = word.partition(".")
    reading.put("quantization.backend", "bitsandbytes" if backend == "bnb" else backend, "quantize")
    kind, _, suffix = kind.partition("-")
    if kind in ("nf4", "fp4"):
        reading.put("quantization.load_in_4bit", True, "quantize")
        reading.put("quantization.bnb_4bit_quant_type", kind, "quantize")
        reading.put("quantization.bnb_4bit_use_double_quant", suffix == "dq", "quantize")
        reading.put("quantization.bnb_4bit_quant_storage", "uint8")
        computed = reading.value("model.dtype")
        if computed is not None:
            reading.put("quantization.bnb_4bit_compute_dtype", computed, "precision")
    elif kind == "int8":
        reading.put("quantization.load_in_8bit", True, "quantize")


def _refusals(reading: Reading) -> None:
    if "mixed" in str(reading.get("precision")):
        reading.refused(
            "quantize-with-mixed-precision",
            "precision",
            "LitGPT stops: quantize needs a true precision such as bf16-true.",
        )
    devices = reading.get("devices", 1)
    nodes = reading.get("num_nodes", 1)
    if any(isinstance(number, int) and number > 1 for number in (devices, nodes)):
        note = "LitGPT stops: quantize goes with a single device only."
        reading.refused("quantize-with-several-devices", "devices", note, "distribution")

"""NeMo AutoModel: a recipe of components (``_target_: nemo_automodel.…``) with PEFT and quantization of its own.

Defaults are those of NeMo AutoModel 0.5: components/_peft/lora.py, components/quantization/qlora.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ...setup.setup import Setup
from ...setup.traits import Traits
from ..document import Document
from .fields import Reading, Table, Writing
from .values import dtype, name_list, storage_dtype, switch, text

name = "nemo-automodel"
TRAITS = Traits(own_loop="NeMo AutoModel", own_options=True, data_key="dataset")
_VERSION = "NeMo AutoModel 0.5"
_OWN_RECIPE = "NeMo AutoModel's own recipe trains; it has no such option."

_FIELDS: Table = {
    "model.pretrained_model_name_or_path": ("model.name_or_path", text),
    "model.torch_dtype": ("model.dtype", dtype),
    "model.attn_implementation": "model.attn_implementation",
    "model.trust_remote_code": "model.trust_remote_code",
    "peft.dim": "lora.r",
    "peft.alpha": "lora.lora_alpha",
    "peft.dropout": "lora.lora_dropout",
    "peft.use_dora": "lora.use_dora",
    "peft.exclude_modules": ("lora.exclude_modules", name_list),
    "quantization.load_in_4bit": ("quantization.load_in_4bit", switch),
    "quantization.load_in_8bit": ("quantization.load_in_8bit", switch),
    "quantization.bnb_4bit_quant_type": "quantization.bnb_4bit_quant_type",
    "quantization.bnb_4bit_use_double_quant": ("quantization.bnb_4bit_use_double_quant", switch),
    "quantization.bnb_4bit_compute_dtype": ("quantization.bnb_4bit_compute_dtype", dtype),
    "quantization.bnb_4bit_quant_storage": ("quantization.bnb_4bit_quant_storage", storage_dtype),
    "step_scheduler.local_batch_size": "training.per_device_train_batch_size",
    "step_scheduler.max_steps": "training.max_steps",
    "step_scheduler.num_epochs": "training.num_train_epochs",
    "optimizer.lr": "training.learning_rate",
    "optimizer.weight_decay": "training.weight_decay",
    "max_grad_norm.max_norm": "training.max_grad_norm",
    "rng.seed": "training.seed",
    "dataset.seq_length": "training.max_length",
    "dataset.dataset_name": ("data.train", text),
    "dataset.path_or_dataset": ("data.train", text),
    "distributed.activation_checkpointing": "training.gradient_checkpointing",
}
_DEFAULTS: dict[str, Any] = {
    "lora.r": 8,
    "lora.lora_alpha": 32,
    "lora.lora_dropout": 0.0,
    "lora.use_dora": False,
    "lora.use_rslora": False,
    "lora.bias": "none",
    "training.gradient_checkpointing": False,
    "training.prepare_for_kbit_training": False,
    "training.method": "sft",
}
_BNB: dict[str, Any] = {
    "quantization.bnb_4bit_quant_type": "nf4",
    "quantization.bnb_4bit_use_double_quant": True,
    "quantization.bnb_4bit_compute_dtype": "bfloat16",
    "quantization.bnb_4bit_quant_storage": "bfloat16",
}


def _modules(value: Any, data: Mapping[str, Any]) -> dict[str, Any]:
    if value == "all-linear":
        return {"peft.target_modules": None, "peft.match_all_linear": True}
    return {"peft.match_all_linear": None, "peft.target_modules": value}


WRITINGS: dict[str, Writing] = {"lora.target_modules": _modules}


def recognise(document: Document) -> float:
    """Some ``_target_`` is NeMo AutoModel's, or a recipe of it with a peft section."""
    data = document.data
    if not isinstance(data, dict):
        return 0.0
    if any("nemo_automodel" in target for target in _targets(data)) or "nemo_automodel" in str(data.get("recipe")):
        return 0.99
    is_recipe = isinstance(data.get("recipe"), str) and "step_scheduler" in data
    return 0.95 if is_recipe and {"peft", "quantization", "distributed"} & data.keys() else 0.0


def _targets(data: dict[str, Any]) -> Iterator[str]:
    for value in data.values():
        if isinstance(value, dict) and isinstance(value.get("_target_"), str):
            yield value["_target_"]


def read(document: Document) -> Setup:
    """A NeMo AutoModel recipe → Setup."""
    reading = Reading(document, name, _VERSION, traits=TRAITS, typed=False)
    reading.take(_FIELDS)
    reading.default("quantization.load_in_4bit", False)
    reading.default("quantization.load_in_8bit", False)
    if reading.value("quantization.load_in_4bit"):
        reading.defaults(_BNB)
    if not isinstance(reading.get("peft"), dict):
        reading.remark("no-lora", None, "Without a peft section the whole model is trained.")
    if reading.get("peft.match_all_linear"):
        reading.put("lora.target_modules", "all-linear", "peft.match_all_linear")
    elif reading.has("peft.target_modules"):
        _patterns(reading)
    _batches(reading)
    reading.take({"optimizer._target_": ("training.optim", lambda value: str(value).rsplit(".", 1)[-1])})
    size = reading.get("packed_sequence.packed_sequence_size")
    if isinstance(size, int):
        reading.put("training.packing", size > 0, "packed_sequence.packed_sequence_size")
    loaded = reading.value("model.dtype")
    if loaded not in (None, "auto"):
        reading.put("training.bf16", loaded == "bfloat16", "model.torch_dtype")
        reading.put("training.fp16", loaded == "float16", "model.torch_dtype")
    strategy = str(reading.get("distributed.strategy", ""))
    if strategy.startswith("fsdp"):
        reading.put("training.fsdp", "full_shard", "distributed.strategy")
        reading.put("training.fsdp_config", {"version": 2}, "distributed.strategy")
    reading.defaults(_DEFAULTS)
    if document.string_numbers:
        reading.remark("string-numbers-converted", None, "NeMo AutoModel's loader turns such texts into numbers.")
    reading.leave_rest("training", "lora", "quantization", why=_OWN_RECIPE)
    reading.leave("model.dtype", "model.attn_implementation", "model.use_cache", "model.device_map", why=_OWN_RECIPE)
    return reading.setup()


def _patterns(reading: Reading) -> None:
    """Targets are wildcards over full names (``*_proj``), a list or a comma list."""
    patterns = (
        name_list(reading.get("peft.target_modules"))
        if isinstance(reading.get("peft.target_modules"), list)
        else [part.strip() for part in str(reading.get("peft.target_modules")).split(",")]
    )
    note = "Wildcards over full names of modules."
    reading.put("lora.target_modules", patterns, "peft.target_modules", note)


def _batches(reading: Reading) -> None:
    """``global_batch_size`` counts the samples of a step over all GPUs, which the file need not say."""
    total, micro = reading.get("step_scheduler.global_batch_size"), reading.get("step_scheduler.local_batch_size")
    size = reading.get("distributed.dp_size")
    if isinstance(total, int) and isinstance(micro, int) and micro > 0:
        if isinstance(size, int) and size > 0:
            reading.put(
                "training.gradient_accumulation_steps",
                max(1, total // micro // size),
                "step_scheduler.global_batch_size",
            )
        else:
            why = "global_batch_size is divided by the number of GPUs, which the file does not say."
            reading.forget("training.gradient_accumulation_steps", why, "step_scheduler.global_batch_size")

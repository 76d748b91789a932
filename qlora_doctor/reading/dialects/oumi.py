"""oumi: nested sections read by OmegaConf into dataclasses; it stops at unknown keys.

Defaults are those of oumi 0.8: core/configs/params/{model,training,peft,data,fsdp,deepspeed}_params.py.
"""

from __future__ import annotations

from typing import Any

from ...setup.setup import Setup
from ...setup.traits import Traits
from ..document import Document
from .fields import Reading, Table, Writing
from .values import chosen, dtype, name_list, names, optimizer, storage_dtype, strategy, text

name = "oumi"
TRAITS = Traits(data_key="data.train.datasets", forms=name)
_VERSION = "oumi 0.8"

_FIELDS: Table = {
    "model.model_name": ("model.name_or_path", text),
    "model.model_revision": ("model.revision", text),
    "model.torch_dtype_str": ("model.dtype", dtype),
    "model.attn_implementation": "model.attn_implementation",
    "model.trust_remote_code": "model.trust_remote_code",
    "model.device_map": "model.device_map",
    "model.model_max_length": "training.max_length",
    "model.enable_liger_kernel": "training.use_liger_kernel",
    "peft.lora_r": "lora.r",
    "peft.lora_alpha": "lora.lora_alpha",
    "peft.lora_dropout": "lora.lora_dropout",
    "peft.lora_target_modules": ("lora.target_modules", names),
    "peft.lora_exclude_modules": ("lora.exclude_modules", names),
    "peft.lora_target_parameters": ("lora.target_parameters", name_list),
    "peft.lora_modules_to_save": ("lora.modules_to_save", name_list),
    "peft.lora_bias": "lora.bias",
    "peft.lora_task_type": "lora.task_type",
    "peft.bnb_4bit_quant_type": "quantization.bnb_4bit_quant_type",
    "peft.use_bnb_nested_quant": "quantization.bnb_4bit_use_double_quant",
    "peft.bnb_4bit_quant_storage": ("quantization.bnb_4bit_quant_storage", storage_dtype),
    "peft.bnb_4bit_compute_dtype": ("quantization.bnb_4bit_compute_dtype", dtype),
    "peft.llm_int8_skip_modules": ("quantization.llm_int8_skip_modules", name_list),
    "training.per_device_train_batch_size": "training.per_device_train_batch_size",
    "training.per_device_eval_batch_size": "training.per_device_eval_batch_size",
    "training.gradient_accumulation_steps": "training.gradient_accumulation_steps",
    "training.learning_rate": "training.learning_rate",
    "training.weight_decay": "training.weight_decay",
    "training.max_grad_norm": "training.max_grad_norm",
    "training.max_steps": "training.max_steps",
    "training.num_train_epochs": "training.num_train_epochs",
    "training.lr_scheduler_type": "training.lr_scheduler_type",
    "training.warmup_ratio": "training.warmup_ratio",
    "training.warmup_steps": "training.warmup_steps",
    "training.optimizer": ("training.optim", optimizer),
    "training.enable_gradient_checkpointing": "training.gradient_checkpointing",
    "training.gradient_checkpointing_kwargs": "training.gradient_checkpointing_kwargs",
    "training.eval_strategy": ("training.eval_strategy", strategy),
    "training.seed": "training.seed",
    "training.data_seed": "training.data_seed",
    "training.full_determinism": "training.full_determinism",
    "training.compile": "training.torch_compile",
    "training.ddp_find_unused_parameters": "training.ddp_find_unused_parameters",
    "training.logging_steps": "training.logging_steps",
    "training.output_dir": "training.output_dir",
    "data.train.pack": "training.packing",
}
_DEFAULTS: dict[str, Any] = {
    "model.dtype": "auto",
    "model.trust_remote_code": False,
    "lora.r": 8,
    "lora.lora_alpha": 8,
    "lora.lora_dropout": 0.0,
    "lora.bias": "none",
    "lora.task_type": "CAUSAL_LM",
    "training.per_device_train_batch_size": 8,
    "training.gradient_accumulation_steps": 1,
    "training.learning_rate": 5e-5,
    "training.lr_scheduler_type": "linear",
    "training.num_train_epochs": 3,
    "training.optim": "adamw_torch",
    "training.weight_decay": 0.0,
    "training.max_grad_norm": 1.0,
    "training.gradient_checkpointing": False,
    "training.packing": False,
    "training.eval_strategy": "no",
    "training.bf16": False,
    "training.fp16": False,
}
_BNB: dict[str, Any] = {
    "quantization.bnb_4bit_quant_type": "fp4",
    "quantization.bnb_4bit_use_double_quant": False,
    "quantization.bnb_4bit_compute_dtype": "float32",
    "quantization.bnb_4bit_quant_storage": "uint8",
}


def _mixed(word: str) -> Writing:
    return lambda on, data: {"training.mixed_precision_dtype": word if on else None}


WRITINGS: dict[str, Writing] = {
    # oumi's schema takes a list, and PEFT knows all-linear as a text only: it cannot be written.
    "lora.target_modules": lambda value, data: {"peft.lora_target_modules": None} if value == "all-linear" else {},
    "training.bf16": _mixed("BF16"),
    "training.fp16": _mixed("FP16"),
    "lora.init_lora_weights": lambda value, data: {
        "peft.lora_init_weights": {True: "default", False: "random"}.get(value, value)
    },
}


def recognise(document: Document) -> float:
    """``model.model_name`` with oumi's own keys of training, data or peft."""
    data = document.data
    model = data.get("model") if isinstance(data, dict) else None
    if not isinstance(model, dict) or "model_name" not in model:
        return 0.0
    training, peft = data.get("training"), data.get("peft")
    if isinstance(training, dict) and {"trainer_type", "use_peft", "enable_gradient_checkpointing"} & training.keys():
        return 0.98
    own = {"torch_dtype_str", "model_max_length", "load_pretrained_weights"} & model.keys()
    return 0.9 if own and isinstance(peft, dict) and "q_lora" in peft else 0.0


def read(document: Document) -> Setup:
    """An oumi config → Setup."""
    reading = Reading(document, name, _VERSION, traits=TRAITS)
    reading.read_by_omegaconf()
    reading.take(_FIELDS)
    reading.take({"training.trainer_type": ("training.trainer", _TRAINER)})
    reading.take({"training.trainer_type": ("training.method", _METHOD)})
    precision = str(reading.get("training.mixed_precision_dtype", "none")).lower()
    reading.put("training.bf16", precision == "bf16", "training.mixed_precision_dtype")
    reading.put("training.fp16", precision == "fp16", "training.mixed_precision_dtype")
    quantized = bool(reading.get("peft.q_lora") and reading.get("training.use_peft"))
    bits = str(reading.get("peft.q_lora_bits", 4))
    reading.put("quantization.load_in_4bit", quantized and bits == "4", "peft.q_lora")
    reading.put("quantization.load_in_8bit", quantized and bits == "8", "peft.q_lora")
    if quantized:
        reading.defaults(_BNB)
    explicit = reading.written("training.use_peft")
    if not reading.get("training.use_peft"):
        reading.remark("no-lora", "training.use_peft" if explicit else None, _NO_PEFT)
    if not reading.get("training.use_peft") and reading.get("peft"):
        key = "training.use_peft" if explicit else "peft"
        reading.remark("lora-switched-off" if explicit else "lora-not-switched-on", key, _NO_PEFT)
    _adapter(reading)
    initial = reading.get("peft.lora_init_weights")
    if initial is not None:
        value = {"default": True, "random": False}.get(str(initial).lower(), str(initial).lower())
        reading.put("lora.init_lora_weights", value, "peft.lora_init_weights")
    reading.default("training.trainer", "transformers")
    reading.defaults(_DEFAULTS)
    if isinstance(reading.get("data.train.datasets"), list):
        reading.take({"data.train.datasets.0.dataset_path": ("data.train", text)})
        reading.take({"data.train.datasets.0.dataset_name": ("data.train", text)})
    _distribution(reading)
    if reading.get("fsdp.enable_fsdp") and quantized:
        _sharded(reading)
    if document.string_numbers:
        reading.remark("string-numbers-converted", None, "OmegaConf, with which oumi reads, takes them as numbers.")
    return reading.setup()


def _adapter(reading: Reading) -> None:
    """``adapter_model`` is loaded for inference; with ``use_peft`` a new LoRA of the same name is put in its place.

    Source: oumi 0.8, builders/models.py (build_huggingface_model, build_peft_model) and train.py.
    """
    if not reading.get("training.use_peft"):
        reading.take({"model.adapter_model": "model.adapter"})
    elif reading.has("model.adapter_model"):
        note = (
            "oumi loads adapter_model, and get_peft_model then starts a new LoRA of the same name in its place, "
            "so that what was trained before is lost."
        )
        reading.remark("attached-twice", "model.adapter_model", note)


def _sharded(reading: Reading) -> None:
    """QLoRA under FSDP: all that preparation casts to float32 is cast back to the dtype of storage."""
    note = "under FSDP it casts every module back to bnb_4bit_quant_storage"
    reading.default("training.prepare_for_kbit_training", False, note)
    stored, loaded = reading.value("quantization.bnb_4bit_quant_storage"), reading.value("model.dtype")
    if loaded is not None and stored is not None and loaded != stored:
        note = "oumi stops: under FSDP with q_lora bnb_4bit_quant_storage and torch_dtype_str must be the same dtype."
        key = "peft.bnb_4bit_quant_storage"
        reading.refused("storage-against-dtype", key if reading.has(key) else "peft.q_lora", note, "distribution")


_NO_PEFT = "oumi reads the peft section with training.use_peft: true only; without it the whole model is trained."

_TRAINER = chosen(
    {"trl_sft": "trl", "trl_dpo": "trl", "trl_kto": "trl", "trl_grpo": "trl", "trl_gkd": "trl", "trl_gold": "trl",
     "hf": "transformers", "oumi": None, "verl_grpo": None, "hf_trainer": "transformers"},
    "a trainer that oumi knows",
)  # fmt: skip
_METHOD = chosen(
    {"trl_sft": "sft", "trl_dpo": "dpo", "trl_kto": "kto", "trl_grpo": "grpo", "trl_gkd": "gkd", "trl_gold": "gold",
     "hf": None, "oumi": None, "verl_grpo": "grpo", "hf_trainer": None},
    "a trainer that oumi knows",
)  # fmt: skip


def _distribution(reading: Reading) -> None:
    if reading.get("fsdp.enable_fsdp"):
        sharding = str(reading.get("fsdp.sharding_strategy", "FULL_SHARD")).lower()
        reading.put("training.fsdp", sharding, "fsdp.enable_fsdp")
        reading.put("training.fsdp_config", {"version": 1}, "fsdp", "oumi shards by accelerate's FSDP 1")
    if reading.get("deepspeed.enable_deepspeed"):
        stage = str(reading.get("deepspeed.zero_stage", "0"))[-1:]
        settings = {"zero_optimization": {"stage": int(stage) if stage.isdigit() else 0}}
        reading.put("training.deepspeed", settings, "deepspeed.enable_deepspeed")

"""H2O LLM Studio: the YAML of an experiment, a section per concern.

Defaults are those of H2O LLM Studio 1.14: python_configs/text_causal_language_modeling_config.py and
src/utils/modeling_utils.py, where int4 is NF4 with float16 to compute in, whatever mixed_precision_dtype says.
"""

from __future__ import annotations

from typing import Any

from ...setup.setup import Setup
from ...setup.traits import Traits
from ..document import Document
from .fields import Reading, Table
from .values import chosen, name_list, positive, switch, text

name = "h2o-llmstudio"
TRAITS = Traits(own_loop="H2O LLM Studio", own_options=True, lists_linear=True, data_key="dataset.train_dataframe")
_VERSION = "H2O LLM Studio 1.14"
_OWN_TRAINER = "H2O LLM Studio's own loop trains; it has no such option."

_FIELDS: Table = {
    "llm_backbone": ("model.name_or_path", text),
    "environment.huggingface_branch": ("model.revision", text),
    "environment.trust_remote_code": "model.trust_remote_code",
    "training.lora_r": "lora.r",
    "training.lora_alpha": "lora.lora_alpha",
    "training.lora_dropout": "lora.lora_dropout",
    "training.use_dora": "lora.use_dora",
    "training.use_rslora": "lora.use_rslora",
    "training.lora_target_modules": ("lora.target_modules", lambda value: name_list(value) or None),
    "training.batch_size": "training.per_device_train_batch_size",
    "training.grad_accumulation": "training.gradient_accumulation_steps",
    "training.learning_rate": "training.learning_rate",
    "training.weight_decay": "training.weight_decay",
    "training.gradient_clip": "training.max_grad_norm",
    "training.epochs": "training.num_train_epochs",
    "training.optimizer": ("training.optim", text),
    "training.schedule": ("training.lr_scheduler_type", text),
    "tokenizer.max_length": "training.max_length",
    "architecture.gradient_checkpointing": ("training.gradient_checkpointing", switch),
    "augmentation.neftune_noise_alpha": "training.neftune_noise_alpha",
    "environment.seed": ("training.seed", positive),
    "output_directory": ("training.output_dir", text),
    "dataset.train_dataframe": ("data.train", text),
}
_DEFAULTS: dict[str, Any] = {
    "lora.r": 4,
    "lora.lora_alpha": 16,
    "lora.lora_dropout": 0.05,
    "lora.bias": "none",
    "lora.use_dora": False,
    "lora.use_rslora": False,
    "lora.init_lora_weights": True,
    "model.trust_remote_code": True,
    "training.per_device_train_batch_size": 2,
    "training.gradient_accumulation_steps": 1,
    "training.learning_rate": 1e-4,
    "training.weight_decay": 0.0,
    "training.max_grad_norm": 0.0,
    "training.num_train_epochs": 1,
    "training.max_length": 512,
    "training.gradient_checkpointing": True,
    "training.neftune_noise_alpha": 0.0,
    "training.optim": "AdamW",
    "training.packing": False,
    "training.padding_free": False,
    "training.use_liger_kernel": False,
    "training.prepare_for_kbit_training": False,
}
_BACKBONE = chosen(
    {"int4": "int4", "int8": "int8", "float16": "float16", "bfloat16": "bfloat16", "float32": "float32"},
    "one of int4, int8, float16, bfloat16, float32",
)


def recognise(document: Document) -> float:
    """``llm_backbone`` or the dtype of the backbone."""
    data = document.data
    if not isinstance(data, dict):
        return 0.0
    architecture = data.get("architecture")
    if isinstance(architecture, dict) and "backbone_dtype" in architecture:
        return 0.99
    return 0.96 if "llm_backbone" in data else 0.0


def read(document: Document) -> Setup:
    """An H2O LLM Studio experiment → Setup."""
    reading = Reading(document, name, _VERSION, traits=TRAITS, typed=False)
    reading.take(_FIELDS)
    _quantization(reading)
    mixed = reading.get("environment.mixed_precision", True)
    kind = str(reading.get("environment.mixed_precision_dtype", "bfloat16"))
    key = (
        "environment.mixed_precision_dtype"
        if reading.has("environment.mixed_precision_dtype")
        else "environment.mixed_precision"
    )
    reading.put("training.bf16", bool(mixed) and kind == "bfloat16", key)
    reading.put("training.fp16", bool(mixed) and kind == "float16", key)
    if reading.get("training.lora") is False:
        kind = "lora-switched-off" if _is_quantized(reading) else "no-lora"
        reading.remark(kind, "training.lora", "training.lora: false trains the whole model.")
    if not reading.knows("lora.target_modules"):
        reading.put(
            "lora.target_modules",
            "all-linear",
            "training.lora_target_modules",
            "Empty: every linear layer but the head.",
        )
    attention = reading.get("training.attention_implementation")
    if attention not in (None, "auto"):
        reading.put("model.attn_implementation", str(attention), "training.attention_implementation")
    reading.defaults(_DEFAULTS)
    gpus = reading.get("environment.gpus")
    if isinstance(gpus, list) and gpus:
        reading.put("hardware.count", len(gpus), "environment.gpus")
    if reading.get("environment.use_deepspeed"):
        stage = str(reading.get("environment.deepspeed_method", "ZeRO2"))[-1:]
        if stage.isdigit():
            reading.put("training.deepspeed", {"zero_optimization": {"stage": int(stage)}}, "environment.use_deepspeed")
        if _is_quantized(reading):
            note = "H2O LLM Studio stops: DeepSpeed does not go with int4 or int8."
            reading.refused("quantized-with-deepspeed", "environment.use_deepspeed", note, "distribution")
    if _is_quantized(reading) and reading.get("architecture.pretrained") is False:
        note = "H2O LLM Studio stops: int4 and int8 need architecture.pretrained: true."
        reading.refused("quantized-without-weights", "architecture.pretrained", note, "quantization")
    if document.string_numbers:
        reading.remark("string-numbers-converted", None, "H2O LLM Studio turns such texts into the type of the field.")
    problem = str(reading.get("problem_type", ""))
    if problem:
        method = {"text_causal_language_modeling": "sft", "text_dpo_modeling": "dpo"}.get(problem, problem)
        reading.put("training.method", method, "problem_type")
    reading.leave_rest("training", why=_OWN_TRAINER)
    reading.leave("model.attn_implementation", "model.use_cache", "model.device_map", why=_OWN_TRAINER)
    return reading.setup()


def _is_quantized(reading: Reading) -> bool:
    return bool(reading.value("quantization.load_in_4bit") or reading.value("quantization.load_in_8bit"))


def _quantization(reading: Reading) -> None:
    reading.take(
        {"architecture.backbone_dtype": ("quantization.backend", lambda value: _BACKBONE(value) and "bitsandbytes")}
    )
    kind = str(reading.get("architecture.backbone_dtype", "int4"))
    key = "architecture.backbone_dtype"
    reading.put("quantization.load_in_4bit", kind == "int4", key)
    reading.put("quantization.load_in_8bit", kind == "int8", key)
    reading.put("model.dtype", "float16" if kind in ("int4", "int8") else kind, key)
    if kind == "int4":
        note = "written out in H2O LLM Studio's code, whatever mixed_precision_dtype says"
        reading.put("quantization.bnb_4bit_compute_dtype", "float16", None, note)
        reading.put("quantization.bnb_4bit_quant_type", "nf4", None, "written out in H2O LLM Studio's code")
        reading.put("quantization.bnb_4bit_use_double_quant", False)
        reading.put("quantization.bnb_4bit_quant_storage", "uint8")

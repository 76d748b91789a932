"""Training scripts of public projects that users start from a shell: their arguments and defaults.

Facts are from artidoro/qlora (qlora.py at 7f4e95a), huggingface/peft (train.py and utils.py of examples/sft at 5d602fd)
and AnswerDotAI/fsdp_qlora (train.py at 05ed9f2).
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from ...setup.setup import Setup
from ...setup.traits import Traits
from ..document import Document
from .fields import Reading, Table
from .llamafactory import HF_ARGUMENTS
from .values import chosen, dtype, name_list, names, positive, storage_dtype, switch, text

_OF_PEFT = Traits(hands_base_to_trl=True)
_OF_QLORA = Traits(lists_linear=True)

_QLORA: Table = {
    **HF_ARGUMENTS,
    "model_name_or_path": ("model.name_or_path", text),
    "trust_remote_code": ("model.trust_remote_code", switch),
    "lora_r": "lora.r",
    "lora_alpha": "lora.lora_alpha",
    "lora_dropout": "lora.lora_dropout",
    "double_quant": ("quantization.bnb_4bit_use_double_quant", switch),
    "quant_type": "quantization.bnb_4bit_quant_type",
    "gradient_checkpointing": ("training.gradient_checkpointing", switch),
    "max_steps": ("training.max_steps", positive),
    "dataset": ("data.train", text),
}
_QLORA_DEFAULTS: dict[str, Any] = {
    "model.name_or_path": "EleutherAI/pythia-12b",
    "lora.r": 64,
    "lora.lora_alpha": 16,
    "lora.lora_dropout": 0.0,
    "lora.bias": "none",
    "lora.task_type": "CAUSAL_LM",
    "lora.target_modules": "all-linear",
    "quantization.bnb_4bit_use_double_quant": True,
    "quantization.bnb_4bit_quant_type": "nf4",
    "training.optim": "paged_adamw_32bit",
    "training.per_device_train_batch_size": 1,
    "training.gradient_accumulation_steps": 16,
    "training.max_steps": 10000,
    "training.weight_decay": 0.0,
    "training.learning_rate": 2e-4,
    "training.max_grad_norm": 0.3,
    "training.gradient_checkpointing": True,
    "training.lr_scheduler_type": "constant",
    "training.warmup_ratio": 0.03,
    "training.group_by_length": True,
    "training.bf16": False,
    "training.fp16": False,
    "training.trainer": "transformers",
    "training.method": "sft",
    "training.prepare_for_kbit_training": True,
}

_PEFT_SFT: Table = {
    **HF_ARGUMENTS,
    "model_name_or_path": ("model.name_or_path", text),
    "lora_r": "lora.r",
    "lora_alpha": "lora.lora_alpha",
    "lora_dropout": "lora.lora_dropout",
    "lora_target_modules": ("lora.target_modules", names),
    "use_4bit_quantization": ("quantization.load_in_4bit", switch),
    "use_8bit_quantization": ("quantization.load_in_8bit", switch),
    "bnb_4bit_quant_type": "quantization.bnb_4bit_quant_type",
    "bnb_4bit_compute_dtype": ("quantization.bnb_4bit_compute_dtype", dtype),
    "bnb_4bit_quant_storage_dtype": ("quantization.bnb_4bit_quant_storage", storage_dtype),
    "use_nested_quant": ("quantization.bnb_4bit_use_double_quant", switch),
    "gradient_checkpointing": ("training.gradient_checkpointing", switch),
    "max_length": "training.max_length",
    "max_seq_length": "training.max_length",
    "packing": ("training.packing", switch),
    "dataset_text_field": "training.dataset_text_field",
}
_PEFT_SFT_DEFAULTS: dict[str, Any] = {
    "lora.r": 64,
    "lora.lora_alpha": 16,
    "lora.lora_dropout": 0.1,
    "lora.target_modules": ["q_proj", "k_proj", "v_proj", "o_proj", "down_proj", "up_proj", "gate_proj"],
    "lora.bias": "none",
    "lora.task_type": "CAUSAL_LM",
    "quantization.load_in_4bit": False,
    "quantization.load_in_8bit": False,
    "quantization.bnb_4bit_quant_type": "nf4",
    "quantization.bnb_4bit_compute_dtype": "float16",
    "quantization.bnb_4bit_quant_storage": "uint8",
    "quantization.bnb_4bit_use_double_quant": False,
    "model.trust_remote_code": True,
    "training.trainer": "trl",
    "training.method": "sft",
}

_FSDP_QLORA: Table = {
    "model_name": ("model.name_or_path", text),
    "batch_size": "training.per_device_train_batch_size",
    "context_length": "training.max_length",
    "gradient_accumulation_steps": "training.gradient_accumulation_steps",
    "num_epochs": "training.num_train_epochs",
    "lora_rank": "lora.r",
    "lora_alpha": "lora.lora_alpha",
    "lora_dropout": "lora.lora_dropout",
    "use_gradient_checkpointing": ("training.gradient_checkpointing", switch),
    "lr": "training.learning_rate",
    "wd": "training.weight_decay",
    "grad_norm": "training.max_grad_norm",
    "lr_scheduler": "training.lr_scheduler_type",
    "optimizer": "training.optim",
    "output_dir": "training.output_dir",
    "seed": "training.seed",
    "world_size": ("hardware.count", positive),
}
_FSDP_QLORA_DEFAULTS: dict[str, Any] = {
    "model.name_or_path": "meta-llama/Llama-2-7b-hf",
    "model.use_cache": False,
    "lora.r": 64,
    "lora.lora_alpha": 16,
    "lora.lora_dropout": 0.1,
    "lora.bias": "none",
    "lora.task_type": "CAUSAL_LM",
    "training.per_device_train_batch_size": 1,
    "training.gradient_accumulation_steps": 1,
    "training.max_length": 512,
    "training.num_train_epochs": 1,
    "training.learning_rate": 1e-5,
    "training.weight_decay": 0.1,
    "training.max_grad_norm": 0.3,
    "training.lr_scheduler_type": "constant",
    "training.optim": "adamw",
    "training.gradient_checkpointing": True,
    "training.method": "sft",
    "training.prepare_for_kbit_training": False,
    "training.eval_strategy": "no",
    "training.packing": False,
}
_FSDP_TARGETS = ["k_proj", "q_proj", "v_proj", "up_proj", "down_proj", "gate_proj"]
_PRECISIONS = {
    "fp32": ("float32", "float16"),
    "bf16": ("bfloat16", "bfloat16"),
    "fp16_autocast": ("float32", "float16"),
    "bf16_autocast": ("float32", "bfloat16"),
    "bf16_buffers_autocast": ("bfloat16", "bfloat16"),
}
"""``--precision`` → (dtype of the model and of the packed weights, compute dtype)."""
_OWN_LOOP = "fsdp_qlora trains in a loop of its own; it has no such option."


def recognise(script: str, keys: Collection[str]) -> tuple[str, float, Callable[[Document], Setup]] | None:
    """(name, how sure, reader) of the project whose script this is, by its name and its arguments."""
    keys = set(keys)
    if {"use_4bit_quantization", "use_peft_lora"} & keys and "model_name_or_path" in keys:
        return "peft-sft", 0.95, _read_peft_sft
    own = {"bits", "double_quant", "quant_type", "source_max_len", "lora_modules", "full_finetune"} & keys
    if "model_name_or_path" in keys and ((script == "qlora" and {"lora_r", *own} & keys) or len(own) >= 3):
        return "qlora-artidoro", 0.95, _read_qlora
    if "train_type" in keys and len({"context_length", "precision", "use_cpu_offload", "log_to"} & keys) >= 2:
        return "fsdp-qlora", 0.95, _read_fsdp_qlora
    return None


def _read_qlora(document: Document) -> Setup:
    """qlora.py quantizes where ``--bits`` is 4, its default, and targets every linear layer but the head."""
    reading = Reading(document, "qlora-artidoro", "artidoro/qlora", traits=_OF_QLORA, typed=False)
    reading.take(_QLORA)
    full = reading.get("full_finetune", False)
    bits = reading.get("bits", 4)
    reading.put("quantization.load_in_4bit", bits == 4, "bits")
    reading.put("quantization.load_in_8bit", bits == 8, "bits")
    if full:
        reading.remark("no-lora", "full_finetune", "full_finetune trains all weights without LoRA.")
    half = "float16" if reading.get("fp16") else "bfloat16" if reading.get("bf16") else "float32"
    key = "fp16" if reading.get("fp16") else "bf16" if reading.get("bf16") else None
    reading.put("quantization.bnb_4bit_compute_dtype", half, key, "qlora.py computes in fp16 or bf16 as it trains.")
    reading.put("model.dtype", "float32" if half == "float16" else half, key)
    reading.default("model.device_map", "auto")
    lengths = [reading.get("source_max_len", 1024), reading.get("target_max_len", 256)]
    if all(isinstance(length, int) for length in lengths):
        key = "target_max_len" if reading.has("target_max_len") else "source_max_len"
        reading.put("training.max_length", sum(lengths), key, "source_max_len + target_max_len")
    if key is not None and half == "bfloat16":
        reading.default("lora.autocast_adapter_dtype", False, "it casts the adapter to bfloat16")
    reading.defaults(_QLORA_DEFAULTS)
    return reading.setup()


def _read_peft_sft(document: Document) -> Setup:
    """PEFT's SFT example hands what it quantized itself to TRL's SFTTrainer."""
    reading = Reading(document, "peft-sft", "PEFT's examples/sft", traits=_OF_PEFT, typed=False, plain_data=True)
    reading.take(_PEFT_SFT)
    reading.take({"lora_modules_to_save": ("lora.modules_to_save", name_list)})
    reading.defaults(_PEFT_SFT_DEFAULTS)
    if not reading.get("use_peft_lora"):
        key = "use_peft_lora" if reading.written("use_peft_lora") else None
        reading.remark("lora-switched-off", key, "The example adds an adapter with --use_peft_lora True only.")
    if reading.get("use_flash_attn"):
        reading.put("model.attn_implementation", "flash_attention_2", "use_flash_attn")
    storage = reading.value("quantization.bnb_4bit_quant_storage")
    if reading.value("quantization.load_in_4bit") and storage not in (None, "uint8", "int8"):
        reading.put("model.dtype", storage, "bnb_4bit_quant_storage_dtype", "it loads in the storage dtype")
    else:
        reading.default("model.dtype", "float32", "it loads in float32 unless the storage dtype is a float")
    if reading.value("training.gradient_checkpointing"):
        key = "use_reentrant" if reading.has("use_reentrant") else None
        kwargs = {"use_reentrant": bool(reading.get("use_reentrant", False))}
        reading.put("training.gradient_checkpointing_kwargs", kwargs, key)
    return reading.setup()


def _read_fsdp_qlora(document: Document) -> Setup:
    """fsdp_qlora replaces the linear layers by Linear4bit itself, packed in the dtype that FSDP shards."""
    reading = Reading(document, "fsdp-qlora", "fsdp_qlora", typed=False)
    reading.take(_FSDP_QLORA)
    kind = str(reading.get("train_type", "qlora"))
    four = kind in ("qlora", "custom_qlora", "hf_qlora", "bnb_dora", "bnb_llama_pro")
    if "hqq" in kind:
        reading.put("quantization.backend", "hqq", "train_type")
    reading.put("quantization.load_in_4bit", four, "train_type")
    reading.put("quantization.load_in_8bit", False)
    if kind in ("full", "bnb_llama_pro", "hqq_llama_pro"):
        reading.remark("no-lora", "train_type", f"train_type {kind} trains without LoRA.")
    if kind.endswith("_dora"):
        reading.put("lora.use_dora", True, "train_type")
    precision = _PRECISIONS.get(str(reading.get("precision", "bf16")))
    if precision is not None:
        key = "precision" if reading.has("precision") else None
        reading.put("model.dtype", precision[0], key)
        reading.put("training.bf16", precision[1] == "bfloat16", key)
        reading.put("training.fp16", precision[1] == "float16", key)
        if four:
            reading.put("quantization.bnb_4bit_compute_dtype", precision[1], key)
            reading.put("quantization.bnb_4bit_quant_storage", precision[0], key)
    if four:
        reading.defaults({"quantization.bnb_4bit_quant_type": "nf4", "quantization.bnb_4bit_use_double_quant": True})
    if reading.get("lora_target_modules", "all") == "all":
        reading.put("lora.target_modules", _FSDP_TARGETS, "lora_target_modules")
    sharding = chosen({"ddp": None, **dict.fromkeys(_SHARDINGS, "full_shard")}, "a sharding strategy")
    reading.take({"sharding_strategy": ("training.fsdp", sharding)})
    if not reading.has("sharding_strategy"):
        reading.default("training.fsdp", "full_shard")
    if reading.value("training.fsdp"):
        reading.default("training.fsdp_config", {"version": 1})
    if reading.value("training.gradient_checkpointing") is not False:
        reentrant = bool(reading.get("reentrant_checkpointing", False))
        reading.put("training.gradient_checkpointing_kwargs", {"use_reentrant": reentrant}, "reentrant_checkpointing")
    if not reading.knows("hardware.count"):
        reading.leave("hardware.count", why="Without world_size fsdp_qlora takes all GPUs that are there.")
    reading.defaults(_FSDP_QLORA_DEFAULTS)
    reading.leave_rest("training", why=_OWN_LOOP)
    return reading.setup()


_SHARDINGS = ("full_shard", "shard_grad_op", "hybrid_full_shard", "hybrid_shard_grad_op")

"""ms-swift: the YAML or JSON of ``swift sft``, with the names of its versions 2, 3 and 4.

Defaults are those of ms-swift 4.5: arguments/base_args/quant_args.py, arguments/tuner_args.py, trainers/arguments.py.
"""

from __future__ import annotations

from typing import Any

from ...setup.setup import Setup
from ...setup.traits import Traits
from ...tables.keys import key_list
from ..document import Document
from .fields import Reading, Table, Writing
from .llamafactory import HF_ARGUMENTS
from .values import dtype, name_list, names_or_all, one_or_list, storage_dtype, switch, text

name = "ms-swift"
TRAITS = Traits(
    forms=name,
    reference_is_base=True,
    hf_names=True,
    counts_generations=True,
    lists_linear=True,
    subset_in_name=True,
    data_key="dataset",
    templates="ms-swift",
)

IMPLIED_BY_FORM = frozenset({"tuner_type", "train_type", "sft_type"})
"""Keys that say what another dialect says by being what it is; a conversion does not carry them."""

_ATTENTION: dict[str, str] = {
    "flash_attn": "flash_attention_2",
    "flash_attention_2": "flash_attention_2",
    "flash_attention_3": "flash_attention_3",
}
_FIELDS: Table = {
    **HF_ARGUMENTS,
    "model": ("model.name_or_path", text),
    "model_id_or_path": ("model.name_or_path", text),
    "model_revision": ("model.revision", text),
    "torch_dtype": ("model.dtype", dtype),
    "dtype": ("model.dtype", dtype),
    "attn_impl": ("model.attn_implementation", lambda value: _ATTENTION.get(str(value), str(value))),
    "device_map": "model.device_map",
    "adapters": ("model.adapter", one_or_list),
    "resume_from_checkpoint": "training.resume_from_checkpoint",
    "lora_rank": "lora.r",
    "lora_alpha": "lora.lora_alpha",
    "lora_dropout": "lora.lora_dropout",
    "lora_dropout_p": "lora.lora_dropout",
    "lora_bias": "lora.bias",
    "use_rslora": "lora.use_rslora",
    "use_dora": "lora.use_dora",
    "target_regex": "lora.target_modules",
    "target_modules": ("lora.target_modules", names_or_all),
    "lora_target_modules": ("lora.target_modules", names_or_all),
    "target_parameters": ("lora.target_parameters", name_list),
    "modules_to_save": ("lora.modules_to_save", name_list),
    "lora_modules_to_save": ("lora.modules_to_save", name_list),
    "bnb_4bit_quant_type": "quantization.bnb_4bit_quant_type",
    "bnb_4bit_use_double_quant": ("quantization.bnb_4bit_use_double_quant", switch),
    "bnb_4bit_compute_dtype": ("quantization.bnb_4bit_compute_dtype", dtype),
    "bnb_4bit_comp_dtype": ("quantization.bnb_4bit_compute_dtype", dtype),
    "bnb_4bit_quant_storage": ("quantization.bnb_4bit_quant_storage", storage_dtype),
    "batch_size": "training.per_device_train_batch_size",
    "max_length": "training.max_length",
    "packing": "training.packing",
    "padding_free": "training.padding_free",
    "use_liger_kernel": "training.use_liger_kernel",
    "gradient_checkpointing": "training.gradient_checkpointing",
    "gradient_checkpointing_kwargs": "training.gradient_checkpointing_kwargs",
    "dataset": ("data.train", one_or_list),
    "num_labels": "model.num_labels",
    "num_generations": "training.num_generations",
    "generation_batch_size": "training.generation_batch_size",
    "steps_per_generation": "training.steps_per_generation",
    "use_vllm": ("training.use_vllm", switch),
}
_DEFAULTS: dict[str, Any] = {
    "lora.r": 8,
    "lora.lora_alpha": 32,
    "lora.lora_dropout": 0.05,
    "lora.bias": "none",
    "lora.target_modules": "all-linear",
    "training.per_device_train_batch_size": 1,
    "training.learning_rate": 1e-4,
    "training.lr_scheduler_type": "cosine",
    "training.gradient_checkpointing": True,
    "training.packing": False,
    "training.trainer": "transformers",
}
WRITINGS: dict[str, Writing] = {
    "quantization.load_in_4bit": lambda on, data: {
        "quant_method": "bnb" if on else None,
        "quantization_bit" if "quantization_bit" in data else "quant_bits": 4 if on else None,
    },
}
_TUNER = ("tuner_type", "train_type", "sft_type")


def recognise(document: Document) -> float:
    """One of the three names that ms-swift gave its tuner, with a model or a quantization."""
    data = document.data
    if not isinstance(data, dict) or not any(key in data for key in _TUNER):
        return 0.0
    return (
        0.96
        if {"model", "model_id_or_path", "model_type", "quant_bits", "quant_method", "quantization_bit"} & data.keys()
        else 0.0
    )


def read(document: Document) -> Setup:
    """An ms-swift config → Setup."""
    known = key_list("swift")
    reading = Reading(document, name, f"ms-swift {known.version}", traits=TRAITS, typed=False)
    reading.take(_FIELDS)
    tuner = next((key for key in _TUNER if reading.has(key)), None)
    kind = str(reading.get(tuner, "lora")) if tuner else "lora"
    if kind not in ("lora", "qlora", "longlora"):
        reading.remark("no-lora", tuner, f"{tuner}: {kind} trains without LoRA.")
    _quantization(reading)
    _precision(reading)
    if not reading.has("gradient_accumulation_steps"):
        micro = reading.value("training.per_device_train_batch_size") or 1
        note = "16 / batch size / number of GPUs, rounded up; for one GPU"
        reading.default("training.gradient_accumulation_steps", max(1, -(-16 // micro)), note)
    if not reading.knows("training.max_length"):
        reading.leave("training.max_length", why="Without max_length ms-swift takes the model's own length.")
    _method(reading)
    if reading.has("rlhf_type"):
        _preference(reading)
    reading.defaults(_DEFAULTS)
    if reading.has("adapters"):
        reading.default("model.adapter_is_trainable", True, "it trains the adapter on")
    reading.default(
        "training.prepare_for_kbit_training", False, "it enables input gradients and checkpointing by itself"
    )
    if document.string_numbers:
        reading.remark("string-numbers-converted", None, "ms-swift's argument parser turns such texts into numbers.")
    if reading.has("tuner_type"):
        reading.check_keys(known)
    elif tuner is not None:
        reading.removed_key(tuner, "tuner_type", f"ms-swift 4 renamed {tuner} to tuner_type.")
    return reading.setup()


_BETA = {"simpo": 2.0, "gkd": 0.5, "grpo": 0.04}
"""By method; of the others it is 0.1 (swift/llm/argument/rlhf_args.py)."""


def _method(reading: Reading) -> None:
    """``rlhf_type``, or a task whose loss is none of tokens; both decide the head too (swift 4, rlhf_args.py)."""
    reading.take({"rlhf_type": "training.method"})
    task = str(reading.get("task_type", "causal_lm"))
    if reading.get("rlhf_type") == "rm":
        reading.put("training.method", "reward", "rlhf_type")
        reading.default("model.num_labels", 1)
    elif task not in ("causal_lm", "seq_cls"):
        reading.put("training.method", task, "task_type")
    if reading.get("rlhf_type") == "rm" or task == "seq_cls":
        reading.put("model.task", "sequence-classification", "task_type" if task == "seq_cls" else "rlhf_type")
        reading.default("lora.task_type", "SEQ_CLS", "the task_type, which the adapter is given too")
    reading.default("training.method", "sft")


def _preference(reading: Reading) -> None:
    reading.take({"beta": "training.beta", "label_smoothing": "training.label_smoothing"})
    reading.default("training.beta", _BETA.get(str(reading.get("rlhf_type")), 0.1))
    given = next((key for key in ("ref_adapters", "ref_model") if reading.get(key)), None)
    if given is not None:
        reading.remark("reference-given", given, f"{given} is the reference.")


def _quantization(reading: Reading) -> None:
    method = str(reading.get("quant_method", "bnb" if reading.has("quantization_bit") else "")).lower()
    key = "quant_bits" if reading.has("quant_bits") else "quantization_bit"
    bits = str(reading.get(key, ""))
    bnb = method == "bnb"
    reading.put("quantization.load_in_4bit", bnb and bits == "4", key)
    reading.put("quantization.load_in_8bit", bnb and bits == "8", key)
    if method and not bnb:
        reading.put("quantization.backend", method, "quant_method")
    if bits and not method:
        reading.remark(
            "quantization-switched-off",
            key,
            "ms-swift quantizes with quant_method only; quant_bits alone does nothing.",
        )
    if not (bnb and bits == "4"):
        return
    reading.defaults({"quantization.bnb_4bit_quant_type": "nf4", "quantization.bnb_4bit_use_double_quant": True})
    if not reading.knows("quantization.bnb_4bit_compute_dtype"):
        loaded = reading.value("model.dtype")
        if loaded is None:
            reading.leave(
                "quantization.bnb_4bit_compute_dtype", why="It follows torch_dtype, which the checkpoint decides here."
            )
        else:
            computed = "bfloat16" if loaded == "bfloat16" else "float32"
            reading.default("quantization.bnb_4bit_compute_dtype", computed, f"for torch_dtype: {loaded}")


def _precision(reading: Reading) -> None:
    """bf16 and fp16 follow torch_dtype where they are not set."""
    loaded = reading.value("model.dtype")
    if loaded is None:
        reading.leave("model.dtype", why="The checkpoint's own dtype, as far as the GPU has it.")
        reading.leave(
            "training.bf16", "training.fp16", why="They follow torch_dtype, which the checkpoint decides here."
        )
        return
    reading.default("training.bf16", loaded == "bfloat16", f"for torch_dtype: {loaded}")
    reading.default("training.fp16", loaded in ("float16", "float32"), f"for torch_dtype: {loaded}")

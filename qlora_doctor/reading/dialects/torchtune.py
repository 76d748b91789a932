"""torchtune: a YAML of components (``_component_: torchtune.models.llama3.qlora_llama3_8b``), read by OmegaConf.

Names and defaults are those of torchtune 0.6: its builders quantize the base to NF4 by torchao where they are called
``qlora_…`` or get ``quantize_base: true``; checkpointing and batch come from the recipe.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from ...setup.setup import Setup
from ...setup.traits import Traits
from ..document import Document
from .fields import Reading, Table
from .values import dtype, text

name = "torchtune"
TRAITS = Traits(
    own_loop="torchtune", own_model=True, own_options=True, folders_only=True, data_key="dataset", forms=name
)
_VERSION = "torchtune 0.6.1"
_OWN_RECIPE = "torchtune's own recipe trains; it has no such option."

_FIELDS: Table = {
    "model.lora_rank": "lora.r",
    "model.lora_alpha": "lora.lora_alpha",
    "model.lora_dropout": "lora.lora_dropout",
    "model.use_dora": "lora.use_dora",
    "dtype": ("model.dtype", dtype),
    "batch_size": "training.per_device_train_batch_size",
    "gradient_accumulation_steps": "training.gradient_accumulation_steps",
    "optimizer.lr": "training.learning_rate",
    "optimizer.weight_decay": "training.weight_decay",
    "clip_grad_norm": "training.max_grad_norm",
    "epochs": "training.num_train_epochs",
    "max_steps_per_epoch": "training.max_steps",
    "lr_scheduler.num_warmup_steps": "training.warmup_steps",
    "enable_activation_checkpointing": "training.gradient_checkpointing",
    "tokenizer.max_seq_len": "training.max_length",
    "dataset.packed": "training.packing",
    "compile": "training.torch_compile",
    "seed": "training.seed",
    "output_dir": "training.output_dir",
    "dataset.source": ("data.train", text),
}
_DEFAULTS: dict[str, Any] = {
    "lora.r": 8,
    "lora.lora_alpha": 16,
    "lora.lora_dropout": 0.0,
    "lora.bias": "none",
    "lora.use_dora": False,
    "lora.use_rslora": False,
    "lora.init_lora_weights": True,
    "training.gradient_accumulation_steps": 1,
    "training.gradient_checkpointing": False,
    "training.packing": False,
    "training.padding_free": False,
    "training.use_liger_kernel": False,
    "training.prepare_for_kbit_training": False,
    "training.method": "sft",
}
_ATTENTION = ("q_proj", "k_proj", "v_proj", "output_proj")
"""Names of attention layers that its builders look for (modules/peft, LORA_ATTN_MODULES)."""
_MLP = ["w1", "w2", "w3"]


def recognise(document: Document) -> float:
    """Some ``_component_`` is torchtune's."""
    return 0.99 if any(value.startswith("torchtune.") for value in _components(document.data)) else 0.0


def _components(data: Any) -> Iterator[str]:
    """Every ``_component_`` in the first two levels, where configs have them."""
    if not isinstance(data, dict):
        return
    for value in data.values():
        if isinstance(value, dict):
            if isinstance(value.get("_component_"), str):
                yield value["_component_"]
            for inner in value.values():
                if isinstance(inner, dict) and isinstance(inner.get("_component_"), str):
                    yield inner["_component_"]


def read(document: Document) -> Setup:
    """A torchtune config → Setup."""
    reading = Reading(document, name, _VERSION, traits=TRAITS, typed=False)
    reading.read_by_omegaconf()
    reading.take(_FIELDS)
    builder = str(reading.get("model._component_", ""))
    short = builder.rsplit(".", 1)[-1]
    _model(reading, short)
    quantized = short.startswith("qlora_") or bool(reading.get("model.quantize_base"))
    key = "model.quantize_base" if reading.get("model.quantize_base") else "model._component_"
    reading.put("quantization.load_in_4bit", quantized, key)
    reading.put("quantization.load_in_8bit", False)
    if quantized:
        reading.put("quantization.backend", "torchao", None, "torchtune quantizes to NF4 by torchao")
        reading.put("quantization.bnb_4bit_quant_type", "nf4", None, "torchtune knows NF4 only")
        reading.put("quantization.bnb_4bit_use_double_quant", True, None, "torchao's NF4 quantizes its scales too")
        reading.put("quantization.bnb_4bit_compute_dtype", reading.value("model.dtype") or "bfloat16", "dtype")
    if not re.match(r"q?lora_", short) and not reading.has("model.lora_rank"):
        reading.remark("no-lora", "model._component_", f"The builder {short} has no LoRA.")
    _targets(reading)
    bf16 = reading.value("model.dtype")
    if bf16 is not None:
        reading.put("training.bf16", bf16 == "bfloat16", "dtype")
        reading.put("training.fp16", bf16 == "float16", "dtype")
    _optimizer(reading)
    if reading.value("training.max_length") is None:
        reading.leave("training.max_length", why="tokenizer.max_seq_len is null: nothing is cut.")
    reading.defaults(_DEFAULTS)
    if document.string_numbers:
        reading.remark(
            "string-numbers-converted", None, "OmegaConf, with which torchtune reads, takes them as numbers."
        )
    reading.leave_rest("training", "lora", "quantization", why=_OWN_RECIPE)
    reading.leave("model.attn_implementation", "model.use_cache", "model.device_map", why=_OWN_RECIPE)
    return reading.setup()


def _model(reading: Reading, builder: str) -> None:
    """The weights stand in the checkpointer's folder; the builder names the architecture."""
    if reading.has("checkpointer.checkpoint_dir"):
        reading.take({"checkpointer.checkpoint_dir": ("model.name_or_path", text)})
    elif builder:
        reading.put("model.name_or_path", builder, "model._component_")


def _targets(reading: Reading) -> None:
    """Attention projections by name, and the MLP and the output head by switches."""
    attention = reading.get("model.lora_attn_modules")
    if not isinstance(attention, list):
        reading.leave("lora.target_modules", why="The builder decides; model.lora_attn_modules is not set.")
        return
    targets = [str(target) for target in attention if target in _ATTENTION]
    unknown = [target for target in attention if isinstance(target, str) and target not in _ATTENTION]
    if unknown:
        meant = "; the output projection is called output_proj" if {"o_proj", "out_proj"} & set(unknown) else ""
        note = (
            f"torchtune adapts {', '.join(_ATTENTION)}, and leaves {', '.join(unknown)} without an adapter and without "
            f"a warning{meant}."
        )
        reading.remark("targets-passed-by", "model.lora_attn_modules", note)
    if reading.get("model.apply_lora_to_mlp"):
        targets += _MLP
    if reading.get("model.apply_lora_to_output"):
        targets.append("output")
    reading.put("lora.target_modules", targets, "model.lora_attn_modules", "torchtune's own names of the layers")


def _optimizer(reading: Reading) -> None:
    component = str(reading.get("optimizer._component_", ""))
    if component:
        reading.put("training.optim", component.rsplit(".", 1)[-1], "optimizer._component_")
    scheduler = str(reading.get("lr_scheduler._component_", ""))
    if "cosine" in scheduler:
        reading.put("training.lr_scheduler_type", "cosine", "lr_scheduler._component_")

"""axolotl: one YAML file with its own names for everything; unknown keys are silently ignored.

Defaults and conclusions are those of axolotl 0.18: utils/schemas/, utils/config/__init__.py (resolve_dtype),
loaders/model.py (_set_quantization_config) and core/builders/base.py.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...setup.setup import Change, Setup
from ...setup.traits import Traits
from ...tables.keys import key_list
from ...tables.trainer_names import AXOLOTL_OPTIMIZERS
from ..document import Document
from .fields import Reading, Table, Writing
from .refusals import axolotl as refusals
from .refusals import refuse
from .refusals.axolotl import remarks, schema
from .values import dtype, name_list, names, optimizer, storage_dtype, strategy, switch, targets, text, truthy

name = "axolotl"
TRAITS = Traits(
    liger_by_plugin=True,
    forms=name,
    row_is_sample=True,
    hf_names=True,
    checks_names=True,
    more_optimizers=AXOLOTL_OPTIMIZERS,
    heeds_launcher=True,
    searches_unused=False,
    warmup_ratio=0.03,
    rl_by_trl=True,
    lists_linear=True,
    drops_on_experts=False,
    hub_ids=True,
    data_key="datasets",
    loads_by_type=("llama", "llama4"),  # _build_model of its loaders/model.py
    prepared_key="dataset_prepared_path",
    templates="axolotl",
    token_keys=("tokens", "special_tokens", "added_tokens_overrides"),
    packs_apart="attention",
)

IMPLIED_BY_FORM = frozenset({"adapter", "strict", "datasets"})
"""Keys that say what another dialect says by being what it is; a conversion does not carry them."""

_OWN = {
    "adapter",
    "micro_batch_size",
    "sequence_len",
    "sample_packing",
    "lora_target_linear",
    "dataset_prepared_path",
    "pad_to_sequence_len",
    "pretraining_dataset",
    "val_set_size",
    "special_tokens",
    "lora_model_dir",
}
"""Keys that no other trainer has beside ``base_model``."""

_FIELDS: Table = {
    # "auto" is on with torch 2.6 and later
    "torch_compile": ("training.torch_compile", lambda value: value == "auto" or switch(value)),
    "base_model": ("model.name_or_path", text),
    "revision_of_model": ("model.revision", text),
    "model_revision": ("model.revision", text),
    "trust_remote_code": "model.trust_remote_code",
    "lora_model_dir": "model.adapter",
    "num_labels": "model.num_labels",
    "lora_r": "lora.r",
    "lora_alpha": "lora.lora_alpha",
    "lora_dropout": "lora.lora_dropout",
    "lora_modules_to_save": ("lora.modules_to_save", name_list),
    "lora_target_parameters": ("lora.target_parameters", name_list),
    "lora_exclude_modules": ("lora.exclude_modules", names),
    "lora_fan_in_fan_out": "lora.fan_in_fan_out",
    "lora_rank_pattern": "lora.rank_pattern",
    "lora_alpha_pattern": "lora.alpha_pattern",
    "peft_use_rslora": "lora.use_rslora",
    "peft_use_dora": "lora.use_dora",
    "peft_init_lora_weights": "lora.init_lora_weights",
    "peft_layers_to_transform": "lora.layers_to_transform",
    "peft_layers_pattern": "lora.layers_pattern",
    "peft_trainable_token_indices": "lora.trainable_token_indices",
    "peft_autocast_adapter_dtype": "lora.autocast_adapter_dtype",
    "micro_batch_size": "training.per_device_train_batch_size",
    "eval_batch_size": "training.per_device_eval_batch_size",
    "gradient_accumulation_steps": "training.gradient_accumulation_steps",
    "learning_rate": "training.learning_rate",
    "weight_decay": "training.weight_decay",
    "max_grad_norm": "training.max_grad_norm",
    "max_steps": "training.max_steps",
    "num_epochs": "training.num_train_epochs",
    "lr_scheduler": "training.lr_scheduler_type",
    "warmup_ratio": "training.warmup_ratio",
    "warmup_steps": "training.warmup_steps",
    "optimizer": ("training.optim", optimizer),
    "optim_target_modules": "training.optim_target_modules",
    "gradient_checkpointing_kwargs": "training.gradient_checkpointing_kwargs",
    "sequence_len": "training.max_length",
    "sample_packing": "training.packing",
    "group_by_length": "training.group_by_length",
    "neftune_noise_alpha": "training.neftune_noise_alpha",
    "eval_strategy": ("training.eval_strategy", strategy),
    "evaluation_strategy": ("training.eval_strategy", strategy),
    "save_strategy": ("training.save_strategy", strategy),
    "seed": "training.seed",
    "deepspeed": "training.deepspeed",
    "ddp_find_unused_parameters": "training.ddp_find_unused_parameters",
    "dataloader_num_workers": "training.dataloader_num_workers",
    "logging_steps": "training.logging_steps",
    "resume_from_checkpoint": "training.resume_from_checkpoint",
    "output_dir": "training.output_dir",
    "liger_fused_linear_cross_entropy": ("training.use_liger_kernel", switch),
}
_DEFAULTS: dict[str, Any] = {
    "lora.lora_dropout": 0.0,
    "lora.bias": "none",
    "training.per_device_train_batch_size": 1,
    "training.gradient_accumulation_steps": 1,
    "training.optim": "adamw_torch_fused",
    "training.lr_scheduler_type": "cosine",
    "training.num_train_epochs": 1.0,
    "training.max_length": 512,
    "training.packing": False,
    "training.weight_decay": 0.0,
    "training.max_grad_norm": 1.0,
    "model.trust_remote_code": False,
    "training.trainer": "transformers",
}
_PLUGINS = {
    "cut_cross_entropy", "densemixer", "diffusion", "expert_parallel", "grokfast", "hatchery", "kd", "kernels", "liger",
    "llm_compressor", "lm_eval", "mora", "nemo_gym", "spectrum", "swanlab",
}  # fmt: skip
"""The plugins that come with axolotl, whose keys are in the list."""

_PREFERENCE: Table = {
    "trl.beta": "training.beta",
    "rl_beta": "training.beta",
    "dpo_beta": "training.beta",
    "dpo_label_smoothing": "training.label_smoothing",
    "trl.num_generations": "training.num_generations",
    "trl.generation_batch_size": "training.generation_batch_size",
}
_BNB: Table = {
    "bnb_4bit_quant_type": "quantization.bnb_4bit_quant_type",
    "bnb_4bit_use_double_quant": ("quantization.bnb_4bit_use_double_quant", switch),
    "bnb_4bit_compute_dtype": ("quantization.bnb_4bit_compute_dtype", dtype),
    "bnb_4bit_quant_storage": ("quantization.bnb_4bit_quant_storage", storage_dtype),
    "llm_int8_skip_modules": ("quantization.llm_int8_skip_modules", name_list),
}
_BNB_DEFAULTS: dict[str, Any] = {
    "quantization.bnb_4bit_quant_type": "nf4",
    "quantization.bnb_4bit_use_double_quant": True,
    "quantization.bnb_4bit_quant_storage": "bfloat16",
}


def _four_bit(on: Any, data: Mapping[str, Any]) -> dict[str, Any]:
    adapter = "qlora" if on else "lora" if data.get("adapter") == "qlora" else data.get("adapter")
    return {"adapter": adapter, "load_in_8bit": None if on else data.get("load_in_8bit"), "load_in_4bit": bool(on)}


def _eight_bit(on: Any, data: Mapping[str, Any]) -> dict[str, Any]:
    return {"adapter": "lora", "load_in_4bit": None, "load_in_8bit": True} if on else {"load_in_8bit": None}


def _targets(value: Any, data: Mapping[str, Any]) -> dict[str, Any]:
    if value == "all-linear":
        return {"lora_target_modules": None, "lora_target_linear": True}
    return {"lora_target_linear": None, "lora_target_modules": value}


def _liger(on: Any, data: Mapping[str, Any]) -> dict[str, Any]:
    """The plugin reads the switch; without it nothing does."""
    plugins = data.get("plugins") or []
    plugins = [plugins] if isinstance(plugins, str) else list(plugins)
    plugin = "axolotl.integrations.liger.LigerPlugin"
    known = any("liger" in str(each).lower() for each in plugins)
    more = {"plugins": [*plugins, plugin]} if on and not known else {}
    return {**more, "liger_fused_linear_cross_entropy": bool(on)}


WRITINGS: dict[str, Writing] = {
    "quantization.load_in_4bit": _four_bit,
    "quantization.load_in_8bit": _eight_bit,
    "lora.target_modules": _targets,
    "lora.init_lora_weights": lambda value, data: {"peft.loftq_config": None, "peft_init_lora_weights": value},
    "training.gradient_checkpointing": lambda on, data: {"gradient_checkpointing": bool(on)},
    "training.method": lambda method, data: {"rl": None if method == "sft" else method},
    "training.use_liger_kernel": _liger,
}


_ALPACA = {"micro_batch_size", "val_set_size"}
"""Of these the ones that alpaca-lora and its kin have beside ``base_model`` as well."""


def recognise(document: Document) -> float:
    """``base_model`` is a text, and something stands beside it that only axolotl has."""
    data = document.data
    if not isinstance(data, dict) or not isinstance(data.get("base_model"), str):
        return 0.0
    if isinstance(data.get("adapter"), dict):  # a section of a home-made file
        return 0.0
    own = len(_OWN & data.keys()) if (_OWN - _ALPACA) & data.keys() else 0
    if isinstance(data.get("datasets"), list) and any(isinstance(d, dict) and "path" in d for d in data["datasets"]):
        own += 1
    return 0.98 if own >= 2 else 0.9 if own == 1 else 0.0


def read(document: Document) -> Setup:
    """An axolotl config → Setup."""
    known = key_list("axolotl")
    reading = Reading(document, name, f"axolotl {known.version}", traits=TRAITS)
    reading.truths_are_numbers = True
    reading.take(_FIELDS)
    _model_class(reading)
    _precision(reading)
    _quantization(reading)
    _lora(reading)
    _without_adapter(reading)
    _attention(reading)
    _batches(reading)
    _kernels(reading)
    _checkpointing(reading)
    _distribution(reading)
    _dtypes(reading)
    _data(reading)
    reading.defaults(_DEFAULTS)
    if reading.has("lora_model_dir"):
        reading.default("model.adapter_is_trainable", True, "it loads lora_model_dir to train it on")
    reading.default("hardware.expandable_segments", True, "it sets PYTORCH_ALLOC_CONF where the environment does not")
    if not _is_older(reading):
        refuse(reading, "axolotl", refusals.COMPUTED)
        schema.judge_values(reading)
    remarks.remark(reading)
    if _only_known_plugins(reading):
        reading.check_keys(known)
    if document.string_numbers:
        reading.remark("string-numbers-converted", None, "axolotl turns such texts into numbers by itself.")
    return reading.setup()


def _model_class(reading: Reading) -> None:
    """``model_type`` names the class that loads the model, unless code of the model's own may: loaders/model.py.

    ``AutoModelForCausalLM`` leaves it to axolotl, which takes the Auto class for images where the model has them.
    """
    key = next((key for key in ("model_type", "type_of_model") if reading.has(key)), None)
    written = reading.get(key) if key is not None else None
    if isinstance(written, str) and written != "AutoModelForCausalLM" and not reading.get("trust_remote_code"):
        reading.put("model.model_class", written, key)


def _is_older(reading: Reading) -> bool:
    """True where the file's project brings an axolotl whose refusals are not known here."""
    if reading.file is None:
        return False
    from ..script_fields import brings_older

    return brings_older(Path(reading.file), "axolotl", _OLDEST)


_OLDEST = "0.18"
"""Of the versions whose refusals are listed."""


def _only_known_plugins(reading: Reading) -> bool:
    """A plugin of the user's own may read keys that no list has."""
    plugins = reading.get("plugins", [])
    plugins = plugins if isinstance(plugins, list) else [plugins]
    return all(str(plugin).removeprefix("axolotl.integrations.").split(".")[0] in _PLUGINS for plugin in plugins)


def _precision(reading: Reading) -> None:
    """bf16 wins over fp16; ``auto``, which an absent key means, is bf16 where the GPU has it and fp16 is not asked for.

    ``bf16: null`` is no bf16, and ``full`` evaluates in it alone. Without any of the keys all is float32.
    """
    written = reading.get("bf16") if reading.written("bf16") else "auto"
    automatic = str(written).lower() == "auto"
    fp16 = bool(reading.get("fp16"))
    bf16 = not fp16 if automatic else bool(written)
    note = None
    if automatic and bf16:
        declined = reading.has("fp16")  # which is false here
        note = f"bf16: auto is bf16 where the GPU has it, else {'float32' if declined else 'fp16'}."
        if not reading.written("bf16"):
            note = f"{reading.version} takes {note}"
        reading.remark(
            "bf16-or-float32" if declined else "bf16-auto", "bf16" if reading.written("bf16") else None, note
        )
    trains = (bf16 or bool(reading.get("bfloat16"))) and written != "full"
    key = next((key for key in ("bf16", "bfloat16") if reading.get(key)), "bf16")
    reading.put("training.bf16", trains, key, note)
    reading.put("training.fp16", fp16 and not bf16, "fp16")
    if bf16 or reading.get("bfloat16"):
        chosen = "bfloat16"
    else:
        chosen = "float16" if fp16 or reading.get("float16") or reading.get("load_in_8bit") else "float32"
    key = next((key for key in ("bf16", "bfloat16", "fp16", "float16") if reading.get(key)), "bf16")
    own = f"axolotl loads the model in the dtype that it trains in: {chosen}."
    reading.put("model.dtype", chosen, key, note or own)


def _quantization(reading: Reading) -> None:
    """4-bit needs ``adapter: qlora``; with ``adapter: lora`` the switch does nothing since axolotl 0.13.0."""
    adapter, four = reading.get("adapter"), bool(reading.get("load_in_4bit"))
    on = four and adapter == "qlora"
    note = None
    if four and adapter == "lora":
        note = "axolotl 0.13.0 and later quantize to 4 bits with `adapter: qlora` only; the base stays in 16 bits."
        reading.remark("four-bit-switch-without-effect", "load_in_4bit", note)
    reading.put("quantization.load_in_4bit", on, "load_in_4bit", note)
    reading.put("quantization.load_in_8bit", bool(reading.get("load_in_8bit")) and adapter == "lora", "load_in_8bit")
    if reading.get("gptq"):
        reading.put("quantization.backend", "gptq", "gptq")
    if reading.has("model_quantization_config"):
        kind = str(reading.get("model_quantization_config")).removesuffix("Config").lower()
        reading.put("quantization.backend", kind, "model_quantization_config")
    if not on:
        return
    reading.take(_BNB, "bnb_config_kwargs.")
    _by_architecture(reading)
    reading.default("quantization.bnb_4bit_compute_dtype", reading.value("model.dtype"), "the dtype that it trains in")
    reading.defaults(_BNB_DEFAULTS)


def _by_architecture(reading: Reading) -> None:
    """What axolotl sets by model_type, which the file does not say: a name that suggests one leaves it unknown."""
    written = str(reading.get("base_model")).lower().replace("_", "-")
    hybrid = any(part in written for part in ("jamba", "nemotron-h", "nano-30b", "qwen1.5-moe", "qwen2-57b"))
    if hybrid and not any(reading.get(key) for key in ("deepspeed", "fsdp", "fsdp_config")):
        why = "axolotl takes float32 for jamba, qwen2_moe and nemotron_h, else bfloat16."
        reading.leave("quantization.bnb_4bit_quant_storage", why=why)
    if "falcon-h1" in written:
        note = "axolotl leaves out_proj of falcon_h1 unquantized"
        reading.default("quantization.llm_int8_skip_modules", ["out_proj"], note)


def _lora(reading: Reading) -> None:
    """``lora_target_linear`` adds every linear layer to ``lora_target_modules``."""
    written = reading.get("lora_target_modules")
    if reading.get("lora_target_linear"):
        note = "lora_target_linear: true adapts every linear layer but the output head."
        if written and written != "all-linear":
            note += " lora_target_modules is added to them."
        reading.put("lora.target_modules", "all-linear", "lora_target_linear", note)
        if written and written != "all-linear":
            reading.take({"lora_target_modules": ("lora.targets_beside_linear", name_list)})
    elif written:
        reading.take({"lora_target_modules": ("lora.target_modules", targets)})
    elif reading.get("adapter") in ("lora", "qlora") and not reading.get("lora_target_parameters"):
        note = "Neither lora_target_modules nor lora_target_linear is set, so axolotl hands PEFT an empty list."
        key = "lora_target_modules" if reading.written("lora_target_modules") else None
        reading.put("lora.target_modules", [], key, note)
    if reading.get("peft.loftq_config.loftq_bits"):
        reading.put("lora.init_lora_weights", "loftq", "peft.loftq_config")


def _without_adapter(reading: Reading) -> None:
    """A key that is left out is reported where LoRA's options stand; one without a value is taken at its word."""
    if reading.get("adapter"):
        return
    note = "axolotl adds an adapter with `adapter: lora` or `qlora` only; without it the whole model is trained."
    given = reading.written("adapter")
    reading.remark("no-lora", "adapter" if given else None, note)
    key = next((key for key in ("lora_r", "lora_target_linear", "lora_target_modules") if reading.get(key)), None)
    if key is not None and not given and not reading.get("load_in_4bit") and not reading.get("load_in_8bit"):
        reading.remark("lora-not-switched-on", key, note)


def _attention(reading: Reading) -> None:
    reading.take({"attn_implementation": "model.attn_implementation"})
    for key, implementation in remarks.OLDER_SWITCHES.items():
        if reading.get(key) and not reading.knows("model.attn_implementation"):
            reading.put("model.attn_implementation", implementation, key)
    if reading.get("gemma4_hybrid_attn_impl"):
        reading.default("model.attn_implementation", "flash_attention_2", "gemma4_hybrid_attn_impl needs it")


def _batches(reading: Reading) -> None:
    """``batch_size`` is an older way to say the accumulation, whose default of 1 wins unless null is written."""
    total, micro = reading.get("batch_size"), reading.get("micro_batch_size", 1)
    key = "gradient_accumulation_steps"
    if isinstance(total, int) and isinstance(micro, int) and micro and reading.written(key) and not reading.has(key):
        steps = max(1, total // micro)
        reading.put("training.gradient_accumulation_steps", steps, "batch_size", "batch_size / micro_batch_size")
    if reading.value("training.per_device_train_batch_size") and not reading.has("eval_batch_size"):
        reading.default("training.per_device_eval_batch_size", reading.value("training.per_device_train_batch_size"))


_KERNELS = (
    "lora_mlp_kernel", "lora_qkv_kernel", "lora_o_kernel", "lora_embedding_kernel", "chunked_cross_entropy",
    "flash_attn_cross_entropy", "flash_attn_rms_norm", "flash_attn_fuse_mlp", "tiled_mlp", "fp8", "qat", "relora",
    "lisa_n_layers", "selective_checkpointing", "layer_offloading",
)  # fmt: skip
"""Switches of code that runs in place of transformers' own, or around it, and changes what a step holds."""
_LIGER = ("liger_rope", "liger_rms_norm", "liger_layer_norm", "liger_glu_activation", "liger_cross_entropy")
"""The same, read by a plugin alone; liger_swiglu is an older name of liger_glu_activation."""
_PARALLEL = (
    "context_parallel_size", "sequence_parallel_degree", "tensor_parallel_size", "dp_shard_size", "dp_replicate_size",
)  # fmt: skip


def _kernels(reading: Reading) -> None:
    """Which kernels run; those of a plugin where ``plugins`` names it, cut_cross_entropy then unless it is false."""
    chosen = [key for key in _KERNELS if reading.get(key)]
    listed = reading.get("plugins") or []
    plugins = [str(each) for each in (listed if isinstance(listed, list) else [listed])]
    named = " ".join(plugins).lower()
    if "cut_cross_entropy" in named and reading.get("cut_cross_entropy", True):
        chosen.append("cut_cross_entropy")
    if "liger" in named:
        glu = reading.get("liger_swiglu") and not reading.get("liger_glu_activation")
        chosen += [key for key in _LIGER if reading.get(key) or (glu and key == "liger_glu_activation")]
    elif reading.get("liger_fused_linear_cross_entropy"):
        why = "Only the plugin axolotl.integrations.liger.LigerPlugin reads it, and plugins does not name it."
        reading.put("training.use_liger_kernel", False, "liger_fused_linear_cross_entropy", why)
    # These two have switches of their own; the others are on by being there.
    others = (each for each in plugins if "cut_cross_entropy" not in each.lower() and "liger" not in each.lower())
    chosen += [each.rpartition(".")[2] for each in others]
    if chosen:
        reading.put("training.kernels", chosen, next((key for key in chosen if reading.has(key)), "plugins"))
    reading.extra("training", *_PARALLEL)


def _checkpointing(reading: Reading) -> None:
    """``offload`` is an older activation_offloading. The form is reentrant, unless something speaks against it:

    preference training, unfrozen_parameters, Gemma 4, or hidden states that are offloaded (normalize_config in
    utils/config/__init__.py, check_hidden_states_offloading in utils/schemas/validation.py).
    """
    written = reading.get("gradient_checkpointing")
    older = written in ("offload", "offload_disk")
    offloading = "offload" if older else reading.get("activation_offloading")
    if reading.has("gradient_checkpointing"):
        reading.take({"gradient_checkpointing": ("training.gradient_checkpointing", truthy)})
        if written and not reading.has("gradient_checkpointing_kwargs"):
            plain = reading.get("rl") or reading.has("unfrozen_parameters") or offloading == "hidden_states"
            reentrant = not plain and re.search(r"gemma-?4", str(reading.get("base_model")).lower()) is None
            reading.default("training.gradient_checkpointing_kwargs", {"use_reentrant": reentrant})
    if offloading == "hidden_states":
        reading.put("training.gradient_checkpointing", True, "activation_offloading")
    elif offloading:
        why = "activation_offloading keeps activations in host memory in place of checkpointing."
        key = "gradient_checkpointing" if older else "activation_offloading"
        reading.forget("training.gradient_checkpointing", why, key)
    reading.default("training.gradient_checkpointing", False)


def _distribution(reading: Reading) -> None:
    config = reading.get("fsdp_config")
    if reading.get("fsdp") or (isinstance(config, dict) and config):
        wanted = reading.get("fsdp")
        key = "fsdp" if wanted else "fsdp_config"
        reading.put("training.fsdp", [str(w) for w in wanted] if isinstance(wanted, list) else "full_shard", key)
        settings = {str(k).removeprefix("fsdp_"): v for k, v in (config if isinstance(config, dict) else {}).items()}
        version = reading.get("fsdp_version", settings.get("version", 1))
        reading.put("training.fsdp_config", {**settings, "version": version}, "fsdp_config")
    sharded = reading.knows("training.fsdp") or "zero3" in str(reading.get("deepspeed"))
    if reading.value("quantization.load_in_4bit") or reading.value("quantization.load_in_8bit"):
        reading.default(
            "training.prepare_for_kbit_training", not sharded, "left out with FSDP and ZeRO-3" if sharded else None
        )


def _dtypes(reading: Reading) -> None:
    """After prepare_model_for_kbit_training, norms and embeddings go back from float32 to the dtype that it trains in
    (``_configure_embedding_dtypes`` in loaders/model.py); embeddings_skip_upcast leaves these in float32."""
    quantized = reading.value("quantization.load_in_4bit") or reading.value("quantization.load_in_8bit")
    if not quantized or reading.knows("training.fsdp"):
        return
    tests = [] if reading.get("fp32_norms") else [[["named", "norm"]]]
    if not (reading.value("quantization.load_in_4bit") and reading.get("embeddings_skip_upcast")):
        tests.append([["named", *_EMBEDDINGS], ["has", "weight"]])
    dtype = reading.value("model.dtype")
    reading.changes += [Change(kind="cast", when="prepared", over="modules", value=dtype, tests=each) for each in tests]


_EMBEDDINGS = ("embed_tokens", "lm_head", "embed_in", "embed_out", "word_embeddings")
"""Names of input and output embeddings (``get_linear_embedding_layers`` in loaders/utils.py)."""


def _data(reading: Reading) -> None:
    _samples(reading)
    _preference(reading)
    method = reading.get("rl")
    reward = next((key for key in ("reward_model", "process_reward_model") if reading.get(key)), None)
    if method:
        reading.put("training.method", str(method), "rl")
    elif reward is not None:
        reading.put("training.method", "reward" if reward == "reward_model" else "prm", reward)
    elif reading.get("pretraining_dataset"):
        reading.put("training.method", "pretrain", "pretraining_dataset")
    else:
        reading.default("training.method", "sft")
    _intervals(reading)


def _intervals(reading: Reading) -> None:
    """When axolotl evaluates and saves, and whether it picks the best checkpoint (core/builders/base.py, causal.py)."""
    evaluated = bool(reading.get("val_set_size") or reading.get("test_datasets"))
    every = _steps(reading, "eval") if evaluated else None
    if not evaluated:
        reading.put("training.eval_strategy", "no", "val_set_size", "There is nothing to evaluate on.")
    elif every is not None:
        key = "eval_steps" if reading.has("eval_steps") else "evals_per_epoch"
        reading.put("training.eval_strategy", "steps", key)
        reading.put("training.eval_steps", every, key)
    saved = _steps(reading, "save")
    if saved is not None:
        key = "save_steps" if reading.has("save_steps") else "saves_per_epoch"
        reading.put("training.save_strategy", "steps", key)
        reading.put("training.save_steps", saved, key)
    else:
        reading.default("training.save_strategy", "epoch")
    asked = reading.get("load_best_model_at_end")
    compares = bool(reading.get("rl"))  # whose builder never chooses
    chooses = not compares and every is not None and saved is not None and saved % every == 0
    wanted = asked is not False or bool(reading.get("early_stopping_patience"))
    if wanted and chooses:
        reading.put("training.load_best_model_at_end", True, "load_best_model_at_end")
    elif reading.written("load_best_model_at_end"):
        reading.put("training.load_best_model_at_end", False, "load_best_model_at_end")
    if asked and not chooses:
        note = "axolotl drops it without rows to evaluate and save_steps that are a multiple of eval_steps."
        note = "axolotl drops it with rl." if compares else note
        reading.remark("best-model-dropped", "load_best_model_at_end", note)
    asked_for = reading.get("eval_strategy") or reading.get("evaluation_strategy")
    silent = every is None and asked_for in (None, "no", False)  # YAML 1.1 reads a bare ``no`` as false
    size = reading.get("val_set_size")
    if size and silent:
        note = (
            f"val_set_size holds {size} of the rows out of training, and without eval_steps, evals_per_epoch and "
            "eval_strategy they are never evaluated."
        )
        if reading.get("evals_per_epoch"):
            note = (
                f"val_set_size holds {size} of the rows out of training, and they are never evaluated: axolotl drops "
                f"evals_per_epoch {reading.get('evals_per_epoch')}, which asks for one evaluation in the whole run; "
                "eval_strategy: epoch asks for it at its end."
            )
        reading.remark("held-out-unused", "val_set_size", note)


def _steps(reading: Reading, kind: str) -> float | None:
    """``eval_steps`` or ``save_steps``; else the share of all updates that so many an epoch are."""
    steps = reading.get(f"{kind}_steps")
    if isinstance(steps, int | float) and not isinstance(steps, bool) and steps > 0:
        return float(steps)
    times, epochs = reading.get(f"{kind}s_per_epoch"), reading.get("num_epochs", 1.0)
    numbers = all(isinstance(each, int | float) and each > 0 for each in (times, epochs))
    share = 1.0 / (times * epochs) if numbers else None
    return share if share is not None and share < 1 else None


def _preference(reading: Reading) -> None:
    reading.take(_PREFERENCE)
    if reading.get("trl.use_vllm") and not reading.get("trl.vllm_lora_sync"):
        reading.take({"trl.use_vllm": ("training.use_vllm", switch)})
    if reading.get("rl_adapter_ref_model"):
        reading.remark("reference-given", "rl_adapter_ref_model", "rl_adapter_ref_model loads the reference again.")


def _samples(reading: Reading) -> None:
    """The first dataset, where its type is one that is read here the same way."""
    if not isinstance(reading.get("datasets"), list):
        return
    kind = str(reading.get("datasets.0.type"))
    reading.plain_data = kind in ("completion", "chat_template") and reading.get("datasets.0.field_messages") is None
    reading.take({"datasets.0.path": ("data.train", text)})
    if reading.plain_data:
        reading.put("data.format", {"completion": "text"}.get(kind, "messages"), "datasets.0.type")
        if kind == "completion":
            reading.take({"datasets.0.field": ("data.text_field", text)})

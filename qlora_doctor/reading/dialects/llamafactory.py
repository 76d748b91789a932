"""LLaMA-Factory: the YAML of ``llamafactory-cli train``, and the board's ``llamaboard_config.yaml``.

It stops at unknown keys. Defaults are those of 0.9.5: hparams/, model/model_utils/quantization.py, model/adapter.py.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from ...core.versions import version_tuple
from ...setup.setup import SECTIONS, Setup
from ...setup.traits import Traits
from ...tables.keys import key_list
from ...tables.templates import slip_of
from ..document import Document
from ..lenient import describe_type
from .fields import Reading, Table, Writing
from .refusals import llamafactory as refusals
from .refusals import refuse
from .values import is_template, last_of_several, name_list, names_or_all, negated, one_or_list, strategy, text, truthy

name = "llamafactory"
TRAITS = Traits(
    forms=name,
    row_is_sample=True,
    hf_names=True,
    checks_names=True,
    heeds_launcher=True,
    starts_processes=True,
    searches_unused=False,
    reference_is_base=True,
    lists_linear=True,
    hub_ids=True,
    data_key="dataset",
    prepared_key="tokenized_path",
    templates="llamafactory",
    token_keys=("add_tokens", "add_special_tokens", "new_special_tokens"),
    adds_template_tokens=True,
    packs_apart="trainer",
    own_templates=True,
)

IMPLIED_BY_FORM = frozenset({"finetuning_type", "do_train", "stage"})
"""Keys that say what another dialect says by being what it is; a conversion does not carry them."""

_HF = {
    "per_device_train_batch_size": "training.per_device_train_batch_size",
    "per_device_eval_batch_size": "training.per_device_eval_batch_size",
    "gradient_accumulation_steps": "training.gradient_accumulation_steps",
    "learning_rate": "training.learning_rate",
    "weight_decay": "training.weight_decay",
    "max_grad_norm": "training.max_grad_norm",
    "max_steps": "training.max_steps",
    "num_train_epochs": "training.num_train_epochs",
    "lr_scheduler_type": "training.lr_scheduler_type",
    "warmup_ratio": "training.warmup_ratio",
    "warmup_steps": "training.warmup_steps",
    "optim": "training.optim",
    "optim_target_modules": "training.optim_target_modules",
    "bf16": "training.bf16",
    "fp16": "training.fp16",
    "group_by_length": "training.group_by_length",
    "neftune_noise_alpha": "training.neftune_noise_alpha",
    "label_names": "training.label_names",
    "seed": "training.seed",
    "data_seed": "training.data_seed",
    "full_determinism": "training.full_determinism",
    "torch_compile": "training.torch_compile",
    "fsdp": "training.fsdp",
    "fsdp_config": "training.fsdp_config",
    "deepspeed": "training.deepspeed",
    "ddp_find_unused_parameters": "training.ddp_find_unused_parameters",
    "dataloader_num_workers": "training.dataloader_num_workers",
    "logging_steps": "training.logging_steps",
    "save_steps": "training.save_steps",
    "eval_steps": "training.eval_steps",
    "load_best_model_at_end": "training.load_best_model_at_end",
    "resume_from_checkpoint": "training.resume_from_checkpoint",
    "report_to": "training.report_to",
    "output_dir": "training.output_dir",
}
"""Names of TrainingArguments, as every reader built upon them takes them."""

HF_ARGUMENTS: Table = {
    **_HF,
    "eval_strategy": ("training.eval_strategy", strategy),
    "evaluation_strategy": ("training.eval_strategy", strategy),
    "save_strategy": ("training.save_strategy", strategy),
    "logging_strategy": ("training.logging_strategy", strategy),
}

_FIELDS: Table = {
    **HF_ARGUMENTS,
    "model_name_or_path": ("model.name_or_path", text),
    "model_revision": ("model.revision", text),
    "trust_remote_code": "model.trust_remote_code",
    "adapter_name_or_path": ("model.adapter", last_of_several),
    "lora_rank": "lora.r",
    "lora_alpha": "lora.lora_alpha",
    "lora_dropout": "lora.lora_dropout",
    "lora_target": ("lora.target_modules", names_or_all),
    "additional_target": ("lora.modules_to_save", name_list),
    "use_rslora": "lora.use_rslora",
    "use_dora": "lora.use_dora",
    "cutoff_len": "training.max_length",
    "enable_liger_kernel": "training.use_liger_kernel",
    "stage": "training.method",
    "disable_gradient_checkpointing": ("training.gradient_checkpointing", negated),
    "dataset": ("data.train", one_or_list),
    "eval_dataset": ("data.eval", one_or_list),
    "pref_beta": "training.beta",
    "dpo_label_smoothing": "training.label_smoothing",
}
_DEFAULTS: dict[str, Any] = {
    "lora.r": 8,
    "lora.lora_dropout": 0.0,
    "lora.target_modules": "all-linear",
    "lora.bias": "none",
    "lora.task_type": "CAUSAL_LM",
    "training.max_length": 2048,
    "training.method": "sft",
    "training.gradient_checkpointing": True,
    "training.bf16": False,
    "training.fp16": False,
    "training.trainer": "transformers",
}
_ATTENTION = {"fa2": "flash_attention_2", "fa3": "flash_attention_3", "sdpa": "sdpa", "disabled": "eager"}
_CODE = (
    "use_unsloth", "use_unsloth_gc", "shift_attn", "mixture_of_depths", "use_llama_pro", "use_kt", "use_adam_mini",
    "use_muon", "use_dft_loss", "use_asft_loss", "use_eaft_loss", "pref_ftx",
)  # fmt: skip
"""Switches of code that runs in place of transformers' own, or around it, and changes what a step holds."""
WRITINGS: dict[str, Writing] = {
    "quantization.load_in_4bit": lambda on, data: {"quantization_bit": 4 if on else None},
    "quantization.load_in_8bit": lambda on, data: {"quantization_bit": 8 if on else None},
    "model.attn_implementation": lambda value, data: {
        "flash_attn": next((word for word, meant in _ATTENTION.items() if meant == value), None)
    },
    "lora.target_modules": lambda value, data: {"lora_target": "all"} if value == "all-linear" else {},
    "lora.init_lora_weights": lambda value, data: {"pissa_init": True if value == "pissa" else None},
    "training.packing": lambda on, data: {"packing": bool(on)},
    "training.gradient_checkpointing_kwargs": lambda value, data: {"use_reentrant_gc": value.get("use_reentrant")},
}
"""Where several keys, or words of its own, bring a value about."""
_BACKENDS = {"bnb": "bitsandbytes", "hqq": "hqq", "eetq": "eetq"}
"""The methods by which LLaMA-Factory quantizes a base as it loads it (model_utils/quantization.py, 0.9.5)."""
_PACKAGES = ("llamafactory", "llmtuner")
"""LLaMA-Factory's own, the second up to 0.7."""
_BOARD = {
    "model_name": "model_name_or_path",
    "model_path": "model_name_or_path",
    "checkpoint_path": "adapter_name_or_path",
    "num_train_epochs": "num_train_epochs",
    "batch_size": "per_device_train_batch_size",
    "booster": "flash_attn",
    "compute_type": "compute_type",
}


def recognise(document: Document) -> float:
    """``finetuning_type``, or a stage with a model and a template, or the board's ``top.`` and ``train.``.

    A project that declares those keys in classes of its own reads its files itself, with its own other keys.
    """
    sure = _by_keys(document.data)
    if sure > 0 and document.path is not None:
        from ..script_fields import declared_by

        if declared_by(document.path, "finetuning_type", _PACKAGES) is not None:
            return 0.0
    return sure


def _by_keys(data: Any) -> float:
    if not isinstance(data, dict):
        return 0.0
    if sum(isinstance(key, str) and key.startswith(("top.", "train.")) for key in data) >= 2:
        return 0.97
    if "finetuning_type" in data and ("model_name_or_path" in data or "stage" in data):
        return 0.98
    if "stage" in data and "model_name_or_path" in data and {"template", "cutoff_len", "do_train"} & data.keys():
        return 0.95
    own = {"lora_target", "quantization_bit", "cutoff_len", "template", "finetuning_type"} & data.keys()
    return 0.85 if "model_name_or_path" in data and len(own) >= 2 else 0.0


def read(document: Document) -> Setup:
    """A LLaMA-Factory config → Setup."""
    known = key_list("llamafactory")
    reading = Reading(document, name, f"LLaMA-Factory {known.version}", traits=TRAITS, typed=False)
    if _is_board(reading):
        return _read_board(reading)
    reading.read_by_omegaconf()
    reading.take(_FIELDS)
    conclude(reading)
    reading.stops_at_unknown_keys = True
    if document.string_numbers:
        reading.remark(
            "string-numbers-converted", None, "OmegaConf, with which LLaMA-Factory reads, takes them as numbers."
        )
    reading.check_keys(known)
    return reading.setup()


def _is_board(reading: Reading) -> bool:
    return any(isinstance(key, str) and key.startswith("top.") for key in reading.data)


def conclude(reading: Reading) -> None:
    """What LLaMA-Factory makes of its keys."""
    kind = reading.get("finetuning_type", "lora")
    if kind != "lora":
        reading.remark("no-lora", "finetuning_type", f"finetuning_type: {kind} trains without LoRA.")
    _precision(reading)
    _quantization(reading)
    attention = str(reading.get("flash_attn", "auto")).lower()
    if attention in _ATTENTION:
        reading.put("model.attn_implementation", _ATTENTION[attention], "flash_attn")
    rank = reading.get("lora_rank", 8)
    if not reading.has("lora_alpha") and isinstance(rank, int):
        reading.default("lora.lora_alpha", 2 * rank, "lora_alpha is twice lora_rank")
    if reading.get("stage") == "pt":
        reading.put("training.method", "pretrain", "stage")
    if reading.get("stage") == "dpo":
        loss = str(reading.get("pref_loss", "sigmoid"))
        # Its one stage for pairs holds the methods that need no reference (train/dpo/trainer.py).
        reading.put("training.method" if loss in ("orpo", "simpo") else "training.loss_type", loss, "pref_loss")
        reading.default("training.beta", 0.1)
    if reading.get("pissa_init"):
        reading.put("lora.init_lora_weights", "pissa", "pissa_init")
    packing = reading.get("packing", reading.get("neat_packing"))
    if packing is not None:
        reading.put("training.packing", bool(packing), "packing" if reading.has("packing") else "neat_packing")
    else:
        reading.default("training.packing", reading.get("stage") == "pt", "on for stage: pt only")
    reading.defaults(_DEFAULTS)
    if reading.has("adapter_name_or_path") and reading.get("do_train", True):
        reading.default("model.adapter_is_trainable", True, "it trains the adapter on")
    if reading.value("training.gradient_checkpointing"):
        reentrant = reading.get("use_reentrant_gc", True)
        key = "use_reentrant_gc" if reading.has("use_reentrant_gc") else None
        reading.put("training.gradient_checkpointing_kwargs", {"use_reentrant": bool(reentrant)}, key)
    chosen = [key for key in _CODE if reading.get(key)]
    if chosen:
        reading.put("training.kernels", ["unsloth" if key == "use_unsloth" else key for key in chosen], chosen[0])
    reading.default("training.prepare_for_kbit_training", False, "it prepares the model by code of its own")
    if not reading.get("val_size") and not reading.has("eval_dataset") and not reading.has("eval_strategy"):
        reading.default("training.eval_strategy", "no")
    if reading.has("ref_model"):
        reading.remark("reference-given", "ref_model", "ref_model names the reference.")
    template = reading.get("template")
    if isinstance(template, str) and not is_template(template) and (near := slip_of(template)) is not None:
        note = f"LLaMA-Factory stops: it has no template {template}; the closest is {near}."
        reading.refused("template-unknown", "template", note)
    refuse_switched_strategies(reading, "LLaMA-Factory")
    _refuse_texts_for_numbers(reading)
    refuse(reading, "llamafactory", refusals.COMPUTED)
    refusals.remark(reading, trains_anyway=isinstance(reading, _Board))


def refuse_switched_strategies(reading: Reading, trainer: str) -> None:
    """A bare ``no`` in YAML is false, which IntervalStrategy does not know (transformers, trainer_utils.py)."""
    for key in ("eval_strategy", "evaluation_strategy", "save_strategy", "logging_strategy"):
        written = reading.get(key)
        if isinstance(written, bool):
            read = str(written).lower()
            note = f'{trainer} stops: {key} is read as {read} and not as a word; write "no", "steps" or "epoch".'
            reading.refused("strategy-is-a-switch", key, note)


def _refuse_texts_for_numbers(reading: Reading) -> None:
    """HfArgumentParser.parse_dict converts nothing: a text stays one, and what reckons with it stops."""
    if isinstance(reading, _Board):
        return
    strategy = reading.get("eval_strategy")
    evaluates = strategy not in (None, False, "no") or bool(reading.get("val_size")) or reading.has("eval_dataset")
    by_epoch = reading.get("save_strategy", "steps") != "steps"
    for key, row in _FIELDS.items():
        value = reading.data.get(key)
        path = row if isinstance(row, str) else row[0]
        if not isinstance(value, str) or is_template(value) or f"/{key}" in reading.document.string_numbers:
            continue
        if (key in ("eval_steps", "per_device_eval_batch_size") and not evaluates) or (
            key == "save_steps" and by_epoch
        ):
            continue  # nothing reckons with it
        section, _, field = path.partition(".")
        if describe_type(SECTIONS[section].model_fields[field].annotation) in ("a number", "a whole number"):
            note = f"LLaMA-Factory stops: {key} is the text {value!r} where a number stands, and nothing converts it."
            reading.refused("text-for-a-number", key, note)


def _precision(reading: Reading) -> None:
    """The compute dtype follows bf16 and fp16; with neither it is inferred from the checkpoint and the GPU."""
    key = next((key for key in ("bf16", "pure_bf16", "fp16") if reading.get(key)), None)
    if key is None:
        reading.leave("model.dtype", why="With neither bf16 nor fp16 LLaMA-Factory infers it from checkpoint and GPU.")
        return
    reading.put("model.dtype", "float16" if key == "fp16" else "bfloat16", key)


def _is_old(reading: Reading) -> bool:
    """Whether the file's project pins, or is, a LLaMA-Factory that still calls the method bitsandbytes."""
    from ..python.neighbours import Neighbours
    from ..script_fields import asked_beside

    if reading.file is None:
        return False
    config = Path(reading.file)
    asked = asked_beside(config, ("llamafactory",)).get("llamafactory")
    written = (asked.exact or asked.at_least) if asked is not None else _version_of_checkout(Neighbours(config).folders)
    version = version_tuple(written)
    return version is not None and version < (0, 9, 3)


def _version_of_checkout(folders: list[Path]) -> str | None:
    """The version of a checkout of LLaMA-Factory that one of these folders is; None where none is."""
    for folder in folders:
        try:
            text = (folder / "src" / "llamafactory" / "extras" / "env.py").read_text(encoding="utf-8")
        except (OSError, ValueError):
            continue
        found = re.search(r"""^VERSION\s*=\s*["']([\w.]+)["']""", text, re.MULTILINE)
        return found.group(1) if found else None
    return None


def _nothing_quantized(reading: Reading, method: str) -> None:
    """LLaMA-Factory compares the method with those of ``_BACKENDS``; another matches none, without an error."""
    note = f"LLaMA-Factory quantizes a base as it loads it with bnb, hqq and eetq alone; {method} quantizes nothing."
    for path in ("quantization.load_in_4bit", "quantization.load_in_8bit"):
        reading.put(path, False, "quantization_method", note)
    if method == "bitsandbytes":
        reading.remark("quantization-method-renamed", "quantization_method", note)
    else:
        reading.remark("four-bit-switch-without-effect", "quantization_bit", note)


def _quantization(reading: Reading) -> None:
    bits = reading.get("quantization_bit")
    method = str(reading.get("quantization_method", "bnb"))
    if bits is not None and is_template(method):
        for path in ("quantization.load_in_4bit", "quantization.load_in_8bit"):
            reading.forget(path, "The method is filled in when the run starts.", "quantization_method")
        return
    if bits is not None and method not in _BACKENDS and not (method == "bitsandbytes" and _is_old(reading)):
        _nothing_quantized(reading, method)
        return
    backend = _BACKENDS.get(method, "bitsandbytes")  # the old name of bnb
    four = str(bits) == "4"
    reading.put("quantization.load_in_4bit", four, "quantization_bit")
    reading.put("quantization.load_in_8bit", str(bits) == "8", "quantization_bit")
    if bits is None:
        return
    reading.put("quantization.backend", backend, "quantization_method")
    if not four or backend != "bitsandbytes":
        return
    reading.take({"quantization_type": "quantization.bnb_4bit_quant_type"})
    reading.take({"double_quantization": ("quantization.bnb_4bit_use_double_quant", truthy)})
    reading.defaults({"quantization.bnb_4bit_quant_type": "nf4", "quantization.bnb_4bit_use_double_quant": True})
    dtype = reading.value("model.dtype")
    for field in ("bnb_4bit_compute_dtype", "bnb_4bit_quant_storage"):
        if dtype is None:
            reading.leave(
                f"quantization.{field}", why="It is the dtype that LLaMA-Factory infers from checkpoint and GPU."
            )
        else:
            reading.default(f"quantization.{field}", dtype, "the dtype that it computes in")


def _read_board(reading: Reading) -> Setup:
    """The board writes the state of its widgets: ``top.…`` and ``train.…``, translated to the keys of the YAML."""
    plain = {}
    origin = {}
    for key, value in reading.data.items():
        tab, _, field = str(key).partition(".")
        if tab in ("top", "train") and value not in (None, ""):
            field = _BOARD.get(field, field)
            plain[field], origin[field] = value, str(key)
    compute = plain.pop("compute_type", None)
    if compute in ("bf16", "fp16", "pure_bf16"):
        plain[compute], origin[compute] = True, origin.get("compute_type", "train.compute_type")
    if plain.get("quantization_bit") in ("none", "None"):
        plain.pop("quantization_bit")
    board = _Board(reading.document, name, reading.version, typed=False)
    board.plain, board.origin_keys = plain, origin
    board.take(_FIELDS)
    conclude(board)
    return board.setup()


class _Board(Reading):
    """Looks a plain key up under the name that the board gave it."""

    plain: dict[str, Any]
    origin_keys: dict[str, str]

    def _find(self, key: str) -> tuple[Any, str | None]:
        if key not in self.plain:
            return None, None
        return self.plain[key], super()._find(self.origin_keys[key])[1]

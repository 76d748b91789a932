"""Home-made configs: the usual names in any sections, read by a script that is not seen. What is found is a guess.

A key counts where its name can mean one thing only (``lora_r``), or where it stands in a section that says what it is
about (``lora: {r: 16}``). Whatever the file does not give is decided by the script and stays unknown.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from ...setup.setup import Setup
from ...setup.traits import Traits
from ..document import Document
from .fields import SCRIPT_DECIDES, Reading
from .values import dtype, name_list, names, one_or_list, storage_dtype, strategy, switch, text

name = "custom"
TRAITS = Traits(switches_of_transformers=True, heeds_launcher=True)

_DEPTH = 4
_ELSEWHERE = {
    "inference",
    "generation",
    "benchmark",
    "evaluation",
    "eval",
    "wandb",
    "logging",
    "ollama",
    "deployment",
    "serving",
    "teacher",
    "judge",
    "reward_model",
    "draft",
    "embedding",
    "retriever",
    "rag",
    "export",
    "merge",
    "testing",
    "test",
}
"""Sections about something else than the training."""

_MODEL = {"model", "base_model", "model_config", "models", "training_config", "model_args", "base", "llm", "pretrained"}
_LORA = {"lora", "peft", "qlora", "adapter", "lora_config", "peft_config", "lora_args", "lora_params", "dora"}
_BITS = {
    "quantization",
    "quantization_config",
    "bnb",
    "bnb_config",
    "qlora",
    "bitsandbytes",
    "quant",
    "quantize",
    "model",
    "quantization_args",
    "bnb_4bit",
}
_TRAINING = {
    "training",
    "train",
    "training_args",
    "training_arguments",
    "trainer",
    "sft",
    "hyperparameters",
    "training_config",
    "optimization",
    "optimizer",
    "batch",
    "epochs",
    "sft_config",
    "training_params",
    "args",
    "params",
    "finetuning",
    "fine_tuning",
}
_DATA = {"data", "dataset", "datasets", "data_config", "data_args", "tokenizer", "tokenization"}


@dataclass(frozen=True)
class Alias:
    """What a canonical path may be called.

    Attributes:
        path: the canonical path.
        anywhere: names that mean it wherever they stand.
        inside: further names that mean it inside one of ``sections``.
        flat: names that mean it at the top of a file that speaks of LoRA or of 4 bits.
    """

    path: str
    anywhere: tuple[str, ...]
    inside: tuple[str, ...] = ()
    sections: frozenset[str] = frozenset()
    flat: tuple[str, ...] = ()
    convert: Callable[[Any], Any] | None = None


def _bits(expected: str) -> Callable[[Any], bool]:
    """``4``, ``4bit``, ``int4``, ``nf4`` and true, as the switch of one width."""

    def convert(value: Any) -> bool:
        if isinstance(value, bool):
            return value
        word = str(value).lower().replace("-", "").replace("_", "")
        fours = {"4": ("4", "4bit", "int4", "nf4", "fp4", "bnb4bit", "qlora"), "8": ("8", "8bit", "int8", "bnb8bit")}
        others = (*fours["4" if expected == "8" else "8"], "none", "false", "16", "null", "no", "fp16", "bf16")
        return True if word in fours[expected] else False if word in others else switch(value)

    return convert


def _precision(name: str) -> Callable[[Any], bool]:
    """``bf16``, ``fp16``, ``no`` as the switch of one of them."""

    def convert(value: Any) -> bool:
        if isinstance(value, bool):
            return False  # YAML's no
        return str(value).lower() not in ("no", "none") and dtype(str(value).lower().removesuffix("-mixed")) == name

    return convert


def _alias(
    path: str,
    anywhere: str,
    inside: str = "",
    sections: set[str] | None = None,
    convert: Callable[[Any], Any] | None = None,
    flat: str = "",
) -> Alias:
    return Alias(
        path, tuple(anywhere.split()), tuple(inside.split()), frozenset(sections or ()), tuple(flat.split()), convert
    )


ALIASES: tuple[Alias, ...] = (
    _alias(
        "model.name_or_path",
        "model_name_or_path base_model base_model_name pretrained_model_name_or_path pretrained_model_name "
        "base_model_name_or_path hf_model_id base_model_id model_name model_id model_path pretrained_model",
        "name name_or_path id path model checkpoint",
        _MODEL,
        text,
    ),
    _alias("model.name_or_path", "", "model", {"args", "params", "training", "train", "sft"}, text),
    _alias("model.revision", "model_revision", "revision", _MODEL, text),
    _alias("model.dtype", "torch_dtype model_dtype", "dtype", _MODEL, dtype),
    _alias("model.attn_implementation", "attn_implementation", "attention_implementation", _MODEL),
    _alias("model.trust_remote_code", "trust_remote_code"),
    _alias("model.device_map", "device_map"),
    _alias("model.use_cache", "use_cache", "", None, switch),
    _alias(
        "quantization.load_in_4bit",
        "load_in_4bit use_4bit use_4bits load_4bit use_qlora quantize_4bit quantization_bit",
        "quantization bits enabled_4bit",
        _BITS,
        _bits("4"),
        flat="bits quant_bits wbits quantization quantize",
    ),
    _alias(
        "quantization.load_in_8bit",
        "load_in_8bit use_8bit quantization_bit",
        "bits",
        _BITS,
        _bits("8"),
        flat="bits quant_bits wbits",
    ),
    _alias(
        "quantization.bnb_4bit_quant_type",
        "bnb_4bit_quant_type bnb_quant_type",
        "quant_type type quantization_type",
        _BITS - {"model"},
        text,
        flat="quant_type quantization_type",
    ),
    _alias(
        "quantization.bnb_4bit_use_double_quant",
        "bnb_4bit_use_double_quant use_nested_quant use_double_quant bnb_use_double_quant "
        "use_bnb_nested_quant double_quant",
        "double_quantization nested_quant",
        _BITS,
        switch,
    ),
    _alias(
        "quantization.bnb_4bit_compute_dtype",
        "bnb_4bit_compute_dtype bnb_compute_dtype",
        "compute_dtype",
        _BITS,
        dtype,
        "compute_dtype",
    ),
    _alias("quantization.bnb_4bit_quant_storage", "bnb_4bit_quant_storage", "quant_storage", _BITS, storage_dtype),
    _alias("lora.r", "lora_r lora_rank", "r rank lora_dim", _LORA, flat="r rank lora_dim"),
    _alias("lora.lora_alpha", "lora_alpha", "alpha", _LORA, flat="alpha"),
    _alias("lora.lora_dropout", "lora_dropout", "dropout", _LORA),
    _alias(
        "lora.target_modules",
        "lora_target_modules target_modules lora_targets lora_target",
        "targets modules target",
        _LORA,
        names,
    ),
    _alias("lora.modules_to_save", "modules_to_save lora_modules_to_save", "", None, name_list),
    _alias("lora.bias", "lora_bias", "bias", _LORA, lambda value: value if isinstance(value, str) else None),
    _alias("lora.task_type", "lora_task_type", "task_type", _LORA, text),
    _alias("lora.use_rslora", "use_rslora", "", None, switch),
    _alias("lora.use_dora", "use_dora", "", None, switch),
    _alias("lora.init_lora_weights", "init_lora_weights"),
    _alias(
        "training.per_device_train_batch_size",
        "per_device_train_batch_size per_device_batch_size per_gpu_train_batch_size train_batch_size micro_batch_size",
        "batch_size size",
        _TRAINING,
        flat="batch_size",
    ),
    _alias("training.per_device_eval_batch_size", "per_device_eval_batch_size eval_batch_size"),
    _alias(
        "training.gradient_accumulation_steps",
        "gradient_accumulation_steps grad_accum grad_accum_steps gradient_accumulation grad_accumulation_steps",
        "accumulation_steps accum_steps",
        _TRAINING,
        flat="accumulation_steps accum_steps",
    ),
    _alias("training.learning_rate", "learning_rate", "lr", _TRAINING, flat="lr"),
    _alias("training.weight_decay", "weight_decay"),
    _alias("training.max_grad_norm", "max_grad_norm", "gradient_clip grad_clip", _TRAINING),
    _alias(
        "training.max_steps",
        "max_steps",
        "",
        None,
        lambda value: value if isinstance(value, int) and value > 0 else None,
    ),
    _alias(
        "training.num_train_epochs",
        "num_train_epochs num_epochs n_epochs train_epochs",
        "epochs",
        _TRAINING,
        flat="epochs",
    ),
    _alias("training.lr_scheduler_type", "lr_scheduler_type lr_scheduler", "scheduler", _TRAINING, text),
    _alias("training.warmup_ratio", "warmup_ratio"),
    _alias("training.warmup_steps", "warmup_steps"),
    _alias("training.optim", "optim", "optimizer", _TRAINING, lambda value: value if isinstance(value, str) else None),
    _alias("training.bf16", "bf16", "", None, switch),
    _alias("training.fp16", "fp16", "", None, switch),
    _alias("training.bf16", "mixed_precision", "precision", _TRAINING, _precision("bfloat16"), "precision"),
    _alias("training.fp16", "mixed_precision", "precision", _TRAINING, _precision("float16"), "precision"),
    _alias(
        "training.gradient_checkpointing",
        "gradient_checkpointing use_gradient_checkpointing",
        "",
        None,
        lambda value: True if value == "unsloth" else switch(value),
    ),
    _alias("training.gradient_checkpointing_kwargs", "gradient_checkpointing_kwargs"),
    _alias(
        "training.max_length",
        "max_seq_length max_seq_len max_sequence_length cutoff_len model_max_length",
        "max_length sequence_length seq_length seq_len block_size context_length max_len",
        _DATA | _TRAINING | _MODEL,
        flat="max_length sequence_length seq_length seq_len block_size context_length max_len",
    ),
    _alias("training.packing", "packing sample_packing pack_sequences use_packing pack_samples", "", None, switch),
    _alias("training.group_by_length", "group_by_length", "", None, switch),
    _alias("training.neftune_noise_alpha", "neftune_noise_alpha"),
    _alias("training.eval_strategy", "eval_strategy evaluation_strategy", "", None, strategy),
    _alias("training.save_strategy", "save_strategy", "", None, strategy),
    _alias("training.seed", "seed", "random_seed", _TRAINING),
    _alias("training.deepspeed", "deepspeed"),
    _alias("training.fsdp", "fsdp", "", None, lambda value: value if isinstance(value, str | list) else None),
    _alias("training.logging_steps", "logging_steps"),
    _alias("training.save_steps", "save_steps"),
    _alias("training.eval_steps", "eval_steps"),
    _alias("training.load_best_model_at_end", "load_best_model_at_end", "", None, switch),
    _alias("training.report_to", "report_to"),
    _alias("training.output_dir", "output_dir", "", None, text),
    _alias(
        "data.train",
        "train_file train_path train_data_path train_dataset dataset_path dataset_name",
        "name path train hf_dataset",
        _DATA,
        one_or_list,
    ),
)
"""Most specific name first: an earlier alias wins over a later one."""

_TELLING = (
    "quantization.load_in_4bit",
    "lora.r",
    "lora.target_modules",
    "lora.lora_alpha",
    "quantization.bnb_4bit_quant_type",
)

_RUN = ("model.name_or_path", "training.learning_rate", "training.per_device_train_batch_size")


def recognise(document: Document) -> float:
    """How many of the values that make a QLoRA run are found; never more than a guess."""
    if not isinstance(document.data, dict):
        return 0.0
    found = {alias.path for alias, _, _ in _matches(document.data, document.text)}
    if not found & set(_TELLING):
        return 0.35 if set(_RUN) <= found else 0.0
    extent = sum(path in found for path in (*_TELLING, *_RUN))
    return round(min(0.7, 0.3 + 0.06 * extent), 2) if extent >= 2 else 0.0


def read(document: Document) -> Setup:
    """A home-made config → Setup, by alias; all that is not found is unknown."""
    reading = Reading(document, name, "a script that is not seen", traits=TRAITS, typed=False, own_words=True)
    for alias, key, _ in _matches(reading.data, document.text):
        row = alias.path if alias.convert is None else (alias.path, alias.convert)
        reading.take({key: row})
    if document.string_numbers and converts_numbers(document):
        reading.remark("string-numbers-converted", None, "What loads the file turns such texts into numbers.")
    _switched_off(reading)
    for section in ("model", "quantization", "lora", "training"):
        reading.leave_rest(section, why=SCRIPT_DECIDES)
    return reading.setup()


_NO_BITS = frozenset({"is_quantized", "use_quantization", "use_quant", "enable_quantization", "quantize_model"})
_NO_LORA = frozenset({"is_peft", "use_peft", "use_lora", "enable_lora", "enable_peft", "is_lora", "lora_enabled"})
_SWITCHES = frozenset({"enabled", "enable"})


def _switched_off(reading: Reading) -> None:
    """What a switch turns off, whatever stands below it: ``is_quantized: false``, ``lora.enabled: false``."""
    for key, _, value in _leaves(reading.data):
        above, _, word = key.lower().rpartition(".")
        section = above.rpartition(".")[2]
        if value is not False:
            continue
        if word in _NO_BITS or (word in _SWITCHES and section in _BITS):
            reading.forget(
                "quantization.load_in_4bit", f"{key} is false; what that turns off, the script decides.", key
            )
        if word in _NO_LORA or (word in _SWITCHES and section in _LORA):
            reading.remark("no-lora", key, f"{key} is false, so that no LoRA is trained.")


_SPEAKS = re.compile(r"lora|peft|nf4|fp4|4-?bit|bnb|bitsandbytes", re.IGNORECASE)


def _matches(data: dict[str, Any], text: str = "") -> Iterator[tuple[Alias, str, Any]]:
    """(alias, dotted key, value) in the order in which they count: by alias, then by how specific, then by depth.

    Args:
        text: of the file, which shows whether short names at its top are about LoRA; without it they are not.
    """
    flat = _SPEAKS.search(text) is not None
    leaves = sorted(_leaves(data), key=lambda leaf: leaf[0].count("."))
    by_name: dict[str, list[tuple[str, frozenset[str], Any]]] = {}
    for key, sections, value in leaves:
        by_name.setdefault(key.rsplit(".", 1)[-1].lower(), []).append((key, sections, value))
    for alias in ALIASES:
        for word in alias.anywhere:
            for key, _, value in by_name.get(word, ()):
                yield alias, key, value
        for word in alias.inside:
            for key, sections, value in by_name.get(word, ()):
                if sections & alias.sections:
                    yield alias, key, value
        for word in alias.flat if flat else ():
            for key, sections, value in by_name.get(word, ()):
                if not sections and not isinstance(value, dict):
                    yield alias, key, value


def _leaves(
    data: dict[str, Any], prefix: str = "", sections: frozenset[str] = frozenset()
) -> Iterator[tuple[str, frozenset[str], Any]]:
    for key, value in data.items():
        if not isinstance(key, str) or value is None:
            continue
        path = prefix + key
        if isinstance(value, dict) and path.count(".") < _DEPTH and key.lower() not in _ELSEWHERE:
            yield from _leaves(value, path + ".", sections | {key.lower()})
        if not (isinstance(value, dict) and key.lower() in _ELSEWHERE):
            yield path, sections, value


_SCRIPTS, _LONGEST_SCRIPT = 40, 1 << 20
_OTHER_READERS = re.compile(r"\bomegaconf\b|\bhydra\b|\bruamel\b|TrlParser|jsonargparse", re.IGNORECASE)
"""Readers that take ``2e-4`` as a number, or turn it into one by the type of the field."""
_LOADS_INTO_MODELS = re.compile(
    r"(?=.*\byaml\.(?:safe_)?load\b)(?=.*\b(?:import pydantic|from pydantic(?:\.\w+)* import)\b)", re.DOTALL
)
"""A loader that hands what it read to pydantic, which makes numbers of such texts."""


_OMEGACONF = re.compile(r"^#\s*@package\b|\$\{(?:oc|hydra|now)[.:]", re.MULTILINE)


def is_omegaconf(document: Document) -> bool:
    """True for a file that only Hydra or OmegaConf reads as it is meant, whose loader takes ``2e-4`` as a number.

    Source: omegaconf/_utils.py, get_yaml_loader; Hydra's defaults list.
    """
    if _OMEGACONF.search(document.text) is not None:
        return True
    listed = document.data.get("defaults") if isinstance(document.data, dict) else None
    groups = [each for each in listed if isinstance(each, dict)] if isinstance(listed, list) else []
    return any(len(each) == 1 for each in groups)


def converts_numbers(document: Document) -> bool:
    """True where the file's loader, or a script beside it or up to two folders above, turns each text for a number into
    one."""
    if is_omegaconf(document):
        return True
    if document.path is None:
        return False
    keys = {pointer.rpartition("/")[2] for pointer in document.string_numbers}
    texts = list(_scripts_beside(document))
    if any(_OTHER_READERS.search(text) and document.path.name in text for text in texts):
        return True
    if any(_LOADS_INTO_MODELS.match(text) for text in texts):
        return True
    calls = re.compile(rf"\bfloat\([^()\n]*?[\"'.]({'|'.join(map(re.escape, keys))})\b")
    return bool(keys) and {match[1] for text in texts for match in calls.finditer(text)} >= keys


def _scripts_beside(document: Document) -> Iterator[str]:
    assert document.path is not None
    folder = document.path.resolve().parent
    try:
        files = [file for place in (folder, *folder.parents[:2]) for file in sorted(place.glob("*.py"))]
        for file in files[:_SCRIPTS]:
            if file.stat().st_size <= _LONGEST_SCRIPT:
                yield file.read_text("utf-8", errors="ignore")
    except OSError:
        return

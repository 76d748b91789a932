"""Home-made configs: the usual names in any sections, read by a script that is not seen. What is found is a guess.

A key counts where its name can mean one thing only (``lora_r``), or where it stands in a section that says what it is
about (``lora: {r: 16}``). Whatever the file does not give is decided by the script and stays unknown.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from ...setup.setup import Setup
from ...setup.traits import Traits
from ..document import Document
from .fields import SCRIPT_DECIDES, Reading
from .values import Unreadable, dtype, name_list, names, one_or_list, storage_dtype, strategy, switch, text

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


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_MODEL = _words(
    "model models base base_model model_config model_args training_config llm language_model pretrained backbone "
    "student student_model"
)
_LORA = _words("lora peft qlora adapter adapters lora_config peft_config lora_args lora_params dora")
_QUANTIZATION = _words(
    "quantization quantization_config quantization_args quant quantize bnb bnb_config bnb_4bit bitsandbytes"
)
_BITS = _QUANTIZATION | {"qlora", "model"}
_TRAINING = _words(
    "training train training_args training_arguments training_config training_params trainer sft sft_config "
    "hyperparameters hyperparams hyper_params hyper hparams hp optimization optimizer optimiser optim opt solver "
    "scheduler batch epochs args params finetuning fine_tuning finetune fine_tune loop fit schedule"
)
_NO_UPDATES = _words("scheduler schedule epochs batch optimizer optimiser optim opt solver")
"""Sections of a training whose ``steps`` are others than the run's updates."""
_TOKENIZER = {"tokenizer", "tokenization"}
_DATA = _words("data dataset datasets data_config data_args datamodule data_module")


@lru_cache(maxsize=4096)
def _plain(key: str) -> str:
    """A key without the signs that part its words: ``learning-rate`` and ``learningRate`` are ``learning_rate``."""
    return key.lower().replace("_", "").replace("-", "")


@dataclass(frozen=True)
class Alias:
    """What a canonical path may be called.

    Attributes:
        path: the canonical path.
        anywhere: names that mean it wherever they stand; ``a.b`` is b right below a.
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
    sections: Collection[str] = (),
    convert: Callable[[Any], Any] | None = None,
    flat: str = "",
) -> Alias:
    return Alias(
        path,
        tuple(_plain(anywhere).split()),
        tuple(_plain(inside).split()),
        frozenset(map(_plain, sections)),
        tuple(_plain(flat).split()),
        convert,
    )


def _model_id(value: Any) -> str | None:
    """A hub id such as ``owner/name-7b``; null for what a key such as ``base`` may name as well (a file, a folder)."""
    found = _HUB_ID.match(value) if isinstance(value, str) else None
    return value if found is not None and found[1].lower() not in _FOLDERS else None


def _model_or_folder(value: Any) -> str | None:
    """A hub id or the path of a folder; null for a word that the script has a model for."""
    if not isinstance(value, str):
        return None
    is_path = value.startswith(("/", "./", "../", "~/")) and "." not in value.rpartition("/")[2][-6:].lstrip(".")
    return value if is_path else _model_id(value)


_HUB_ID = re.compile(r"([A-Za-z0-9][\w.-]*)/(?=[\w.-]*[\d-])[\w.-]+(?<!\.json)(?<!\.yaml)(?<!\.yml)(?<!\.toml)\Z")
_FOLDERS = _words("config configs conf data dataset datasets output outputs out runs experiments recipes home")


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and value > 0 else None


def _qlora(value: Any) -> bool | None:
    """True for the method whose name says that the base is in 4 bits."""
    return True if _plain(str(value)) in ("qlora", "qdora") else None


def _four_bit_type(value: Any) -> bool | None:
    """True for a data type of 4 bits, which needs no further switch."""
    return True if str(value).lower() in ("nf4", "fp4") else None


def _quant_type(value: Any) -> str:
    """The data type; what bitsandbytes does not know is a word of the script."""
    if _four_bit_type(value) is None:
        raise Unreadable("nf4 or fp4")
    return str(value).lower()


def _layers(value: Any) -> list[str] | None:
    """Names of layers; null for their numbers."""
    named = isinstance(value, list) and value and all(isinstance(each, str) and not each.isdigit() for each in value)
    return value if named else None


def _warmup(*, steps: bool) -> Callable[[Any], Any]:
    """``warmup: 100`` as steps, ``warmup: 0.03`` as a part of the run."""

    def convert(value: Any) -> Any:
        if isinstance(value, bool) or not isinstance(value, int | float):
            return None
        return value if (isinstance(value, int) and value >= 1) is steps else None

    return convert


ALIASES: tuple[Alias, ...] = (
    _alias("model.name_or_path", "", "base", _MODEL, _model_id),
    _alias(
        "model.name_or_path",
        "model_name_or_path base_model base_model_name pretrained_model_name_or_path pretrained_model_name "
        "base_model_name_or_path hf_model_id hf_model base_model_id base_model_path model_name model_id model_path "
        "pretrained_model hf_id",
        "path id name_or_path hub_id repo_id repo pretrained model checkpoint name",
        _MODEL,
        text,
    ),
    _alias("model.name_or_path", "", "model", {"args", "params", "training", "train", "sft"}, text),
    _alias("model.name_or_path", "", "", (), _model_or_folder, flat="model"),
    _alias("model.name_or_path", "backbone llm student run.base run.model", convert=_model_id, flat="base checkpoint"),
    _alias("model.revision", "model_revision", "revision", _MODEL, text),
    _alias("model.dtype", "torch_dtype model_dtype", "dtype", _MODEL, dtype),
    _alias("model.attn_implementation", "attn_implementation", "attention_implementation attn_impl attn", _MODEL),
    _alias("model.trust_remote_code", "trust_remote_code"),
    _alias("model.device_map", "device_map"),
    _alias("model.use_cache", "use_cache", "", (), switch),
    _alias(
        "quantization.load_in_4bit",
        "load_in_4bit use_4bit use_4bits load_4bit use_qlora quantize_4bit quantization_bit in_4bit",
        "quantization bits nbits n_bits num_bits enabled_4bit load_in quantize 4bit int4",
        _BITS,
        _bits("4"),
        flat="bits quant_bits wbits quantization quantize quant load_in 4bit",
    ),
    _alias("quantization.load_in_4bit", "", "type quant_type quantization_type method", _QUANTIZATION, _four_bit_type),
    _alias("quantization.load_in_4bit", "finetuning_type", "method mode type kind", _LORA | _TRAINING, _qlora),
    _alias("quantization.load_in_4bit", "", "", (), _qlora, "method mode adapter peft tuning finetuning"),
    _alias(
        "quantization.load_in_8bit",
        "load_in_8bit use_8bit quantization_bit",
        "bits nbits n_bits num_bits load_in",
        _BITS,
        _bits("8"),
        flat="bits quant_bits wbits load_in",
    ),
    _alias(
        "quantization.bnb_4bit_quant_type",
        "bnb_4bit_quant_type bnb_quant_type",
        "quant_type type quantization_type",
        _QUANTIZATION | {"qlora"},
        _quant_type,
        flat="quant_type quantization_type",
    ),
    _alias(
        "quantization.bnb_4bit_use_double_quant",
        "bnb_4bit_use_double_quant use_nested_quant use_double_quant bnb_use_double_quant "
        "use_bnb_nested_quant double_quant bnb_4bit_double_quant",
        "double_quantization nested_quant nested double",
        _BITS,
        switch,
    ),
    _alias(
        "quantization.bnb_4bit_compute_dtype",
        "bnb_4bit_compute_dtype bnb_compute_dtype",
        "compute_dtype compute",
        _BITS,
        dtype,
        "compute_dtype",
    ),
    _alias("quantization.bnb_4bit_quant_storage", "bnb_4bit_quant_storage", "quant_storage", _BITS, storage_dtype),
    _alias("lora.r", "lora_r lora_rank lora_dim", "r rank dim", _LORA, flat="r rank"),
    _alias("lora.lora_alpha", "lora_alpha", "alpha", _LORA, flat="alpha"),
    _alias("lora.lora_dropout", "lora_dropout", "dropout p_dropout", _LORA),
    _alias(
        "lora.target_modules",
        "lora_target_modules target_modules lora_targets lora_target lora_modules",
        "targets modules target",
        _LORA,
        names,
    ),
    _alias("lora.target_modules", "", "layers target_layers", _LORA, _layers),
    _alias("lora.modules_to_save", "modules_to_save lora_modules_to_save", "", (), name_list),
    _alias("lora.bias", "lora_bias", "bias", _LORA, lambda value: value if isinstance(value, str) else None),
    _alias("lora.task_type", "lora_task_type", "task_type", _LORA, text),
    _alias("lora.use_rslora", "use_rslora", "rslora", _LORA, switch),
    _alias("lora.use_dora", "use_dora", "dora", _LORA, switch),
    _alias("lora.init_lora_weights", "init_lora_weights"),
    _alias(
        "training.per_device_train_batch_size",
        "per_device_train_batch_size per_device_batch_size per_gpu_train_batch_size per_device_batch "
        "batch_size_per_device batch_size_per_gpu per_gpu_batch_size train_batch_size train_micro_batch_size_per_gpu "
        "micro_batch_size micro_batch micro_bs micro_bsz batch.micro batch.per_device batch.size",
        "batch_size bs bsz batch",
        _TRAINING | _DATA,
        flat="batch_size bs bsz batch",
    ),
    _alias("training.per_device_eval_batch_size", "per_device_eval_batch_size eval_batch_size"),
    _alias(
        "training.gradient_accumulation_steps",
        "gradient_accumulation_steps grad_accum grad_accum_steps gradient_accumulation grad_accumulation_steps "
        "grad_accumulation grad_acc grad_acc_steps accumulate_grad_batches",
        "accumulation_steps accum_steps accumulation accumulate accum gas",
        _TRAINING,
        flat="accumulation_steps accum_steps accumulation accum",
    ),
    _alias(
        "training.learning_rate",
        "learning_rate",
        "lr base_lr max_lr peak_lr",
        _TRAINING | _LORA,
        flat="lr max_lr peak_lr",
    ),
    _alias("training.weight_decay", "weight_decay", "wd", _TRAINING, flat="wd"),
    _alias(
        "training.max_grad_norm",
        "max_grad_norm clip_grad_norm grad_clip_norm gradient_clip_val gradient_clip_norm",
        "gradient_clip gradient_clipping grad_clip clip_grad",
        _TRAINING,
    ),
    _alias(
        "training.max_steps",
        "max_steps num_train_steps training_steps max_train_steps total_steps",
        "max_iters num_steps",
        _TRAINING,
        _count,
    ),
    _alias(
        "training.max_steps",
        " ".join(f"{section}.steps" for section in sorted(_TRAINING - _NO_UPDATES)),
        convert=_count,
    ),
    _alias(
        "training.num_train_epochs",
        "num_train_epochs num_epochs n_epochs train_epochs max_epochs",
        "epochs",
        _TRAINING,
        flat="epochs",
    ),
    _alias(
        "training.lr_scheduler_type",
        "lr_scheduler_type lr_scheduler scheduler_type scheduler.name scheduler.type "
        "lr_scheduler.name lr_scheduler.type",
        "scheduler schedule sched lr_schedule",
        _TRAINING,
        text,
        flat="scheduler lr_schedule",
    ),
    _alias("training.warmup_ratio", "warmup_ratio"),
    _alias("training.warmup_ratio", "", "warmup", _TRAINING, _warmup(steps=False)),
    _alias("training.warmup_steps", "warmup_steps"),
    _alias("training.warmup_steps", "", "warmup", _TRAINING, _warmup(steps=True)),
    _alias(
        "training.optim",
        "optim "
        + " ".join(f"{above}.{key}" for above in ("optimizer", "optim", "opt") for key in ("name", "type", "kind")),
        "optimizer",
        _TRAINING,
        lambda value: value if isinstance(value, str) else None,
        flat="optimizer",
    ),
    _alias("training.bf16", "bf16", "", (), switch),
    _alias("training.fp16", "fp16", "", (), switch),
    _alias("training.bf16", "mixed_precision", "precision", _TRAINING, _precision("bfloat16"), "precision"),
    _alias("training.fp16", "mixed_precision", "precision", _TRAINING, _precision("float16"), "precision"),
    _alias(
        "training.gradient_checkpointing",
        "gradient_checkpointing use_gradient_checkpointing grad_checkpointing grad_checkpoint",
        "",
        (),
        lambda value: True if value == "unsloth" else switch(value),
    ),
    _alias("training.gradient_checkpointing_kwargs", "gradient_checkpointing_kwargs"),
    _alias(
        "training.max_length",
        "max_seq_length max_seq_len max_sequence_length max_sequence_len cutoff_len model_max_length max_seqlen",
        "max_length sequence_length sequence_len seq_length seq_len seqlen block_size context_length context_len "
        "max_len ctx_len",
        _DATA | _TRAINING | _MODEL | _TOKENIZER,
        flat="max_length sequence_length sequence_len seq_length seq_len seqlen block_size context_length max_len",
    ),
    _alias("training.packing", "packing sample_packing pack_sequences use_packing pack_samples", "", (), switch),
    _alias("training.group_by_length", "group_by_length", "", (), switch),
    _alias("training.neftune_noise_alpha", "neftune_noise_alpha"),
    _alias("training.eval_strategy", "eval_strategy evaluation_strategy", "", (), strategy),
    _alias("training.save_strategy", "save_strategy", "", (), strategy),
    _alias("training.seed", "seed", "random_seed", _TRAINING),
    _alias("training.deepspeed", "deepspeed"),
    _alias("training.fsdp", "fsdp", "", (), lambda value: value if isinstance(value, str | list) else None),
    _alias("training.logging_steps", "logging_steps"),
    _alias("training.save_steps", "save_steps"),
    _alias("training.eval_steps", "eval_steps"),
    _alias("training.load_best_model_at_end", "load_best_model_at_end", "", (), switch),
    _alias("training.report_to", "report_to"),
    _alias("training.output_dir", "output_dir", "", (), text),
    _alias(
        "data.train",
        "train_file train_path train_data_path train_dataset train_data train_files train_jsonl training_file "
        "training_data dataset_path dataset_name dataset_id",
        "path file train hf_dataset hub_id repo id name",
        _DATA,
        lambda value: (
            None if isinstance(value, list) and any(isinstance(each, dict) for each in value) else one_or_list(value)
        ),
        flat="dataset data",
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
    for alias, key, value in _matches(reading.data, document.text):
        if isinstance(value, dict) and alias.path not in _MAPPINGS:
            continue  # a section of that name
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
    for leaf in leaves:
        *above, word = map(_plain, leaf[0].split(".")[-2:])
        for written in (word, *(f"{section}.{word}" for section in above)):
            by_name.setdefault(written, []).append(leaf)
    for alias in ALIASES:
        found = []
        for words, fits in (
            (alias.anywhere, lambda sections: True),
            (alias.inside, alias.sections.intersection),
            (alias.flat if flat else (), lambda sections: not sections),
        ):
            found += [
                (alias, key, value)
                for word in words
                for key, sections, value in by_name.get(word, ())
                if fits(sections)
            ]
        # Where a model has a name and a path, one of them is what the hub knows.
        if alias.path == "model.name_or_path":
            found = sorted(found, key=lambda each: _model_id(each[2]) is None)
        yield from found


_MAPPINGS = {"model.device_map", "training.deepspeed", "training.gradient_checkpointing_kwargs"}


def _leaves(
    data: dict[str, Any], prefix: str = "", sections: frozenset[str] = frozenset()
) -> Iterator[tuple[str, frozenset[str], Any]]:
    for key, value in data.items():
        if not isinstance(key, str) or value is None:
            continue
        path = prefix + key
        if isinstance(value, dict) and path.count(".") < _DEPTH and key.lower() not in _ELSEWHERE:
            yield from _leaves(value, path + ".", sections | {_plain(key)})
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

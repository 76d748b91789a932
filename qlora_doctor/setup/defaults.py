"""What the libraries do where a config is silent, by the version that the run has: the pinned one, else the installed.

Read from the sources of transformers 4.51–5.23 (training_args.py, modeling_utils.py, utils/quantization_config.py,
trainer.py), trl 0.9–1.16 (trainer/*_config.py, *_trainer.py, experimental/) and peft 0.15–0.21
(tuners/lora/config.py, utils/other.py). ``None`` says that it depends on a version that is not known.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from itertools import product
from typing import Any

from ..core.versions import version_tuple
from ..facts.environment import Packages
from .setup import Asked

Version = tuple[int, ...]

BITS_AND_BYTES: dict[str, Any] = {
    "bnb_4bit_quant_type": "fp4",
    "bnb_4bit_compute_dtype": "float32",
    "bnb_4bit_use_double_quant": False,
    "bnb_4bit_quant_storage": "uint8",
    "load_in_8bit": False,
}
"""BitsAndBytesConfig's own defaults, the same in every version."""

LORA: dict[str, Any] = {
    "r": 8,
    "lora_alpha": 8.0,
    "lora_dropout": 0.0,
    "bias": "none",
    "use_rslora": False,
    "use_dora": False,
    "init_lora_weights": True,
}
"""LoraConfig's own defaults, the same in every version."""

TRAINING: dict[str, Any] = {
    "per_device_train_batch_size": 8,
    "per_device_eval_batch_size": 8,
    "gradient_accumulation_steps": 1,
    "weight_decay": 0.0,
    "max_grad_norm": 1.0,
    "num_train_epochs": 3.0,
    "lr_scheduler_type": "linear",
    "fp16": False,
    "dataset_text_field": "text",
    "packing": False,
    "padding_free": False,
    "use_liger_kernel": False,
    "group_by_length": False,
    "seed": 42,
}
"""Defaults of TrainingArguments and SFTConfig, the same in transformers 4.51–5.23 and trl 0.17–1.16."""


UNLESS_FP16 = "unless fp16"
"""A ``bf16`` that is on where ``fp16`` is not."""
_OFF_THEN_ON = (((0,), False), ((0, 22), True))
_BF16 = (((0,), False), ((0, 19), UNLESS_FP16))
_PAIRED: dict[str, tuple[tuple[Version, Any], ...]] = {
    "learning_rate": (((0,), 5e-5), ((0, 12), 1e-6)),
    "bf16": _BF16,
    "gradient_checkpointing": _OFF_THEN_ON,
    "max_length": (((0,), 512), ((0, 14), 1024)),
    "beta": (((0,), 0.1),),
}
TRL: dict[str, dict[str, tuple[tuple[Version, Any], ...]]] = {
    "sft": {
        "learning_rate": (((0,), 5e-5), ((0, 12), 2e-5)),
        "bf16": _BF16,
        "gradient_checkpointing": _OFF_THEN_ON,
        "max_length": (((0,), 1024),),
        "prepares": (((0,), True), ((0, 26), False)),
    },
    "dpo": {**_PAIRED, "prepares": (((0,), True), ((0, 29), False))},
    "kto": {
        **_PAIRED,
        "learning_rate": (((0,), 5e-5), ((0, 11), 5e-7), ((0, 12), 1e-6)),
        "prepares": (((0,), True), ((1, 5), False)),
    },
    "orpo": {**_PAIRED, "prepares": (((0,), True),)},
    "cpo": {**_PAIRED, "prepares": (((0,), True),)},
    "reward": {
        "learning_rate": (((0,), 5e-5), ((0, 24), 1e-4)),
        "bf16": _BF16,
        "gradient_checkpointing": _OFF_THEN_ON,
        "max_length": (((0,), 512), ((0, 14), 1024)),
        "prepares": (((0,), True), ((0, 26), False)),
    },
    "grpo": {
        "learning_rate": (((0, 14), 1e-6),),
        "bf16": (((0, 14), False), ((0, 19), UNLESS_FP16)),
        "gradient_checkpointing": (((0, 14), False), ((0, 22), True)),
        "beta": (((0, 14), 0.04), ((0, 19), 0.0)),
        "prepares": (((0, 14), False), ((0, 22), True), ((0, 26), False)),
    },
    "rloo": {
        "learning_rate": (((0, 22), 1e-6),),
        "bf16": (((0, 22), UNLESS_FP16),),
        "gradient_checkpointing": (((0, 22), True),),
        "beta": (((0, 22), 0.05),),
        "prepares": (((0, 22), True), ((0, 27), False)),
    },
}
"""TRL's method → field of its config → since which release which value stands, where TrainingArguments has another or
none; ``prepares``: its trainer calls prepare_model_for_kbit_training for a quantized base to which it attaches an
adapter.

SFTConfig took ``max_seq_length`` up to 0.15, of which the default was the tokenizer's own limit, 1,024 at most.
"""
TURNS: dict[str, tuple[Version, ...]] = {
    "torch": ((2, 7), (2, 8)),
    "transformers": ((4, 53), (4, 54), (5,), (5, 3), (5, 10)),
    "trl": (
        *((0, minor) for minor in (9, 11, 12, 14, 15, 17, 19, 20, 22, 24, 26, 27, 28, 29)),
        *((1, minor) for minor in (4, 5, 8, 15)),
        (1, 4, 1),
    ),
    "peft": ((0, 14),),
}
"""Releases at which something that is decided by version changes: between two of them all releases are alike."""


@dataclass(frozen=True)
class Libraries:
    """The versions that defaults depend on; None where a package is not installed, or which version it is is not known.

    Attributes:
        among: every combination that may be meant, one of each stretch of releases that are alike, where a project asks
            for a range; empty where the versions are these.
    """

    torch: Version | None = None
    transformers: Version | None = None
    trl: Version | None = None
    peft: Version | None = None
    among: tuple[Libraries, ...] = ()

    @classmethod
    def of(cls, packages: Packages | None) -> Libraries:
        """The versions of an environment."""
        if packages is None:
            return cls()
        return cls._of(packages.torch, packages.transformers, packages.trl, packages.peft)

    @classmethod
    def _of(cls, *written: str | None) -> Libraries:
        torch, transformers, trl, peft = (version_tuple(text) for text in written)
        return cls(torch, transformers, trl, peft)

    @classmethod
    @cache
    def installed(cls) -> Libraries:
        """The versions that stand here, without importing any of them."""
        return cls._of(*(_installed(name) for name in ("torch", "transformers", "trl", "peft")))

    def asked_for(self, asked: Mapping[str, Asked]) -> Libraries:
        """These versions, but for those that a project asks for itself."""
        known = {name: _candidates(name, each) for name, each in asked.items() if name in TURNS}
        if not known:
            return self
        one: dict[str, Any] = {name: found[0] if len(found) == 1 else None for name, found in known.items()}
        plain = replace(self, **one, among=())
        if None not in one.values():
            return plain
        several: list[dict[str, Any]] = [
            dict(zip(known, combination, strict=True)) for combination in product(*known.values())
        ]
        return replace(plain, among=tuple(replace(plain, **each) for each in several))

    def each(self) -> tuple[Libraries, ...]:
        """Every combination that may be meant."""
        return self.among or (self,)


def _candidates(name: str, asked: Asked) -> list[Version]:
    """One version of each stretch of releases that are alike, within what is asked for."""
    exact = version_tuple(asked.exact)
    if exact is not None:
        return [exact]
    least, below = version_tuple(asked.at_least) or (0,), version_tuple(asked.below)
    within = [turn for turn in TURNS[name] if turn > least and (below is None or turn < below)]
    return [least, *within]


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def model_dtype(libraries: Libraries, quantized: bool | None) -> str | None:
    """``dtype`` of from_pretrained: ``auto`` from transformers 5 on; before, float32, or float16 with bitsandbytes."""
    if libraries.transformers is None or quantized is None:
        return None
    if libraries.transformers >= (5,):
        return "auto"
    return "float16" if quantized else "float32"


def optimizer(libraries: Libraries) -> str | None:
    """``optim``: the fused AdamW with torch 2.8 and later, from transformers 4.54 on."""
    if libraries.torch is None or libraries.transformers is None:
        return None
    fused = libraries.torch >= (2, 8) and libraries.transformers >= (4, 54)
    return "adamw_torch_fused" if fused else "adamw_torch"


def of_trl(method: str | None, name: str, libraries: Libraries) -> Any:
    """What TRL's config of a method has at a field where nothing sets it; None where the version, or the method, leaves
    it open.

    Args:
        method: ``sft``, ``dpo``, …; None where it is not known, of which all may be meant.
        name: of the field, as in ``TRL``.
        libraries: the versions; without TRL's, what all releases agree on.
    """
    tables = list(TRL.values()) if method is None else [TRL[method]] if method in TRL else []
    rows = [table[name] for table in tables if name in table]
    if libraries.trl is None:
        values = [value for row in rows for _, value in row]
    else:
        values = [_at(row, libraries.trl) for row in rows]
    return values[0] if values and all(value == values[0] for value in values) else None


def _at(row: tuple[tuple[Version, Any], ...], version: Version) -> Any:
    """What stands in a release; None before the first that has the field."""
    return next((value for since, value in reversed(row) if version >= since), None)


_SINCE_ALL = Libraries(trl=(0, 17))
"""The oldest TRL that is installed beside this tool; what a config means for a reader who names none."""


def learning_rate(trainer: str, method: str | None, libraries: Libraries) -> float | None:
    """5e-5 in TrainingArguments; TRL's configs have their own, SFTConfig 2e-5."""
    if trainer != "trl":
        return 5e-5
    found: float | None = of_trl(method, "learning_rate", libraries if libraries.trl is not None else _SINCE_ALL)
    return found


def bf16(trainer: str, method: str | None, libraries: Libraries, fp16: bool | None) -> bool | None:
    """Off in TrainingArguments; TRL's configs turn it on unless fp16 is, from trl 0.19 on."""
    if trainer != "trl":
        return False
    found = of_trl(method, "bf16", libraries)
    return found if found != UNLESS_FP16 else None if fp16 is None else not fp16


def trainer_checkpoints(trainer: str, method: str | None, libraries: Libraries) -> bool | None:
    """``gradient_checkpointing``: off in TrainingArguments; on in TRL's configs from trl 0.22 on."""
    if trainer != "trl":
        return False
    found: bool | None = of_trl(method, "gradient_checkpointing", libraries)
    return found


def prepares(method: str | None, libraries: Libraries) -> bool | None:
    """Whether TRL's trainer prepares a quantized base that it attaches an adapter to."""
    found: bool | None = of_trl(method, "prepares", libraries)
    return found


def use_reentrant(trainer: str, libraries: Libraries, by_trainer: bool, kwargs: dict[str, Any] | None) -> bool | None:
    """The variant of checkpointing where the config does not say.

    transformers passes True before version 5 and False from then on where no arguments are given at all; trl 0.28 and
    later passes False. Arguments without ``use_reentrant``, such as the empty ones with which
    prepare_model_for_kbit_training turns checkpointing on, leave it to torch.utils.checkpoint, which takes True.

    Args:
        by_trainer: the trainer turns checkpointing on, rather than prepare_model_for_kbit_training alone.
        kwargs: ``gradient_checkpointing_kwargs`` as configured.
    """
    if not by_trainer:
        return True
    if libraries.transformers is None:
        return None
    if libraries.transformers < (5,) and trainer == "trl":
        return None if libraries.trl is None else libraries.trl < (0, 28)
    if kwargs is not None:
        return True
    return libraries.transformers < (5,)


def use_cache(libraries: Libraries) -> bool | None:
    """From transformers 5 on the Trainer switches the cache off; before, the model's own config decides."""
    if libraries.transformers is None or libraries.transformers < (5,):
        return None
    return False


def fsdp_version(libraries: Libraries) -> int | None:
    """``version`` of fsdp_config: 1 up to transformers 5.2, 2 from 5.10 on; in between it was not looked up."""
    if libraries.transformers is None or (5, 3) <= libraries.transformers < (5, 10):
        return None
    return 1 if libraries.transformers < (5, 3) else 2


def max_length(trainer: str, method: str | None, libraries: Libraries) -> int | None:
    """TRL's configs cut samples, SFTConfig at 1,024 tokens; transformers' Trainer cuts nothing."""
    if trainer != "trl":
        return None
    found: int | None = of_trl(method, "max_length", libraries if libraries.trl is not None else _SINCE_ALL)
    return found

"""What the libraries do where a config is silent, by installed version.

Read from the sources of transformers 4.51–5.23 (training_args.py, modeling_utils.py, utils/quantization_config.py,
trainer.py), trl 0.17–1.16 (trainer/sft_config.py, base_config.py, sft_trainer.py) and peft 0.15–0.21
(tuners/lora/config.py, utils/other.py). ``None`` says that it depends on a version that is not known.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from ..core.versions import version_tuple
from ..facts.environment import Packages

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
    "packing": False,
    "padding_free": False,
    "use_liger_kernel": False,
    "group_by_length": False,
    "seed": 42,
}
"""Defaults of TrainingArguments and SFTConfig, the same in transformers 4.51–5.23 and trl 0.17–1.16."""


@dataclass(frozen=True)
class Libraries:
    """The installed versions that defaults depend on; None where a package is not installed."""

    torch: Version | None = None
    transformers: Version | None = None
    trl: Version | None = None
    peft: Version | None = None

    @classmethod
    def of(cls, packages: Packages | None) -> Libraries:
        """The versions of an environment."""
        if packages is None:
            return cls()
        names = (packages.torch, packages.transformers, packages.trl, packages.peft)
        return cls(*(version_tuple(name) for name in names))

    @classmethod
    @cache
    def installed(cls) -> Libraries:
        """The versions that stand here, without importing any of them."""
        return cls(*(_installed(name) for name in ("torch", "transformers", "trl", "peft")))


def _installed(name: str) -> Version | None:
    try:
        return version_tuple(version(name))
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


def learning_rate(trainer: str) -> float:
    """5e-5 in TrainingArguments, 2e-5 in SFTConfig."""
    return 2e-5 if trainer == "trl" else 5e-5


def bf16(trainer: str, libraries: Libraries, fp16: bool | None) -> bool | None:
    """Off in TrainingArguments; SFTConfig turns it on unless fp16 is, from trl 0.19 on."""
    if trainer != "trl":
        return False
    if libraries.trl is None or fp16 is None:
        return None
    return not fp16 if libraries.trl >= (0, 19) else False


def trainer_checkpoints(trainer: str, libraries: Libraries) -> bool | None:
    """``gradient_checkpointing``: off in TrainingArguments; on in SFTConfig from trl 0.22 on."""
    if trainer != "trl":
        return False
    return None if libraries.trl is None else libraries.trl >= (0, 22)


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


def max_length(trainer: str) -> int | None:
    """SFTConfig cuts samples at 1,024 tokens; transformers' Trainer cuts nothing."""
    return 1024 if trainer == "trl" else None

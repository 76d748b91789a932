"""What a trainer's arguments say of the config that the run stands for."""

from __future__ import annotations

from typing import Any

_SAME = {
    "learning_rate": "learning_rate",
    "per_device_train_batch_size": "batch",
    "per_device_eval_batch_size": "eval_batch",
    "gradient_accumulation_steps": "gradient_accumulation",
    "max_grad_norm": "max_grad_norm",
    "bf16": "bf16",
    "fp16": "fp16",
    "packing": "packing",
    "padding_free": "padding_free",
}
"""Argument → its name in ``ConfigFacts``."""


def arguments_config(arguments: Any) -> dict[str, Any]:
    """Fields of ``ConfigFacts`` that TrainingArguments show; nothing where there are none."""
    if arguments is None:
        return {}
    known: dict[str, Any] = {}
    for name, field in _SAME.items():
        value = getattr(arguments, name, None)
        if isinstance(value, (bool, int, float)):
            known[field] = value
    optimizer = getattr(arguments, "optim", None)
    if optimizer is not None:
        known["optimizer"] = str(getattr(optimizer, "value", optimizer))
    return known


def asked(arguments: Any) -> dict[str, Any]:
    """Fields of ``RunFacts`` that say what was asked for."""
    if arguments is None:
        return {}
    return {
        "learning_rate_asked": _float(getattr(arguments, "learning_rate", None)),
        "weight_decay_asked": _float(getattr(arguments, "weight_decay", None)),
        "accumulation_asked": getattr(arguments, "gradient_accumulation_steps", None),
    }


def _float(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) else None


_OF_THE_COURSE = (
    "lr_scheduler_type",
    "max_steps",
    "num_train_epochs",
    "load_best_model_at_end",
    "eval_strategy",
    "logging_steps",
    "warmup_steps",
    "warmup_ratio",
    "output_dir",
)


def plain_arguments(arguments: Any) -> dict[str, Any]:
    """What judging the course needs of TrainingArguments, in plain values."""
    known: dict[str, Any] = {}
    for name in _OF_THE_COURSE:
        value = getattr(arguments, name, None)
        value = getattr(value, "value", value)
        if isinstance(value, (bool, int, float, str)):
            known[name] = value
    return known

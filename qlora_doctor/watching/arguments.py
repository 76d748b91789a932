"""What a trainer's arguments say of the config that the run stands for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..facts.run import ParameterGroup

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


def against_arguments(arguments: Any, groups: Sequence[Any], seen: Sequence[ParameterGroup]) -> dict[str, Any]:
    """Fields of ``RunFacts``: rates and betas of the optimizer's groups against what the arguments ask for.

    An optimizer that is handed to the trainer has settings of its own. Only what the arguments set apart from their
    class's default was asked for.

    Args:
        groups: the optimizer's own.
        seen: the same as facts.
    """
    rates = [float(group.get("initial_lr", group["lr"])) for group in groups if "lr" in group]
    betas = [[float(value) for value in group["betas"]] for group in groups if group.get("betas")]
    known: dict[str, Any] = {
        "learning_rate_real": max(rates, default=None),
        "betas_real": betas[0] if betas else None,
        "rate_ratio_real": _ratio(groups, seen),
    }
    if arguments is None:
        return known
    wanted = _float(getattr(arguments, "learning_rate", None))
    if wanted is not None and rates:
        among = any(abs(rate - wanted) <= 1e-6 * max(wanted, rate) for rate in rates)
        known["learning_rate_dropped"] = _is_set(arguments, "learning_rate") and wanted > 0 and not among
    pair = [_float(getattr(arguments, name, None)) for name in ("adam_beta1", "adam_beta2")]
    if betas and None not in pair:
        known["betas_asked"] = pair
        is_set = _is_set(arguments, "adam_beta1") or _is_set(arguments, "adam_beta2")
        known["betas_dropped"] = is_set and pair not in betas
    ratio = next((value for name in _RATIOS if (value := _float(getattr(arguments, name, None))) is not None), None)
    known["rate_ratio_asked"] = ratio
    return known


_RATIOS = ("loraplus_lr_ratio", "lorap_lr_ratio", "loraplus_ratio")
"""LoRA+ in the arguments of axolotl, LLaMA-Factory and ms-swift."""


def _ratio(groups: Sequence[Any], seen: Sequence[ParameterGroup]) -> float | None:
    """How many times the rate of lora_A that of lora_B is; None where a group holds both, or neither."""
    rates: dict[str, float] = {}
    for group, fact in zip(groups, seen, strict=True):
        for kind in ("lora_A", "lora_B"):
            if kind in (fact.kinds or []):
                rates[kind] = max(rates.get(kind, 0.0), float(group.get("initial_lr", group.get("lr", 0.0))))
    return rates["lora_B"] / rates["lora_A"] if rates.get("lora_A") and "lora_B" in rates else None


def _is_set(arguments: Any, name: str) -> bool:
    """Whether an argument is another than its class's default."""
    field = getattr(type(arguments), "__dataclass_fields__", {}).get(name)
    return field is not None and getattr(arguments, name) != field.default


def precision_facts(arguments: Any, autocast: str | None, dtypes: Sequence[str]) -> dict[str, Any]:
    """Fields of ``RunFacts``: the mixed precision that the arguments ask for against the watched forwards."""
    if arguments is None:
        return {}
    asked_for = next(
        (name for flag, name in (("bf16", "bfloat16"), ("fp16", "float16")) if getattr(arguments, flag, False)), None
    )
    known: dict[str, Any] = {"precision_asked": asked_for or "float32"}
    if dtypes:
        known["precision_missing"] = asked_for is not None and autocast is None and "float32" in dtypes
    return known


_LIMITS = ("max_length", "max_seq_length", "cutoff_len")
"""What cuts a row, by the names that trainers have had for it."""


def row_limit(arguments: Any) -> int | None:
    """Tokens that the trainer cuts a row at; None where no argument says so, or where rows fill it on purpose."""
    if getattr(arguments, "packing", False) or getattr(arguments, "padding_free", False):
        return None
    found = (getattr(arguments, name, None) for name in _LIMITS)
    return next((value for value in found if isinstance(value, int) and value > 0), None)


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

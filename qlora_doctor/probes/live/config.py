"""What live objects say about the config that made them: their own quantization and PEFT configs, and the optimizer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ...facts import ConfigFacts


def live_config(model: Any, optimizer: Any | None = None, batch: Any | None = None) -> ConfigFacts:
    """Config facts as far as a model, its optimizer and a batch show them; the rest is unknown.

    Args:
        model: a module, with PEFT's ``peft_config`` and transformers' ``config`` where it has them.
    """
    known: dict[str, Any] = {"dialect": "live objects", "dialect_confidence": 1.0}
    config = getattr(model, "config", None)
    if config is not None and not isinstance(config, dict):
        known["model"] = getattr(config, "name_or_path", None) or None
        known["attn_implementation"] = getattr(config, "_attn_implementation", None)
        known["use_cache"] = getattr(config, "use_cache", None)
    known |= _quantization(getattr(config, "quantization_config", None), model)
    known |= _adapter(model)
    # transformers 5 gave it a new name and warns about the old one.
    new = getattr(model, "is_activation_checkpointing", None)
    known["gradient_checkpointing"] = getattr(model, "is_gradient_checkpointing", None) if new is None else new
    known |= optimizer_config(optimizer, getattr(optimizer, "param_groups", None) or [])
    ids: Any = batch.get("input_ids") if batch is not None and hasattr(batch, "get") else batch
    if getattr(ids, "ndim", 0) == 2:
        known["batch"], known["sequence"] = (int(size) for size in ids.shape)
    return ConfigFacts(**{name: value for name, value in known.items() if value is not None})


def optimizer_config(optimizer: Any, groups: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Fields of ``ConfigFacts`` that an optimizer's groups show; nothing without any."""
    # A scheduler keeps what was asked for in initial_lr; lr itself begins at zero under a warmup.
    asked = [float(group[name]) for group in groups for name in ("lr", "initial_lr", "max_lr") if name in group]
    return {"learning_rate": max(asked, key=abs, default=None), "optimizer": type(optimizer).__name__} if groups else {}


def _quantization(config: Any, model: Any) -> dict[str, Any]:
    """A model without a quantization config was not asked to be quantized, unless its own layers say otherwise."""
    if config is None:
        other = _other_quantization(model)
        return {"four_bit": False, "eight_bit": False, "quantization_backend": other or "bitsandbytes"}
    get = config.get if isinstance(config, dict) else lambda name, default=None: getattr(config, name, default)
    compute, storage = get("bnb_4bit_compute_dtype"), get("bnb_4bit_quant_storage")
    method = get("quant_method")
    return {
        "quantization_backend": str(getattr(method, "value", method) or "bitsandbytes"),
        "four_bit": bool(get("load_in_4bit", False) or get("_load_in_4bit", False)),
        "eight_bit": bool(get("load_in_8bit", False) or get("_load_in_8bit", False)),
        "quant_type": get("bnb_4bit_quant_type"),
        "double_quant": get("bnb_4bit_use_double_quant"),
        "compute_dtype": None if compute is None else str(compute).removeprefix("torch."),
        "storage_dtype": None if storage is None else str(storage).removeprefix("torch."),
        "skip_modules": get("llm_int8_skip_modules") or [],
    }


def _other_quantization(model: Any) -> str | None:
    """The package whose quantized weights a model holds beside its config's knowledge; None where there are none."""
    for module in model.modules() if hasattr(model, "modules") else ():
        for weight in module._parameters.values():
            package = type(weight).__module__.partition(".")[0]
            if weight is not None and package not in ("torch", "builtins") and hasattr(weight, "__tensor_flatten__"):
                return package
        own = type(module)
        if own.__name__ in ("Linear8bitLt", "Linear4bit") and own.__module__.partition(".")[0] != "peft":
            return "bitsandbytes layers"
        if any(mark in own.__name__ for mark in ("QuantLinear", "HQQLinear", "QLinear", "WQLinear")):
            return own.__module__.partition(".")[0]
    return None


def _adapter(model: Any) -> dict[str, Any]:
    from peft import LoraConfig, PeftType

    configs = getattr(model, "peft_config", None)
    lora = next(iter(configs.values()), None) if isinstance(configs, dict) else None
    if not isinstance(lora, LoraConfig) or lora.peft_type != PeftType.LORA:  # AdaLoRA's has r and alpha of its own
        return {}
    r, alpha = int(lora.r), float(lora.lora_alpha)
    rslora = bool(getattr(lora, "use_rslora", False))
    return {
        "lora_r": r,
        "lora_alpha": alpha,
        "lora_dropout": float(getattr(lora, "lora_dropout", 0.0)),
        "target_modules": _names(lora.target_modules),
        "modules_to_save": _names(getattr(lora, "modules_to_save", None)) or [],
        "target_parameters": _names(getattr(lora, "target_parameters", None)) or [],
        "bias": getattr(lora, "bias", None),
        "task_type": None if lora.task_type is None else str(getattr(lora.task_type, "value", lora.task_type)),
        "use_rslora": rslora,
        "use_dora": bool(getattr(lora, "use_dora", False)),
        "init_lora_weights": str(lora.init_lora_weights).lower(),
        "scaling": alpha / r**0.5 if rslora else alpha / r,
        "alpha_over_r": alpha / r,
        "pattern_ranks": bool(getattr(lora, "rank_pattern", None) or getattr(lora, "alpha_pattern", None)),
    }


def _names(value: Any) -> list[str] | None:
    if value is None:
        return None
    return [value] if isinstance(value, str) else sorted(value)

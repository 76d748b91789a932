"""The state that PEFT keeps: active, enabled, merged, frozen, nested; and whether the adapter starts as identity."""

from __future__ import annotations

import inspect
from typing import Any

from ..tensors import every_module, is_readable, local_part, own_class, zero_tensors
from .inventory import Inventory

_TASK_OF_CLASS = (
    ("ForCausalLM", "CAUSAL_LM"),
    ("LMHeadModel", "CAUSAL_LM"),
    ("ForSequenceClassification", "SEQ_CLS"),
    ("ForTokenClassification", "TOKEN_CLS"),
    ("ForQuestionAnswering", "QUESTION_ANS"),
)


def state_facts(seen: Inventory, config: Any) -> dict[str, Any]:
    """The adapter's state, by PEFT's own model status.

    Args:
        config: PEFT's config of the active adapter, None without adapters.
    """
    facts: dict[str, Any] = {
        "nested": _is_nested(seen.model),
        "task_type": _task_of(config),
        "task_type_expected": expected_task(seen.base),
    }
    layers = [layer for part in seen.parts for layer in part.lora]
    if not layers:
        return facts
    status = _status(seen.model)
    trained = [p for layer in layers for n, p in layer.named_parameters() if "base_layer" not in n.split(".")]
    merged = _listed(getattr(status, "merged_adapters", None))
    frozen = not any(parameter.requires_grad for parameter in trained)
    return facts | {
        "trains": not frozen and not merged and getattr(status, "enabled", None) is not False,
        "active_adapters": _listed(getattr(status, "active_adapters", None)),
        "irregular": _is_irregular(status),
        "enabled": _flag(getattr(status, "enabled", None)),
        "merged_adapters": merged,
        "inference_mode": _flag(getattr(config, "inference_mode", None)),
        "all_frozen": frozen,
        "lora_b_zero": _is_identity(layers),
    }


def expected_task(base: Any) -> str | None:
    """The task type that PEFT has a model class for, by the class of the base; None for a class that tells none.

    ``none`` for a model that takes no input_ids, as of sound: PEFT's class of every task type hands them on by name.
    """
    name = own_class(base)
    is_other = getattr(base, "main_input_name", "input_ids") != "input_ids"
    if is_other and "input_ids" not in inspect.signature(type(base).forward).parameters:
        return "none"
    for sign, task in _TASK_OF_CLASS:
        if name.endswith(sign):
            return task
    if name.endswith("ForConditionalGeneration"):
        encoder_decoder = getattr(getattr(base, "config", None), "is_encoder_decoder", False)
        return "SEQ_2_SEQ_LM" if encoder_decoder else "CAUSAL_LM"
    return None


def _task_of(config: Any) -> str | None:
    task = getattr(config, "task_type", None)
    return None if task is None else str(getattr(task, "value", task))


def _status(model: Any) -> Any | None:
    from peft import get_model_status

    try:
        return get_model_status(model)
    except (ValueError, TypeError, AttributeError):
        return None  # no adapter of a kind that has a status


def _is_irregular(status: Any) -> bool | None:
    if status is None:
        return None
    values = [status.enabled, status.active_adapters, status.merged_adapters, *status.requires_grad.values()]
    return any(value == "irregular" for value in values)


def _listed(value: Any) -> list[str] | None:
    return [str(item) for item in value] if isinstance(value, list | tuple) else None


def _flag(value: Any) -> bool | None:
    return value if isinstance(value, bool) else None


def _is_nested(model: Any) -> bool:
    from peft import PeftModel

    return isinstance(model, PeftModel) and any(
        isinstance(module, PeftModel) for module in every_module(model) if module is not model
    )


def _is_identity(layers: list[Any]) -> bool | None:
    """Whether every active product B·A is zero because one of its factors is.

    None on meta, where nothing has a value, and where this process holds only a part of the factors.

    LoRA on linear layers starts with B = 0, on embeddings with A = 0 (``LoraLayer.reset_lora_parameters``).
    """
    factors = []
    for layer in layers:
        diagonals = getattr(layer, "lora_E", None)  # AdaLoRA: B·E·A, which starts with E = 0
        seconds = list((getattr(layer, "lora_B", {}) if diagonals is None else diagonals).values())
        factors += [getattr(second, "weight", second) for second in seconds]
        factors += list(getattr(layer, "lora_embedding_A", {}).values())
    whole = all(local_part(factor) is factor and is_readable(factor) for factor in factors)
    if not factors or not whole:
        return None
    held = {str(place): factor.detach() for place, factor in enumerate(factors) if factor.numel()}
    return len(zero_tensors(held)) == len(held)

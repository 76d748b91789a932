"""Why PEFT refused an adapter, from its own words."""

from __future__ import annotations

import re
from typing import Any

from ...facts.adapter import AdapterFacts
from ...pipeline.failures import first_sentence
from ...setup.setup import Setup
from .adapter import coverage, ends_facts
from .adapter_state import expected_task
from .adapter_targets import matched_names, target_facts
from .bypass import bypassed_modules
from .inventory import Inventory
from .sizes import is_4bit
from .stored_tensors import StoredFit

# Messages of peft/tuners (tuners_utils.py, lora/model.py, lora/layer.py) and peft/utils/other.py, most telling first.
_SIGNS: tuple[tuple[str, str], ...] = (
    ("refused-options", r"cannot be used when `target_modules` is a str|`layers_pattern` is specified"),
    ("mamba-fused", r"incompatible with Mamba-based"),
    ("dropout-with-parameters", r"does not work with lora_dropout|lora_dropout.* target_parameters"),
    ("quantized-init", r"under float32, float16, or bfloat16|re-quantize the residual"),
    ("unsupported-class", r"is not supported\. Currently, only"),
    ("no-default-targets", r"Please specify `target_modules`"),
    ("empty-targets", r"No `target_modules` passed|Target modules (set\(\)|\[\]) not found"),
    ("no-match", r"not found in the base model|No modules were targeted|All modules were excluded"),
)
_SAVES_4BIT = r"only Tensors of floating point dtype can require gradients|modules_to_save cannot be applied to modules"
"""What PEFT and torch say where a 4-bit layer is to be trained in full."""
_NEEDS_FLOAT_WEIGHTS = ("pissa", "loftq", "corda", "mica", "lora_ga")
"""Initialisations that read the base's weights as floats."""


def failure_of(error: BaseException, setup: Setup, *, four_bit: bool, quantized_head: bool = False) -> str:
    """The word of ``AdapterFacts.failure`` for an exception of LoraConfig or get_peft_model."""
    text = str(error)
    if _misses_token_layer(text, setup):
        return "no-modules-to-save"
    for word, pattern in _SIGNS:
        if re.search(pattern, text):
            return word
    if quantized_head and re.search(_SAVES_4BIT, text):
        return "quantized-head"
    init = setup.lora.init_lora_weights
    if four_bit and isinstance(init, str) and needs_float_weights(init):
        return "quantized-init"
    return "other"


def needs_float_weights(init: str) -> bool:
    """Whether this initialisation of LoRA reads the base's weights as floats, which 4-bit weights are not."""
    return init.lower().startswith(_NEEDS_FLOAT_WEIGHTS)


def refused_facts(
    error: BaseException, setup: Setup, seen: Inventory, config: Any, fresh_heads: list[str] | None
) -> AdapterFacts:
    """What is known where PEFT refused: which modules the targets name, and what the others may have meant.

    Args:
        seen: the base before PEFT touched it.
        config: a LoraConfig of the setup, None where LoraConfig itself refused.
    """
    four_bit = any(linear.four_bit for linear in seen.linears)
    asked = setup.lora.target_modules
    matched = _matched(seen, config, asked)
    return AdapterFacts(
        attached=False,
        failure=failure_of(error, setup, four_bit=four_bit, quantized_head=_has_quantized_head(seen)),
        failure_message=first_sentence(error),
        matched_modules=matched,
        matched_parameters=[],
        **target_facts(seen, config, asked, setup.lora.modules_to_save),
        **coverage(seen),
        **ends_facts(seen, config, fresh_heads),
        bypassed_modules=bypassed_modules(seen, matched),
        nested=False,
        task_type=setup.lora.task_type,
        task_type_expected=expected_task(seen.base),
    )


def refused_stored_facts(message: str, seen: Inventory, fit: StoredFit | None = None) -> AdapterFacts:
    """What is known where PEFT does not load a stored adapter: its own config decides, not what the setup says of LoRA.

    Args:
        message: PEFT's reason, one sentence.
        seen: the base before PEFT touched it.
        fit: how its tensors fit, where it came to that.
    """
    return AdapterFacts(
        attached=False,
        failure="stored-adapter",
        failure_message=message,
        **(fit or StoredFit()).facts(),
        nested=False,
        task_type_expected=expected_task(seen.base),
    )


def _has_quantized_head(seen: Inventory) -> bool:
    return any(is_4bit(getattr(part.module, "weight", None), part.module) for part in seen.task_heads)


def _matched(seen: Inventory, config: Any, asked: list[str] | str | None) -> list[str]:
    if isinstance(asked, str) and asked.lower() == "all-linear":
        return [linear.name for linear in seen.layer_linears]
    return matched_names(config, [part.name for part in seen.parts if part.name])


def _misses_token_layer(text: str, setup: Setup) -> bool:
    """Whether the missing modules are layers named in trainable_token_indices; PEFT's words are those of targets."""
    indices = setup.lora.trainable_token_indices
    named = set(re.findall(r"'([^']+)'", text.partition(" not found")[0]))
    return isinstance(indices, dict) and bool(named) and named <= set(indices)

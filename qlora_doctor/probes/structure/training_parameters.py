"""Which parameters train, how many, and how many there should be."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import nn

from ...facts.adapter import TrainableGroup
from ..tensors import adapter_of, parameters_of
from .inventory import Inventory, Part
from .sizes import elements

_GROUPS = ("lora", "dora", "modules_to_save", "embeddings", "head", "bias", "norm", "base")


def parameter_facts(seen: Inventory, config: Any) -> dict[str, Any]:
    """Counts of all and of trainable parameters by kind; 4-bit weights count their elements, tied ones once."""
    own = {id(parameter): (name, module) for name, parameter, module in seen.parameters()}
    trainable: Counter[str] = Counter()
    half: Counter[str] = Counter()
    total = packed = 0
    base_trainable: list[str] = []
    wants_bias = getattr(config, "bias", "none") not in (None, "none")
    for name, parameter in parameters_of(seen.model):
        name_of_base, module = own.get(id(parameter), (None, None))
        count = elements(parameter, module)
        total += count
        packed += parameter.numel()
        if not parameter.requires_grad or ".original_module." in name:  # PEFT's spare of modules_to_save: not in use
            continue
        group = _group_of_base(seen, name_of_base, module, wants_bias) if name_of_base else _group_of_adapter(name)
        trainable[group] += count
        if name_of_base and group != "bias":
            base_trainable.append(name_of_base)
        if parameter.dtype == torch.float16:
            half[group] += count
    return {
        "trainable_parameters": sum(trainable.values()),
        "total_parameters": total,
        "trainable_ratio": sum(trainable.values()) / total if total else None,
        "packed_parameters": packed,
        "trainable_groups": [
            TrainableGroup(group=group, parameters=trainable[group], ratio=trainable[group] / total)
            for group in _GROUPS
            if trainable[group]
        ],
        "expected_trainable_parameters": _expected(seen, config) if config is not None else None,
        "base_parameters_trainable": base_trainable,
        "bias_parameters": trainable["bias"] if wants_bias else 0,
        "float16_trainable_lora": half["lora"] + half["dora"],
        "float16_trainable_saved": half["modules_to_save"],
    }


def _group_of_adapter(name: str) -> str:
    if "lora_magnitude_vector" in name:
        return "dora"
    if ".modules_to_save." in name:
        return "modules_to_save"
    return "embeddings" if "trainable_tokens_delta" in name else "lora"


def _group_of_base(seen: Inventory, name: str, module: Any, wants_bias: bool) -> str:
    if wants_bias and name.rpartition(".")[2] == "bias":
        return "bias"
    if isinstance(module, nn.Embedding):
        return "embeddings"
    if any(part.module is module for part in seen.heads):
        return "head"
    return "norm" if "norm" in type(module).__name__.lower() else "base"


def _expected(seen: Inventory, config: Any) -> int | None:
    """r × (in + out) over what is adapted, plus modules_to_save, tokens and biases.

    None for other kinds of adapter, and where several adapters train.
    """
    if config.peft_type != "LORA" or _several_train(seen):
        return None
    total = 0
    for part in seen.parts:
        for layer in part.lora:
            count = _expected_of(part, layer, config)
            if count is None:
                return None
            total += count
        if part.saved is not None:
            total += sum(p.numel() for p in part.saved.parameters(recurse=False))
        if part.tokens is not None:
            total += _tokens(part)
    return total + _biases(seen, config)


def _several_train(seen: Inventory) -> bool:
    adapters = getattr(seen.model, "peft_config", None) or {}
    trained = (name for name, parameter in parameters_of(seen.model) if parameter.requires_grad)
    return len({adapter_of(name, adapters) for name in trained} - {None}) > 1


def _expected_of(part: Part, layer: Any, config: Any) -> int | None:
    parameter_name = getattr(layer, "parameter_name", None)
    key = f"{part.name}.{parameter_name}" if parameter_name else part.name
    r = _rank(config, key)
    if parameter_name:
        shape = getattr(part.module, parameter_name).shape
        experts = shape[0] if len(shape) == 3 else 1
        return int(r * experts * (shape[-2] + shape[-1]))
    module = part.module
    if isinstance(module, nn.Embedding):
        return int(r * (module.num_embeddings + module.embedding_dim))
    if isinstance(module, nn.modules.conv._ConvNd):
        return int(r * (module.weight[0].numel() + module.out_channels))
    inputs, outputs = getattr(layer, "in_features", None), getattr(layer, "out_features", None)
    if inputs is None or outputs is None or isinstance(module, nn.MultiheadAttention):
        return None
    extra = outputs * (bool(getattr(config, "use_dora", False)) + bool(getattr(config, "lora_bias", False)))
    return int(r * (inputs + outputs) + extra)


def _rank(config: Any, key: str) -> int:
    """r, or what rank_pattern gives for this module."""
    patterns = getattr(config, "rank_pattern", None) or {}
    if patterns:
        from peft.utils.other import get_pattern_key

        return int(patterns.get(get_pattern_key(patterns.keys(), key), config.r))
    return int(config.r)


def _tokens(part: Part) -> int:
    adapter = getattr(part.tokens, "token_adapter", None)
    # A tied head trains the rows of the embedding it is tied to.
    if adapter is None or getattr(adapter, "_tied_adapter", None):
        return 0
    rows: list[int] = next(iter(adapter.token_indices.values()), [])
    return len(rows) * int(part.module.weight.shape[-1])


def _biases(seen: Inventory, config: Any) -> int:
    wanted = getattr(config, "bias", "none")
    if wanted not in ("all", "lora_only"):
        return 0
    seen_ids: set[int] = set()
    total = 0
    for part in seen.parts:
        bias = part.module._parameters.get("bias")
        if bias is None or part.saved is not None or id(bias) in seen_ids or (wanted == "lora_only" and not part.lora):
            continue
        seen_ids.add(id(bias))
        total += bias.numel()
    return total

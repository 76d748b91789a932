"""In and out of a projection by the base's config.json, for the names that most decoders share."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from .names import place

_TYPES = {"llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "olmo2", "granite", "smollm3", "phi3"}
_SPLIT = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
_FUSED = {"query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"}
_LINEAR = {
    **dict.fromkeys(_TYPES, _SPLIT),
    "phi3": {"qkv_proj", "o_proj", "gate_up_proj", "down_proj"},
    "gpt2": {"c_attn", "c_proj", "c_fc", "q_attn"},
    "opt": {"q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"},
    **dict.fromkeys(("gpt_neox", "falcon", "bloom"), _FUSED),
}
"""All linear modules in the layers of a family, by the last part of their names (transformers 5.23, models/)."""
_LAYER = re.compile(r"(?:^|\.)layers\.(\d+)\.")


def expected_dimensions(module: str, config: Mapping[str, Any]) -> tuple[int, int] | None:
    """(in, out) of a linear module; None where the family, or the name, is not one of which this is certain."""
    if config.get("model_type") not in _TYPES:
        return None
    sizes = _sizes(config)
    if sizes is None:
        return None
    hidden, inner, queries, keys = sizes
    layer = _LAYER.search(module)
    if layer is None:
        rows = config.get("vocab_size")
        return (hidden, rows) if module.endswith("lm_head") and isinstance(rows, int) else None
    layers = config.get("num_hidden_layers")
    if isinstance(layers, int) and int(layer[1]) >= layers:
        return 0, 0  # there is no such layer
    return {
        "q_proj": (hidden, queries), "k_proj": (hidden, keys), "v_proj": (hidden, keys), "o_proj": (queries, hidden),
        "gate_proj": (hidden, inner), "up_proj": (hidden, inner), "down_proj": (inner, hidden),
        "qkv_proj": (hidden, queries + 2 * keys), "gate_up_proj": (hidden, 2 * inner),
    }.get(module.rpartition(".")[2])  # fmt: skip


def modules_beyond(modules: Iterable[str], config: Mapping[str, Any]) -> list[str]:
    """Modules of layers that the base does not have, of the families that are known here."""
    return [module for module in modules if expected_dimensions(module, config) == (0, 0)]


def has_like_layers(config: Mapping[str, Any]) -> bool:
    """Whether each layer of the base has the same modules: of the families that are known here."""
    return config.get("model_type") in _TYPES and not config.get("auto_map")


def modules_of_another_kind(modules: Iterable[str], config: Mapping[str, Any]) -> list[str]:
    """Modules in layers whose name no module of the base's family has; none where the family is not known here."""
    known = _LINEAR.get(str(config.get("model_type")))
    if known is None or config.get("auto_map"):
        return []
    inside = [(module, place(module)) for module in modules]
    return [name for name, (layer, part) in inside if layer is not None and part.rpartition(".")[2] not in known]


def _sizes(config: Mapping[str, Any]) -> tuple[int, int, int, int] | None:
    hidden, inner, heads = (config.get(key) for key in ("hidden_size", "intermediate_size", "num_attention_heads"))
    if not (isinstance(hidden, int) and isinstance(inner, int) and isinstance(heads, int) and heads):
        return None
    head = config.get("head_dim") or hidden // heads
    groups = config.get("num_key_value_heads") or heads
    if config.get("model_type") in ("gemma", "gemma2", "gemma3_text", "qwen3") and not config.get("head_dim"):
        return None  # their default is another one than hidden / heads
    return hidden, inner, heads * head, groups * head

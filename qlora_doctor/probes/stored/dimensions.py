"""In and out of a projection by the base's config.json, for the names that most decoders share."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_TYPES = {"llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "olmo2", "granite", "smollm3", "phi3"}
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


def _sizes(config: Mapping[str, Any]) -> tuple[int, int, int, int] | None:
    hidden, inner, heads = (config.get(key) for key in ("hidden_size", "intermediate_size", "num_attention_heads"))
    if not (isinstance(hidden, int) and isinstance(inner, int) and isinstance(heads, int) and heads):
        return None
    head = config.get("head_dim") or hidden // heads
    groups = config.get("num_key_value_heads") or heads
    if config.get("model_type") in ("gemma", "gemma2", "gemma3_text", "qwen3") and not config.get("head_dim"):
        return None  # their default is another one than hidden / heads
    return hidden, inner, heads * head, groups * head

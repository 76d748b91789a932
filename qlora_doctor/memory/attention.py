"""Which attention kernel a card takes, and that kernel on the meta device."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812

from .card import Card

aten = torch.ops.aten


def backend(
    card: Card,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    dropout: float,
    is_causal: bool,
    enable_gqa: bool,
) -> str:
    """``cudnn``, ``flash``, ``efficient`` or ``math``: the first whose conditions hold.

    Source: ``ATen/native/transformers/cuda/sdp_utils.cpp`` (``priority_order``, ``use_flash_attention``,
    ``use_mem_efficient_attention``, ``check_cudnn_*``).
    """
    half = query.dtype in (torch.bfloat16, torch.float16)
    major = card.capability[0]
    head = query.shape[-1]
    same_heads = query.shape[-3] == key.shape[-3]
    if not half or (query.dtype is torch.bfloat16 and major < 8):
        pass
    elif mask is None and major >= 8 and head <= 256 and head == value.shape[-1]:
        return "flash"
    if (same_heads or not enable_gqa) and head % 8 == 0 and value.shape[-1] % 8 == 0 and major >= 5:
        return "efficient"
    return "math"


def scaled_dot_product_attention(
    card: Card,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> torch.Tensor:
    """``torch.nn.functional.scaled_dot_product_attention`` with the kernel that the card would take."""
    choice = backend(card, query, key, value, attn_mask, dropout_p, is_causal, enable_gqa)
    if choice == "flash":
        head = query.shape[-1]
        if head % 8:
            scale = scale if scale is not None else head**-0.5
            query, key, value = (F.pad(tensor, (0, -head % 8)) for tensor in (query, key, value))
        out = aten._scaled_dot_product_flash_attention(query, key, value, dropout_p, is_causal, False, scale=scale)[0]
        return out if head % 8 == 0 else out[..., :head]  # type: ignore[no-any-return]
    if choice == "efficient":
        wants_gradient = any(tensor.requires_grad for tensor in (query, key, value))
        return aten._scaled_dot_product_efficient_attention(  # type: ignore[no-any-return]
            query, key, value, _bias(attn_mask, query), wants_gradient, dropout_p, is_causal, scale=scale
        )[0]
    if enable_gqa:
        groups = query.shape[-3] // key.shape[-3]
        key, value = key.repeat_interleave(groups, -3), value.repeat_interleave(groups, -3)
    return aten._scaled_dot_product_attention_math(  # type: ignore[no-any-return]
        query, key, value, attn_mask, dropout_p, is_causal, scale=scale
    )[0]


def _bias(mask: torch.Tensor | None, query: torch.Tensor) -> torch.Tensor | None:
    """A mask as the memory-efficient kernel wants it: additive, in the query's type, its rows padded to 16 elements."""
    if mask is None:
        return None
    if mask.dtype is torch.bool:
        mask = torch.where(mask, torch.zeros((), dtype=query.dtype, device=mask.device), -torch.inf).to(query.dtype)
    if mask.shape[-1] % 16:
        mask = F.pad(mask, (0, -mask.shape[-1] % 16))[..., : mask.shape[-1]]
    return mask.expand(query.shape[0], query.shape[1], query.shape[2], mask.shape[-1])

"""Which attention kernel a card takes, and that kernel on the meta device."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from .families import SMALL_MEMORY_HEAD, has_cudnn, has_small_memory
from .machine import Machine

aten = torch.ops.aten


CUDNN_HEAD_LIMIT = 256
"""Largest head size that cuDNN's attention takes on compute capability 9 and 10;
seen with PyTorch 2.11, cuDNN 9.19."""
FLASH_HEAD_LIMIT = 256
"""Largest head size that flash attention takes (``check_head_dim_size_flash``)."""


def backend(
    machine: Machine,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    dropout: float,
    is_causal: bool,
    enable_gqa: bool,
) -> str:
    """``cudnn``, ``flash``, ``efficient`` or ``math``: the first whose conditions hold.

    Source: ``ATen/native/transformers/cuda/sdp_utils.cpp`` (``priority_order``, ``can_use_*_attention``). On
    compute capability 9 and 10 cuDNN comes first: ``torch._fused_sdp_choice`` said so for 14 shapes on an H200 with
    PyTorch 2.11 and cuDNN 9.19, masks and dropout included. PyTorch before 2.11 is taken to put flash attention
    first, which nobody measured here. Heads that are
    neither equal in number nor marked as grouped take the math path: the same call said so for 71 heads against 1.
    """
    if query.dim() != 4 or query.shape[0] != key.shape[0] or query.stride(-1) != 1:
        return "math"
    if isinstance(mask, torch.Tensor) and mask.stride(-1) != 1:
        return "math"  # a bias that was permuted (``check_last_dim_stride_equals_1``), as T5's
    grouped = query.shape[1] != key.shape[1]
    if grouped and not (enable_gqa and query.shape[1] % key.shape[1] == 0):
        return "math"
    for name, usable in (("cudnn", _cudnn), ("flash", _flash), ("efficient", _efficient)):
        if usable(machine, query, value, mask, dropout, is_causal and query.shape[2] != key.shape[2], grouped):
            return name
    return "math"


def _fused_dtype(machine: Machine, query: torch.Tensor) -> bool:
    return query.dtype is torch.float16 or (query.dtype is torch.bfloat16 and machine.capability >= (8, 0))


def _cudnn(
    machine: Machine,
    query: torch.Tensor,
    value: torch.Tensor,
    mask: object,
    dropout: float,
    uneven: bool,
    grouped: bool,
) -> bool:
    heads = (query.shape[-1], value.shape[-1])
    return (
        has_cudnn(machine)
        and not (isinstance(mask, torch.Tensor) and mask.requires_grad)
        and _fused_dtype(machine, query)
        and all(head <= CUDNN_HEAD_LIMIT and head % 8 == 0 for head in heads)
    )


def _flash(
    machine: Machine,
    query: torch.Tensor,
    value: torch.Tensor,
    mask: object,
    dropout: float,
    uneven: bool,
    grouped: bool,
) -> bool:
    head = query.shape[-1]
    if has_small_memory(machine) and head > SMALL_MEMORY_HEAD and (head <= 224 or dropout > 0):
        return False  # no backward kernel there
    return (
        (8, 0) <= machine.capability <= (12, 1)
        and _fused_dtype(machine, query)
        and mask is None
        and not uneven
        and head == value.shape[-1]
        and head <= FLASH_HEAD_LIMIT
    )


def _efficient(
    machine: Machine,
    query: torch.Tensor,
    value: torch.Tensor,
    mask: object,
    dropout: float,
    uneven: bool,
    grouped: bool,
) -> bool:
    # ``minimum_gemm_alignment``: 16 bytes with tensor cores, which before 8.0 work on 16 bits and from 7.0 alone.
    tensor_cores = machine.capability >= (8, 0) or (machine.capability >= (7, 0) and query.element_size() == 2)
    alignment = 16 // query.element_size() if tensor_cores else 1
    return (
        (query.dtype is not torch.bfloat16 or machine.capability >= (8, 0))
        and not grouped
        and query.shape[-1] % alignment == 0
        and value.shape[-1] % alignment == 0
    )


def scaled_dot_product_attention(
    machine: Machine,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
    flash: bool = False,
) -> torch.Tensor:
    """``torch.nn.functional.scaled_dot_product_attention`` with the kernel that the card would take.

    ``flash``: the flash-attn package's kernel stands in for the card's choice; its memory is that of PyTorch's copy.
    """
    choice = backend(machine, query, key, value, attn_mask, dropout_p, is_causal, enable_gqa)
    if flash and choice == "cudnn" and attn_mask is None:
        choice = "flash"
    if choice == "cudnn":
        wants_gradient = any(tensor.requires_grad for tensor in (query, key, value))
        return aten._scaled_dot_product_cudnn_attention(
            query, key, value, _additive(attn_mask, query), wants_gradient, dropout_p, is_causal, False, scale=scale
        )[0]
    if choice == "flash":
        head = query.shape[-1]
        if head % 8:
            scale = scale if scale is not None else head**-0.5
            query, key, value = (F.pad(tensor, (0, -head % 8)) for tensor in (query, key, value))
        out = aten._scaled_dot_product_flash_attention(query, key, value, dropout_p, is_causal, False, scale=scale)[0]
        return out if head % 8 == 0 else out[..., :head]
    if choice == "efficient":
        wants_gradient = any(tensor.requires_grad for tensor in (query, key, value))
        return aten._scaled_dot_product_efficient_attention(
            query, key, value, _bias(attn_mask, query), wants_gradient, dropout_p, is_causal, scale=scale
        )[0]
    return _math(query, key, value, _additive(attn_mask, query), dropout_p, is_causal, scale)


def _math(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    dropout: float,
    is_causal: bool,
    scale: float | None,
) -> torch.Tensor:
    """The path that no fused kernel takes, with all scores in memory.

    PyTorch's own composite operator adds a mask out of place while a dispatch mode is on, so it is restated here.
    Source: ``ATen/native/transformers/attention.cpp`` (``_scaled_dot_product_attention_math``); held against what an
    H100 was asked for in float32 with grouped heads.
    """
    dtype = query.dtype
    if dtype is not torch.float32:
        query, key, value = query.float(), key.float(), value.float()
    factor = (query.shape[-1] ** -0.5 if scale is None else abs(scale)) ** 0.5
    query = query * factor
    if is_causal:
        shape = (query.shape[-2], key.shape[-2])
        mask = _additive(torch.ones(shape, dtype=torch.bool, device=query.device).tril(), query)
    groups = query.shape[-3] // key.shape[-3] if query.dim() > 3 and key.shape[-3] > 1 else 1
    if groups > 1:
        key, value = key.repeat_interleave(groups, -3), value.repeat_interleave(groups, -3)
    scores = torch.matmul(query, key.transpose(-2, -1) * factor)
    if mask is not None:
        scores.add_(mask)
    weights = aten._safe_softmax(scores, -1)
    if dropout > 0:
        weights = aten.native_dropout(weights, dropout, True)[0]
    told = weights.to(dtype)  # the operator's second result, made before its first
    out = torch.matmul(weights, value).to(dtype)
    del told
    return out


def _additive(mask: torch.Tensor | None, query: torch.Tensor) -> torch.Tensor | None:
    """A boolean mask as a number to add, in the query's type (``convert_boolean_attn_mask``)."""
    if mask is None or mask.dtype is not torch.bool:
        return mask
    nothing, never = (torch.empty((), dtype=query.dtype, device=mask.device) for _ in range(2))
    return torch.where(mask, nothing, never)


def _bias(mask: torch.Tensor | None, query: torch.Tensor) -> torch.Tensor | None:
    """A mask as the memory-efficient kernel wants it: additive, its rows padded to 16 elements, one row per query."""
    mask = _additive(mask, query)
    if mask is None:
        return None
    if mask.shape[-1] % 16:
        mask = F.pad(mask, (0, -mask.shape[-1] % 16))[..., : mask.shape[-1]]
    return mask.expand(query.shape[0], query.shape[1], query.shape[2], mask.shape[-1])

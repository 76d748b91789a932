"""Elements and bytes of tensors, packed 4-bit weights included."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from ..tensors import quant_state_of

BLOCK = 64
"""Elements that share one absmax (bitsandbytes' default for 4-bit weights)."""
NESTED_BLOCK = 256
"""Statistics that share one second-level absmax (``bitsandbytes.functional.quantize_4bit``)."""


def is_4bit(tensor: Any, module: Any = None) -> bool:
    """Whether this is bitsandbytes' Params4bit (by name: another copy of the class may have made it).

    Args:
        module: the layer that holds it: sharding makes a plain tensor of the weight, and the layer keeps the state.
    """
    return type(tensor).__name__ == "Params4bit" or quant_state_of(tensor, module) is not None


def elements(tensor: torch.Tensor, module: Any = None) -> int:
    """Logical elements: a packed 4-bit weight counts the weights that it holds.

    Args:
        module: the layer that holds the tensor; its shape counts where the quant state is missing.
    """
    if not is_4bit(tensor, module):
        return int(tensor.numel())
    state = quant_state_of(tensor, module)
    if state is not None:
        return int(torch.Size(state.shape).numel())
    if not getattr(tensor, "bnb_quantized", False):
        return int(tensor.numel())  # not packed yet
    if hasattr(module, "in_features") and hasattr(module, "out_features"):
        return int(module.in_features * module.out_features)
    return int(tensor.numel() * tensor.element_size() * 2)


def statistics(tensor: torch.Tensor, module: Any = None) -> Iterator[torch.Tensor]:
    """The tensors of a 4-bit weight's quant state: absmax, code, offset, and the same of the nested statistics."""
    state = quant_state_of(tensor, module)
    while state is not None:
        for name in ("absmax", "code", "offset"):
            value = getattr(state, name, None)
            if isinstance(value, torch.Tensor):
                yield value
        state = getattr(state, "state2", None)


def expected_bits(double_quant: bool) -> float:
    """Bits for each 4-bit weight by the QLoRA paper (section 3): 4.127 with double quantization, 4.5 without."""
    return 4 + (8 / BLOCK + 32 / (BLOCK * NESTED_BLOCK) if double_quant else 32 / BLOCK)


def ideal_bytes(count: int, double_quant: bool) -> int:
    """Bytes that a weight of ``count`` elements takes in 4-bit, with its statistics and the values of its codes."""
    blocks = -(-count // BLOCK)
    nested = blocks + 4 * -(-blocks // NESTED_BLOCK) + 4 + 4 * 256
    return -(-count // 2) + (nested if double_quant else 4 * blocks) + 4 * 16


def dtype_name(dtype: torch.dtype | None) -> str | None:
    """``bfloat16`` for ``torch.bfloat16``."""
    return None if dtype is None else str(dtype).removeprefix("torch.")

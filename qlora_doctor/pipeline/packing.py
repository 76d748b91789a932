"""4-bit weights on the meta device in the shapes that bitsandbytes gives them on a real one."""

from __future__ import annotations

from typing import Any

import torch

NESTED_BLOCK = 256
"""Statistics that share one second-level absmax (``bitsandbytes.functional.quantize_4bit``)."""


def pack_weights(model: Any, dtype: torch.dtype) -> int:
    """Replace every 4-bit layer's weight by a packed one with its quant state; returns how many there were.

    The shapes are those of ``bitsandbytes.functional.quantize_4bit``: two elements to a byte in one column of the
    storage dtype, an absmax for each block (uint8 with nested statistics), 16 code values, and with nested statistics
    256 more of the 8-bit code, which ``quantize_blockwise`` copies for each weight.
    """
    from bitsandbytes.nn import Params4bit

    packed = 0
    for module in model.modules():
        weight = module._parameters.get("weight")
        if not isinstance(weight, Params4bit) or weight.quant_state is not None:
            continue
        shape = torch.Size((module.out_features, module.in_features))
        state = _quant_state(weight, shape, dtype)
        storage = weight.quant_storage
        rows = -(-shape.numel() // (2 * storage.itemsize))
        new = Params4bit(
            torch.empty((rows, 1), dtype=storage, device="meta"),
            requires_grad=False,
            quant_state=state,
            blocksize=weight.blocksize,
            compress_statistics=weight.compress_statistics,
            quant_type=weight.quant_type,
            quant_storage=storage,
            module=module,
            bnb_quantized=True,
        )
        module._parameters["weight"] = new
        module.quant_state = state
        packed += 1
    return packed


def _quant_state(weight: Any, shape: torch.Size, dtype: torch.dtype) -> Any:
    from bitsandbytes.functional import QuantState

    blocks = -(-shape.numel() // weight.blocksize)
    nested = bool(weight.compress_statistics)
    state2 = None
    if nested:
        state2 = QuantState(
            absmax=torch.empty(-(-blocks // NESTED_BLOCK), device="meta"),
            code=torch.empty(256, device="meta"),
            blocksize=NESTED_BLOCK,
            dtype=torch.float32,
        )
    return QuantState(
        absmax=torch.empty(blocks, dtype=torch.uint8 if nested else torch.float32, device="meta"),
        shape=shape,
        dtype=dtype,
        blocksize=weight.blocksize,
        code=torch.empty(16, device="meta"),
        quant_type=weight.quant_type,
        offset=torch.empty((), device="meta") if nested else None,
        state2=state2,
    )

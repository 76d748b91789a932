"""Weights as bitsandbytes' 4-bit gives them back, for the replay of a merge."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..load.checkpoint import Checkpoint

_STATE = ".quant_state.bitsandbytes__"


def given_back(weight: Any, dtype: str) -> Iterator[Any]:
    """A weight quantized and dequantized in the usual ways: nf4 and fp4, with and without double quantization.

    Args:
        weight: float32, out × in.
        dtype: of the checkpoint, in which bitsandbytes quantizes.
    """
    import torch
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    tensor = torch.from_numpy(weight.copy()).to(
        {"BF16": torch.bfloat16, "F16": torch.float16}.get(dtype, torch.float32)
    )
    for kind in ("nf4", "fp4"):
        for double in (True, False):
            packed, state = quantize_4bit(tensor, compress_statistics=double, quant_type=kind)
            yield dequantize_4bit(packed, state).float().numpy()


def unpacked(checkpoint: Checkpoint, name: str) -> Any:
    """The float32 weight of a packed one with its statistics beside it; None where these are not bitsandbytes'."""
    state = _state(checkpoint, name)
    if state is None:
        return None
    from bitsandbytes.functional import dequantize_4bit

    packed, quant_state = state
    return dequantize_4bit(packed, quant_state).float().numpy()


def quantized_again(weight: Any, checkpoint: Checkpoint, name: str) -> Any:
    """What a weight becomes in the 4-bit form that this one has in the file."""
    import torch
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    state = _state(checkpoint, name)
    if state is None:
        return None
    kept = state[1]
    tensor = torch.from_numpy(weight).to(kept.dtype)
    packed, again = quantize_4bit(
        tensor, blocksize=kept.blocksize, compress_statistics=kept.nested, quant_type=kept.quant_type
    )
    return dequantize_4bit(packed, again).float().numpy()


def _state(checkpoint: Checkpoint, name: str) -> Any:
    from bitsandbytes.functional import QuantState
    from safetensors import safe_open

    parts = {key: tensor for key, tensor in checkpoint.tensors.items() if key == name or key.startswith(f"{name}.")}
    if not any(_STATE in key for key in parts):
        return None
    loaded: dict[str, Any] = {}
    for file in {tensor.file for tensor in parts.values()}:
        with safe_open(file, "pt") as stream:
            loaded |= {key: stream.get_tensor(key) for key, tensor in parts.items() if tensor.file == file}
    packed = loaded.pop(name)
    return packed, QuantState.from_dict(loaded, device="cpu")

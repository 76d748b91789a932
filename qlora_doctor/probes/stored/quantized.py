"""Weights as bitsandbytes' 4-bit and 8-bit give them back, for the replay of a merge."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..load.checkpoint import Checkpoint

_STATE = ".quant_state.bitsandbytes__"
PACKED = ("U8", "I8")
"""Dtypes of weights that bitsandbytes has packed: 4-bit in pairs, 8-bit one by one."""


def given_back(weight: Any, dtype: str) -> Iterator[Any]:
    """A weight quantized and dequantized in the usual ways: nf4 and fp4, with and without double quantization; int8.

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
    yield _through_int8(tensor)


def unpacked(checkpoint: Checkpoint, name: str) -> Any:
    """The float32 weight of a packed one with its statistics beside it; None where these are not bitsandbytes'."""
    if _int8_scales(name) in checkpoint.tensors:
        numbers, scales = _read(checkpoint, [name, _int8_scales(name)]).values()
        return (numbers.float() * scales.float()[:, None] / 127).numpy()
    state = _state(checkpoint, name)
    if state is None:
        return None
    from bitsandbytes.functional import dequantize_4bit

    packed, quant_state = state
    return dequantize_4bit(packed, quant_state).float().numpy()


def quantized_again(weight: Any, checkpoint: Checkpoint, name: str) -> Any:
    """What a weight becomes in the form that this one has in the file."""
    import torch
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    if _int8_scales(name) in checkpoint.tensors:
        return _through_int8(torch.from_numpy(weight))
    state = _state(checkpoint, name)
    if state is None:
        return None
    kept = state[1]
    tensor = torch.from_numpy(weight).to(kept.dtype)
    packed, again = quantize_4bit(
        tensor, blocksize=kept.blocksize, compress_statistics=kept.nested, quant_type=kept.quant_type
    )
    return dequantize_4bit(packed, again).float().numpy()


def _through_int8(tensor: Any) -> Any:
    """Quantized row by row and given back, as Int8Params does it: in float16 (bitsandbytes 0.50, nn/modules.py)."""
    import torch
    from bitsandbytes.functional import int8_vectorwise_quant

    numbers, scales, _ = int8_vectorwise_quant(tensor.to(torch.float16).contiguous())
    return (numbers.float() * scales.float()[:, None] / 127).numpy()


def _int8_scales(name: str) -> str:
    return name.removesuffix(".weight") + ".SCB"


def _read(checkpoint: Checkpoint, names: list[str]) -> dict[str, Any]:
    from safetensors import safe_open

    loaded: dict[str, Any] = {}
    for name in names:
        with safe_open(checkpoint.tensors[name].file, "pt") as stream:
            loaded[name] = stream.get_tensor(name)
    return loaded


def _state(checkpoint: Checkpoint, name: str) -> Any:
    from bitsandbytes.functional import QuantState

    parts = [key for key in checkpoint.tensors if key == name or key.startswith(f"{name}.")]
    if not any(_STATE in key for key in parts):
        return None
    loaded = _read(checkpoint, parts)
    packed = loaded.pop(name)
    return packed, QuantState.from_dict(loaded, device="cpu")

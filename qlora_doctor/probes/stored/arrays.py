"""Tensors of a safetensors file as numpy arrays of float32, one at a time, straight from the mapped file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..load.checkpoint import StoredTensor

_PLAIN = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1", "U8": "u1"}
FLOATS = ("F64", "F32", "F16", "BF16")


class Arrays:
    """Reads tensors of one file; the map is closed when the last array of it is gone."""

    def __init__(self, file: Path) -> None:
        import numpy as np

        self._data = np.memmap(file, "u1", "r")
        self._start = 8 + int.from_bytes(bytes(self._data[:8]), "little")

    def get(self, tensor: StoredTensor) -> Any:
        """Of the tensor's shape, in float32 (float64 where it is stored so); None for a dtype without plain numbers."""
        begin = self._start + tensor.begin
        raw = self._data[begin : begin + tensor.nbytes]
        if tensor.dtype == "BF16":
            return _widened(raw).reshape(tensor.shape)
        if tensor.dtype not in _PLAIN:
            return None
        plain = raw.view(_PLAIN[tensor.dtype]).reshape(tensor.shape)
        return plain if tensor.dtype == "F64" else plain.astype("<f4", copy=False)

    def rows(self, tensor: StoredTensor, index: Any) -> Any:
        """Some rows of a tensor of two sizes or more; only these are read."""
        import numpy as np

        width = tensor.nbytes // tensor.shape[0]
        begin = self._start + tensor.begin
        raw = self._data[begin : begin + tensor.nbytes].reshape(tensor.shape[0], width)[index]
        if tensor.dtype == "BF16":
            picked = _widened(np.ascontiguousarray(raw))
        else:
            picked = np.ascontiguousarray(raw).view(_PLAIN[tensor.dtype]).astype("<f4", copy=False)
        return picked.reshape(len(raw), *tensor.shape[1:])


def _widened(raw: Any) -> Any:
    """bfloat16 as float32: the same bits, and sixteen zeros behind them."""
    import numpy as np

    halves = raw.reshape(-1).view("<u2")
    wide = np.zeros(halves.size * 2, "<u2")
    wide[1::2] = halves
    return wide.view("<f4")

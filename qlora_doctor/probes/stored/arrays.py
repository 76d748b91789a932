"""Tensors of a safetensors file as numpy arrays of float32: read one after another, or picked from the mapped file."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from ..load.checkpoint import StoredTensor

_PLAIN = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1", "U8": "u1"}
FLOATS = ("F64", "F32", "F16", "BF16")
EIGHT_BIT = {"F8_E4M3": (3, 7), "F8_E5M2": (2, 15)}
"""Floats of one byte: bits of the mantissa, and bias of the exponent (Micikevicius et al., arXiv:2209.05433)."""


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
        if tensor.dtype in EIGHT_BIT:
            return eight_bit_values(tensor.dtype)[raw].reshape(tensor.shape)
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


@cache
def eight_bit_values(dtype: str) -> Any:
    """The 256 numbers of such a dtype by their bits, float32."""
    import numpy as np

    mantissa, bias = EIGHT_BIT[dtype]
    bits = np.arange(256)
    exponent, part = (bits & 127) >> mantissa, (bits & (1 << mantissa) - 1) / (1 << mantissa)
    values = np.where(exponent == 0, np.ldexp(part, 1 - bias), np.ldexp(1 + part, exponent - bias))
    if dtype == "F8_E4M3":  # it has no infinity
        values[(bits & 127) == 127] = np.nan
    else:
        values[exponent == 31] = np.where(part[exponent == 31] == 0, np.inf, np.nan)
    return np.where(bits & 128, -values, values).astype("<f4")


def _widened(raw: Any) -> Any:
    """bfloat16 as float32: the same bits, and sixteen zeros behind them."""
    import numpy as np

    halves = raw.reshape(-1).view("<u2")
    wide = np.zeros(halves.size * 2, "<u2")
    wide[1::2] = halves
    return wide.view("<f4")


_BLOCK = 1 << 20
"""Bytes that are looked at in one go: they stay in a core's own cache."""
_EXPONENTS = {"BF16": ("<u2", 0x7F80), "F16": ("<u2", 0x7C00), "F32": ("<u4", 0x7F800000)}
"""The bits that are all set in infinity and NaN alone (IEEE 754, 3.4)."""


class Passing:
    """Reads tensors of one file, each into the same memory: what is given holds until the next call.

    New memory for each tensor would cost more than the reading and the arithmetic together.
    """

    def __init__(self, file: Path) -> None:
        self._stream = file.open("rb", buffering=0)
        self._start = 8 + int.from_bytes(self._stream.read(8), "little")
        self._raw = bytearray(_BLOCK)
        self._wide: Any = None

    def __enter__(self) -> Passing:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()

    def values(self, tensor: StoredTensor) -> Any:
        """Of the tensor's shape, in float32 (float64 where it is stored so); None for a dtype without plain numbers."""
        import numpy as np

        if tensor.dtype not in _PLAIN and tensor.dtype not in ("BF16", *EIGHT_BIT):
            return None
        raw = self._bytes(tensor.begin, tensor.nbytes)
        if tensor.dtype in ("F64", "F32"):
            return raw.view(_PLAIN[tensor.dtype]).reshape(tensor.shape)
        if self._wide is None or self._wide.size < tensor.elements:
            self._wide = np.zeros(tensor.elements, "<f4")
        wide = self._wide[: tensor.elements]
        if tensor.dtype == "BF16":  # the same bits, and sixteen zeros behind them
            np.left_shift(raw.view("<u2"), 16, out=wide.view("<u4"), dtype="<u4")
        elif tensor.dtype in EIGHT_BIT:
            np.take(eight_bit_values(tensor.dtype), raw, out=wide)
        else:
            np.copyto(wide, raw.view(_PLAIN[tensor.dtype]), casting="unsafe")
        return wide.reshape(tensor.shape)

    def is_finite(self, tensor: StoredTensor) -> bool | None:
        """Whether every number is; None for a dtype without plain numbers."""
        import numpy as np

        if tensor.dtype not in FLOATS and tensor.dtype not in EIGHT_BIT:
            return None
        for begin in range(0, tensor.nbytes, _BLOCK):
            raw = self._bytes(tensor.begin + begin, min(_BLOCK, tensor.nbytes - begin))
            if tensor.dtype in EIGHT_BIT:
                if not np.isfinite(eight_bit_values(tensor.dtype)[raw]).all():
                    return False
                continue
            if tensor.dtype not in _EXPONENTS:
                if not np.isfinite(raw.view(_PLAIN[tensor.dtype])).all():
                    return False
                continue
            kind, exponent = _EXPONENTS[tensor.dtype]
            if int((raw.view(kind) & np.dtype(kind).type(exponent)).max(initial=0)) == exponent:
                return False
        return True

    def _bytes(self, begin: int, count: int) -> Any:
        import numpy as np

        if len(self._raw) < count:
            self._raw = bytearray(count)
        self._stream.seek(self._start + begin)
        part = memoryview(self._raw)[:count]
        done = 0
        while done < count and (read := self._stream.readinto(part[done:])):
            done += read
        if done < count:
            raise OSError(f"The file ended {count - done} bytes too early.")
        return np.frombuffer(part, "u1")

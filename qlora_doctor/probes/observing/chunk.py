"""What a fingerprint is, and how much of a tensor is digested together, on every device."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import torch

CHUNK = 1 << 15
"""Words of 8 bytes in a chunk."""


class Fingerprint(NamedTuple):
    """Equal fingerprints are equal bytes (and dtype and shape). A tuple, since a base has thousands of them."""

    digest: bytes
    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes that were read."""
        dtype: torch.dtype = getattr(torch, self.dtype)
        return math.prod(self.shape) * int(dtype.itemsize)


@lru_cache(maxsize=64)
def dtype_name(dtype: torch.dtype) -> str:
    """``torch.float32`` → ``float32``."""
    return str(dtype).removeprefix("torch.")

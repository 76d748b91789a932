"""Whether autograd adds a second gradient to the first in place.

The engine does so where nobody else holds the first one, but never while a dispatch mode is on
(``torch/csrc/autograd/input_buffer.cpp``: ``can_accumulate_inplace``). A trace runs under one, so it would take a block
that CUDA does not: a whole copy of the residual stream's gradient at every layer.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

Counts = tuple[int, int, int]
"""References to a tensor in C++, to its storage, and to its Python object."""

_alone: Counts | None = None
"""The counts of a first gradient that nobody else holds; None until ``counts_alone`` has seen one."""
_heard: list[Counts] | None = None
"""Where the counts go while ``counts_alone`` looks."""


def adds_in_place(args: Any, kwargs: Any) -> bool:
    """Whether a sum that runs now is the engine's and would be made in place: called by the play of ``add`` alone."""
    if torch.is_grad_enabled() or kwargs or len(args) != 2:
        return False
    first, second = args
    if not (isinstance(second, torch.Tensor) and second.shape == first.shape and second.dtype is first.dtype):
        return False
    counts = _counts(args)
    if _heard is not None:
        _heard.append(counts)
        return False
    return counts == _alone and _is_dense(first)


@contextmanager
def listening() -> Iterator[None]:
    """Note the counts of the first sum that the engine makes in here as those of a gradient that nobody else holds."""
    global _alone, _heard
    _heard = []
    try:
        yield
        _alone = _heard[0] if _heard else None
    finally:
        _heard = None


def _counts(args: Any) -> Counts:
    return (
        args[0]._use_count(),
        torch._C._storage_Use_Count(args[0].untyped_storage()._cdata),
        sys.getrefcount(args[0]),
    )


def _is_dense(tensor: torch.Tensor) -> bool:
    """``is_non_overlapping_and_dense``: a permutation of a contiguous tensor."""
    expected = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size > 1:
            if stride != expected:
                return False
            expected *= size
    return True

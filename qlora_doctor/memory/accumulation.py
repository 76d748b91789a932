"""Whether autograd adds a second gradient to the first in place.

The engine does so where nobody else holds the first one, but never while a dispatch mode is on
(``torch/csrc/autograd/input_buffer.cpp``: ``can_accumulate_inplace``). A trace runs under one, so it would take a block
that CUDA does not: a whole copy of the residual stream's gradient at every layer.
"""

from __future__ import annotations

import sys
from functools import cache
from typing import Any

import torch

Counts = tuple[int, int, int]
"""References to a tensor in C++, to its storage, and to its Python object."""

_seen: list[Counts] | None = None


def adds_in_place(args: Any, kwargs: Any) -> bool:
    """Whether a sum that runs now is the engine's and would be made in place: called by the play of ``add`` alone."""
    if torch.is_grad_enabled() or kwargs or len(args) != 2:
        return False
    first, second = args
    if not (isinstance(second, torch.Tensor) and second.shape == first.shape and second.dtype is first.dtype):
        return False
    counts = _counts(args)
    if _seen is not None:
        _seen.append(counts)
        return False
    return counts == counts_alone() and _is_dense(first)


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


@cache
def counts_alone() -> Counts | None:
    """The counts that the engine's first gradient has here where nobody else holds it; None where no sum was seen.

    To be asked for once before a trace begins: autograd is off inside a dispatch mode.
    """
    global _seen
    from .tape import Tape
    from .trace import Recorder

    _seen = []
    try:
        recorder = Recorder(Tape())
        recorder.in_backward = True
        with recorder, torch.enable_grad():
            leaf = torch.ones(4, device="meta", requires_grad=True)
            inner = leaf * 1.0
            (inner * 2.0 + inner * 3.0).sum().backward()
        return _seen[0] if _seen else None
    finally:
        _seen = None

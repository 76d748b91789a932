"""Scratch memory that CUDA kernels take below PyTorch's dispatcher, each with its cause.

Nothing here is fitted: every rule restates an allocation in the source named in its docstring.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from .card import Card
from .tape import Kernel

if TYPE_CHECKING:
    from .trace import Recorder

aten = torch.ops.aten
Play = Callable[["Recorder", Any, Any, Any], Any]
PLAYED: dict[Any, Play] = {}
"""Operators that need more than their result: operator → how it is played."""


def played(*operators: Any) -> Callable[[Play], Play]:
    """Register how operators are played."""

    def register(play: Play) -> Play:
        for operator in operators:
            PLAYED[operator] = play
        return play

    return register


@played(aten._local_scalar_dense.default)
def read_a_value(recorder: Recorder, func: Any, args: Any, kwargs: Any) -> Any:
    """``.item()``, ``bool(...)``: answered with the value that a real batch has."""
    return recorder.values.scalar(args[0])


@played(aten.nonzero.default, aten.masked_select.default, aten._unique2.default, aten.unique_consecutive.default)
def size_by_value(recorder: Recorder, func: Any, args: Any, kwargs: Any) -> Any:
    """Operators whose result is as long as the values say."""
    return recorder.values.compute(func, args, kwargs)


@played(aten.mm.default, aten.addmm.default, aten.bmm.default, aten.baddbmm.default)
def matrix_product(recorder: Recorder, func: Any, args: Any, kwargs: Any) -> Any:
    """cuBLAS: the handle of each thread takes its workspace at its first product (``CublasHandlePool.cpp``)."""
    out = func(*args, **kwargs)
    recorder.see(out)
    recorder.take_blas_workspace()
    return out


def gemm_4bit(recorder: Recorder, func: Any, args: Any, kwargs: Any) -> Any:
    """bitsandbytes' 4-bit product: above a token count it dequantizes the whole weight, then calls ``F.linear``.

    Source: ``bitsandbytes/backends/cuda/ops.py`` (``_dequant_linear_fallback``), 0.50. The sizes depend on the card and
    are worked out at replay, see :func:`gemm_4bit_scratch`.
    """
    a, _, shape_b, _, blocksize, _ = args[:6]
    features = int(a.shape[-1])
    tokens = a.numel() // features
    nested = kwargs.get("absmax_8bit") is not None
    with recorder.tape.kernel(
        "gemm_4bit", tokens, int(shape_b[0]), features, int(blocksize), int(nested), a.element_size()
    ):
        out = func(*args, **kwargs)
        recorder.see(out)
        recorder.take_blas_workspace()
    return out


def dequantize_4bit(recorder: Recorder, func: Any, args: Any, kwargs: Any) -> Any:
    """The whole weight in 16 bits, as the backward pass of every 4-bit layer makes it."""
    out = func(*args, **kwargs)
    recorder.see(out, "dequantized_weights")
    return out


def register_bitsandbytes() -> None:
    """Play bitsandbytes' own operators; they exist once the package is imported."""
    ops = torch.ops.bitsandbytes
    for name, play in (("gemm_4bit", gemm_4bit), ("dequantize_4bit", dequantize_4bit)):
        if hasattr(ops, name):
            PLAYED[getattr(ops, name).default] = play


def gemm_4bit_scratch(card: Card, tokens: int, n: int, k: int, blocksize: int, nested: int, itemsize: int) -> list[int]:
    """Bytes that bitsandbytes ≥ 0.50 takes for a 4-bit product when its own kernel does not run: the absmax in float32
    twice (before and after the offset) where statistics are doubly quantized, and the weight in the input's type."""
    if tokens <= 1536 and k % blocksize == 0 and uses_custom_kernel(card, tokens, n, k):
        return []
    absmax = [4 * -(-n * k // blocksize)] * 2 if nested else []
    return [*absmax, n * k * itemsize]


SCRATCH: dict[str, Callable[..., list[int]]] = {"gemm_4bit": gemm_4bit_scratch}
"""The rule of each kernel that a tape names."""


def scratch_bytes(kernel: Kernel, card: Card) -> list[int]:
    """Sizes of what a kernel takes while it runs, in order."""
    return SCRATCH[kernel.rule](card, *kernel.shape)


def uses_custom_kernel(card: Card, tokens: int, n: int, k: int) -> bool:
    """Whether bitsandbytes runs its own 4-bit kernel for a product of this shape on this card."""
    return False

"""Operators that need more than their result, played on the meta device; what their kernels take beside it is sized
at replay (:mod:`.scratch`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from .accumulation import adds_in_place
from .autocast import casts_to
from .bnb_kernels import CUSTOM_MAX_TOKENS

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
    return recorder.values.scalar(args[0]) if args[0].device.type == "meta" else func(*args, **kwargs)


@played(aten._to_copy.default)
def move_or_cast(recorder: Recorder, func: Any, args: Any, kwargs: Any) -> Any:
    """``.to(…)``; a copy on the host (``.tolist()``, ``.cpu()``) holds what a real batch has, and nothing of the
    card. What comes from the host takes its place on the card."""
    source, wanted = args[0], kwargs.get("device")
    device = source.device if wanted is None else torch.device(wanted)
    if source.device.type == "meta" and device.type == "cpu":
        value = recorder.values.read(source)
        return value.to(kwargs.get("dtype") or value.dtype, copy=True)
    out = func(*args, **kwargs)
    if source.device.type == "cpu" and device.type == "meta" and not source.is_floating_point():
        recorder.values.know(out, source.to(out.dtype, copy=True))
    return out


@played(
    aten.nonzero.default,
    aten.masked_select.default,
    aten._unique2.default,
    aten.unique_consecutive.default,
    aten.repeat_interleave.Tensor,
)
def size_by_value(recorder: Recorder, func: Any, args: Any, kwargs: Any) -> Any:
    """Operators whose result is as long as the values say."""
    if args[0].device.type != "meta":
        return func(*args, **kwargs)
    return recorder.values.compute(func, args, kwargs)


SAMPLED = 5
"""The token that is drawn from every distribution: it ends no text and pads none where batches are made up."""


@played(aten.multinomial.default)
def draw(recorder: Recorder, func: Any, args: Any, kwargs: Any) -> Any:
    """Draws from a distribution, as generation makes them."""
    out = func(*args, **kwargs)
    recorder.values.know(out, torch.full(out.shape, SAMPLED, dtype=out.dtype))
    return out


@played(aten.mul.Tensor, aten.add.Tensor)
def elementwise(recorder: Recorder, func: Any, args: Any, kwargs: Any) -> Any:
    """Sums and products of equal tensors, or with a number: their meta kernels work out types and strides at length
    to say that the result is like the first one."""
    if recorder.in_backward and func is aten.add.Tensor and adds_in_place(args, kwargs):
        return args[0]
    a, b = args[:2]
    if isinstance(b, torch.Tensor):
        alike = b.dtype is a.dtype and b.shape == a.shape and b.stride() == a.stride()
    else:
        alike = isinstance(b, float) and a.is_floating_point()
    return torch.empty_like(a) if alike and a.is_floating_point() else func(*args, **kwargs)


@played(aten.native_dropout.default)
def dropout(recorder: Recorder, func: Any, args: Any, kwargs: Any) -> Any:
    """CUDA's dropout: first a mask of bytes, then the result, both like the input (``native_dropout_cuda``)."""
    mask = torch.empty_like(args[0], dtype=torch.bool)
    recorder.see(mask)
    return torch.empty_like(args[0]), mask


@played(aten.index.Tensor)
def index(recorder: Recorder, func: Any, args: Any, kwargs: Any) -> Any:
    """Indexing; a mask of truth values is first turned into places, as CUDA does (``expandTensors``)."""
    source, indices = args
    if source.device.type == "meta" and any(item is not None and item.dtype is torch.bool for item in indices):
        places: list[Any] = []
        for item in indices:
            if item is None or item.dtype is not torch.bool:
                places.append(item)
                continue
            found = recorder.values.compute(aten.nonzero.default, (item,), {})
            recorder.see(found)
            for dimension in range(item.dim()):
                place = found.select(1, dimension)
                value = recorder.values.get(found)
                if value is not None:
                    recorder.values.know(place, value.select(1, dimension))
                places.append(place)
        return func(source, places)
    return func(source, indices)


@played(aten.mm.default, aten.addmm.default, aten.bmm.default, aten.baddbmm.default)
def matrix_product(recorder: Recorder, func: Any, args: Any, kwargs: Any) -> Any:
    """cuBLAS: the handle of each thread takes its workspace at its first product (``CublasHandlePool.cpp``)."""
    out = func(*args, **kwargs)
    recorder.see(out)
    recorder.take_blas_workspace()
    return out


@played(aten._safe_softmax.default)
def safe_softmax(recorder: Recorder, func: Any, args: Any, kwargs: Any) -> Any:
    """Softmax of attention's scores; afterwards rows that were masked throughout are looked for."""
    scores = args[0]
    out = torch.empty_like(scores)
    recorder.see(out)
    with recorder.tape.kernel("safe_softmax", scores.numel(), scores.numel() // int(scores.shape[-1])):
        return out


@played(aten._softmax_backward_data.default)
def softmax_backward(recorder: Recorder, func: Any, args: Any, kwargs: Any) -> Any:
    """The gradient of a softmax: CUDA multiplies it with the result first."""
    out = func(*args, **kwargs)
    recorder.see(out)
    with recorder.tape.kernel("softmax_backward", args[0].numel() * args[0].element_size()):
        return out


@played(aten._scaled_dot_product_cudnn_attention.default)
def cudnn_attention(recorder: Recorder, func: Any, args: Any, kwargs: Any) -> Any:
    """cuDNN's attention, forward."""
    out = func(*args, **kwargs)
    recorder.see_all(out)
    with recorder.tape.kernel("cudnn_attention"):
        return out


def grouped_product(recorder: Recorder, func: Any, args: Any, kwargs: Any) -> Any:
    """Products of groups of rows with a matrix each, as experts make them; on CUDA in float32 too, unlike on meta.

    Source: ``ATen/native/GroupedMMUtils.h`` (``create_grouped_gemm_output_tensor``): rows are padded to 16 bytes.
    """
    a, b = args[:2]
    offsets = args[2] if len(args) > 2 else kwargs.get("offs")
    out_dtype = kwargs.get("out_dtype") or a.dtype
    columns = int(b.shape[-1])
    shape: tuple[int, ...]
    if a.dim() == 2 and b.dim() == 2:
        shape = (int(offsets.shape[0]), int(a.shape[0]))
    elif a.dim() == 2:
        shape = (int(a.shape[0]),)
    else:
        shape = tuple(int(size) for size in a.shape[:-1]) if b.dim() == 3 else (int(a.shape[1]),)
    per_row = 16 // out_dtype.itemsize
    padded = -(-columns // per_row) * per_row
    recorder.take_blas_workspace()
    return torch.empty((*shape, padded), dtype=out_dtype, device="meta")[..., :columns]


if hasattr(aten, "_grouped_mm"):
    PLAYED[aten._grouped_mm.default] = grouped_product


def _attention_backward(rule: str) -> Play:
    def play(recorder: Recorder, func: Any, args: Any, kwargs: Any) -> Any:
        out = func(*args, **kwargs)
        recorder.see_all(out)
        query, key = args[1], args[2]
        shape = (query.shape[0], query.shape[1], key.shape[1], query.shape[2], key.shape[2], query.shape[3])
        with recorder.tape.kernel(rule, *(int(size) for size in shape), query.element_size()):
            return out

    return play


for _operator, _rule in (
    (aten._scaled_dot_product_cudnn_attention_backward.default, "cudnn_attention_backward"),
    (aten._scaled_dot_product_flash_attention_backward.default, "flash_attention_backward"),
    (aten._scaled_dot_product_efficient_attention_backward.default, "efficient_attention_backward"),
):
    PLAYED[_operator] = _attention_backward(_rule)


@played(aten.embedding_dense_backward.default)
def embedding_backward(recorder: Recorder, func: Any, args: Any, kwargs: Any) -> Any:
    """The gradient of an embedding that is trained."""
    gradient, indices = args[:2]
    with recorder.tape.kernel("embedding_backward", indices.numel(), int(gradient.shape[-1])):
        out = func(*args, **kwargs)
        recorder.see(out)
    return out


def gemm_4bit(recorder: Recorder, func: Any, args: Any, kwargs: Any) -> Any:
    """bitsandbytes' 4-bit product: above a token count it dequantizes the whole weight, then calls ``F.linear``.

    That call is under autocast as well: where autocast's type is not the compute type, it casts both factors again.
    Source: ``bitsandbytes/backends/cuda/ops.py`` (``_dequant_linear_fallback``), 0.50. The sizes depend on the card and
    are worked out at replay, see :func:`.scratch.gemm_4bit_scratch`.
    """
    a, _, shape_b, _, blocksize, _ = args[:6]
    features = int(a.shape[-1])
    tokens = a.numel() // features
    nested = (args[7] if len(args) > 7 else kwargs.get("absmax_8bit")) is not None
    wanted = casts_to() or a.dtype
    cast = wanted is not a.dtype
    with recorder.tape.kernel(
        "gemm_4bit", tokens, int(shape_b[0]), features, int(blocksize), int(nested), a.element_size(), int(cast)
    ):
        out = func(*args, **kwargs)
        if cast and tokens > CUSTOM_MAX_TOKENS:
            out = torch.empty_like(out, dtype=wanted)
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

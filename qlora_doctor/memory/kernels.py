"""Scratch memory that CUDA kernels take below PyTorch's dispatcher, each with its cause.

Nothing here is fitted: every rule restates an allocation in the source named in its docstring.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from .accumulation import adds_in_place
from .autocast import casts_to
from .bnb_kernels import CUSTOM_MAX_TOKENS, uses_custom_kernel
from .machine import Machine
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
    return recorder.values.scalar(args[0]) if args[0].device.type == "meta" else func(*args, **kwargs)


@played(aten.nonzero.default, aten.masked_select.default, aten._unique2.default, aten.unique_consecutive.default)
def size_by_value(recorder: Recorder, func: Any, args: Any, kwargs: Any) -> Any:
    """Operators whose result is as long as the values say."""
    return recorder.values.compute(func, args, kwargs)


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
    if any(item is not None and item.dtype is torch.bool for item in indices):
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
    are worked out at replay, see :func:`gemm_4bit_scratch`.
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


def gemm_4bit_scratch(
    machine: Machine, tokens: int, n: int, k: int, blocksize: int, nested: int, itemsize: int, cast: int
) -> list[int]:
    """Bytes that bitsandbytes ≥ 0.50 takes for a 4-bit product when its own kernel does not run: the absmax in float32
    twice (before and after the offset) where statistics are doubly quantized, and the weight in the input's type; where
    autocast casts, the weight and the input in its 16 bits."""
    card = machine.card
    dtype = torch.float32 if itemsize == 4 else torch.bfloat16
    if uses_custom_kernel(card.compute_capability, card.multiprocessors, tokens, n, k, blocksize, dtype):
        return []
    absmax = [4 * -(-n * k // blocksize)] * 2 if nested else []
    casts = [2 * n * k, 2 * tokens * k] if cast else []
    return [*absmax, n * k * itemsize, *casts]


def cudnn_attention_backward_scratch(
    machine: Machine, b: int, h: int, h_k: int, q: int, k: int, d: int, size: int
) -> list[int]:
    """Bytes of cuDNN's workspace in attention's backward pass, one allocation: dQ gathered in float32, one float a
    query row, 256 bytes, and with grouped heads dK and dV of every query head in the type of the inputs.

    cuDNN says the size itself (``ATen/native/cudnn/MHA.cpp``: ``get_workspace_size``). The parts were read off its
    answers for 15 shapes (heads 4 to 40, grouped and not, head sizes 64 to 256, odd lengths, masks, dropout) on an H200
    with cuDNN 9.19: they add up to the byte.
    """
    expanded = 2 * b * h * k * d * size if h_k != h else 0
    return [4 * b * h * q * d + 4 * b * h * q + 256 + expanded]


def safe_softmax_scratch(machine: Machine, scores: int, rows: int) -> list[int]:
    """A byte for each score, whether it is masked, a byte for each row, whether all of it is, and a zero.

    Source: ``ATen/native/transformers/attention.cpp`` (``_safe_softmax``); 67,108,864, 65,536 and 4 bytes measured for
    2 × 32 × 1024 × 1024 on an H100 with PyTorch 2.11.
    """
    return [scores, rows, 4]


def softmax_backward_scratch(machine: Machine, size: int) -> list[int]:
    """The product of gradient and result, of ``size`` bytes.

    Source: ``ATen/native/cuda/SoftMax.cu`` (``softmax_backward_cuda_out``); 268,435,456 bytes measured for
    2 × 32 × 1024 × 1024 in float32 on an H100 with PyTorch 2.11.
    """
    return [size]


def cudnn_attention_scratch(machine: Machine) -> list[int]:
    """256 bytes in the forward pass; measured as above."""
    return [256]


def flash_attention_backward_scratch(
    machine: Machine, b: int, h: int, h_k: int, q: int, k: int, d: int, size: int
) -> list[int]:
    """Bytes of FlashAttention 2's backward pass: ``softmax_d`` and ``dq_accum`` in float32, queries rounded up to 128
    and the head size to 32 (64 above 128); with grouped heads dK and dV of every query head in the inputs' type.

    Source: ``ATen/native/transformers/cuda/flash_attn/flash_api.cpp`` (``mha_bwd``).
    """
    rows = -(-q // 128) * 128
    head = -(-d // 32) * 32 if d <= 128 else -(-d // 64) * 64
    expanded = [b * k * h * d * size] * 2 if h_k != h else []
    return [4 * b * h * rows, 4 * b * rows * h * head, *expanded]


def efficient_attention_backward_scratch(
    machine: Machine, b: int, h: int, h_k: int, q: int, k: int, d: int, size: int
) -> list[int]:
    """Bytes of the memory-efficient backward pass: dQ in float32 in blocks of 64 rows with 16 bytes of lock each, and
    for head sizes above 128 in 16 bits also dK and dV.

    Source: ``mem_eff_attention/kernel_backward.h`` (``workspace_elements_gq``, ``_gk``, ``_gv``, ``GradQTempStorage``);
    33,570,816 bytes measured for 2 × 32 heads × 1024 × 128 in float32, as this gives.
    """
    rows, head = -(-q // 64), -(-d // 64) * 64
    accumulated = b * h * rows * (64 * head * 4 + 16)
    keys = 2 * b * h * 64 * head * 4 if size < 4 and d > 128 else 0
    return [4 * b * h * q, accumulated + keys]


def embedding_backward_scratch(machine: Machine, tokens: int, features: int) -> list[int]:
    """Bytes that the gradient of an embedding takes above 3,072 tokens: sorted ids and places, and partial sums in
    float32, one row for each segment of at most 10 tokens.

    Source: ``ATen/native/cuda/EmbeddingBackwardKernel.cu`` (``NROWS_PER_THREAD``); measured 9,226,240 bytes for
    4,096 × 512 and 18,454,528 for 8,192 × 512, as this gives.
    """
    if tokens <= 3072:
        return []
    return [8 * tokens] * 4 + [4 * features * (tokens + tokens // 10)]


SCRATCH: dict[str, Callable[..., list[int]]] = {
    "gemm_4bit": gemm_4bit_scratch,
    "safe_softmax": safe_softmax_scratch,
    "softmax_backward": softmax_backward_scratch,
    "cudnn_attention": cudnn_attention_scratch,
    "cudnn_attention_backward": cudnn_attention_backward_scratch,
    "flash_attention_backward": flash_attention_backward_scratch,
    "efficient_attention_backward": efficient_attention_backward_scratch,
    "embedding_backward": embedding_backward_scratch,
}
"""The rule of each kernel that a tape names."""


SCRATCH_CATEGORY = {"gemm_4bit": "dequantized_weights", "embedding_backward": "gradients"}
"""The part of the breakdown that a kernel's scratch memory belongs to; workspaces where it is not named."""


def scratch_bytes(kernel: Kernel, machine: Machine) -> list[int]:
    """Sizes of what a kernel takes while it runs, in order."""
    return SCRATCH[kernel.rule](machine, *kernel.shape)

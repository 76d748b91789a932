"""Scratch memory that CUDA kernels take below PyTorch's dispatcher, each with its cause.

Nothing here is fitted: every rule restates an allocation in the source named in its docstring. A tape names its kernels
and their shapes; the sizes are worked out when it is replayed, for the card, without torch.
"""

from __future__ import annotations

from collections.abc import Callable

from .bnb_kernels import uses_custom_kernel
from .machine import Machine
from .tape import Kernel


def gemm_4bit_scratch(
    machine: Machine, tokens: int, n: int, k: int, blocksize: int, nested: int, itemsize: int, cast: int
) -> list[int]:
    """Bytes that bitsandbytes ≥ 0.50 takes for a 4-bit product when its own kernel does not run: the absmax in float32
    twice (before and after the offset) where statistics are doubly quantized, and the weight in the input's type; where
    autocast casts, the weight and the input in its 16 bits."""
    card = machine.card
    dtype = "float32" if itemsize == 4 else "bfloat16"
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

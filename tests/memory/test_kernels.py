"""Scratch memory of kernels, against what an H200's allocator was asked for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from qlora_doctor.memory import scratch as kernels
from qlora_doctor.memory.bnb_kernels import uses_custom_kernel
from tests.memory.cases import H200, RTX_4090

RECORD = json.loads(
    (Path(__file__).parents[2] / "benchmarks" / "memory" / "kernels_h200.json").read_text(encoding="utf-8")
)["operators"]
CUDNN = [name for name, entry in RECORD.items() if entry.get("choice") == 3]


def requests(name: str) -> list[int]:
    return [size for action, size in RECORD[name]["events"] if action == "alloc"]


@pytest.mark.parametrize("name", CUDNN)
def test_cudnn_attention(name: str) -> None:
    batch, heads, key_heads, length, head = RECORD[name]["shape"]
    asked = requests(name)
    (backward,) = kernels.cudnn_attention_backward_scratch(H200, batch, heads, key_heads, length, length, head, 2)
    assert asked[-1] == backward
    assert kernels.cudnn_attention_scratch(H200)[0] in asked


def test_efficient_attention_in_float32() -> None:
    batch, heads, key_heads, length, head = RECORD["sdpa_fp32"]["shape"]
    delta, accumulated = kernels.efficient_attention_backward_scratch(
        H200, batch, heads, key_heads, length, length, head, 4
    )
    assert {delta, accumulated} <= set(requests("sdpa_fp32"))


@pytest.mark.parametrize("tokens", [1024, 4096, 8192])
def test_the_gradient_of_an_embedding(tokens: int) -> None:
    scratch = kernels.embedding_backward_scratch(H200, tokens, 512)
    asked = requests(f"embedding_{tokens}")
    if tokens <= 3072:
        assert scratch == [] and len(asked) == 3  # the result, its gradient, the weight's gradient
    else:
        assert max(scratch) in asked
        assert asked.count(8 * tokens) >= 4


def test_clipping() -> None:
    chunks = -(-4000 * 2048 // 65536)
    asked = requests("norms")
    assert asked[0] == 41 * chunks * 4
    assert asked[1:42] == [4] * 41


@pytest.mark.parametrize(("tokens", "weights"), [(512, 1), (2048, 1), (4, 0)])
def test_4bit_products_dequantize_the_weight(tokens: int, weights: int) -> None:
    scratch = kernels.gemm_4bit_scratch(H200, tokens, 4096, 4096, 64, 1, 2, 0)
    assert [size for size in scratch if size == 2 * 4096 * 4096] == [2 * 4096 * 4096] * weights


def test_the_kernel_that_bitsandbytes_takes_depends_on_the_card() -> None:
    shape: dict[str, Any] = {"tokens": 64, "n": 14336, "k": 4096, "blocksize": 64, "dtype": "bfloat16"}
    assert uses_custom_kernel(RTX_4090.capability, RTX_4090.card.multiprocessors, **shape)
    assert not uses_custom_kernel((10, 0), 148, **shape)
    assert not uses_custom_kernel((8, 9), 128, **(shape | {"k": 4100}))

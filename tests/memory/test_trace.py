"""The tape of a step: what CUDA would do and meta would not."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch

from qlora_doctor.memory.as_on_cuda import as_on_cuda
from qlora_doctor.memory.autocast import Autocast
from qlora_doctor.memory.first_gradient import learn_counts
from qlora_doctor.memory.predict import traced
from qlora_doctor.memory.step import trace_steps
from qlora_doctor.memory.tape import ALLOC, FREE, Tape
from qlora_doctor.memory.trace import Recorder
from qlora_doctor.memory.values import UnknownValue
from tests.memory.cases import H200, LLAMA, RTX_4090, subject


def alive_at_end(tape: Tape) -> Counter[str]:
    alive = {}
    for event in tape.events:
        if event & 3 == ALLOC:
            alive[event >> 2] = tape.categories[event >> 2]
        elif event & 3 == FREE:
            alive.pop(event >> 2, None)
    return Counter(alive.values())


def meta(*shape: int, dtype: torch.dtype = torch.float32, grad: bool = False) -> torch.Tensor:
    return torch.empty(*shape, dtype=dtype, device="meta", requires_grad=grad)


@pytest.mark.parametrize("options", [{}, {"gradient_checkpointing": False}, {"use_reentrant": True}])
def test_a_step_leaves_the_model_and_the_optimizer_and_nothing_else(options: dict[str, Any]) -> None:
    tape = traced(subject(**options), H200)
    alive = alive_at_end(tape)
    targets = 7 * LLAMA["num_hidden_layers"]
    assert alive["adapter"] == 2 * targets
    assert alive["optimizer"] == 3 * 2 * targets  # a step count and two moments for each tensor
    assert alive["workspaces"] == 2  # one for the main thread, one for autograd's
    assert not alive["activations"] and not alive["gradients"] and not alive["logits_and_loss"]


def test_a_second_step_repeats_the_first_without_what_outlives_it() -> None:
    """What replay does from one trace is what two traced steps do."""
    from qlora_doctor.memory import step as module
    from qlora_doctor.memory.optimizers import Optimizer

    one = subject()
    optimizers = []
    original = Optimizer.__init__

    def shared(self: Optimizer, name: str, recorder: Recorder, embeddings: frozenset[int]) -> None:
        original(self, name, recorder, embeddings)
        optimizers.append(self)
        self.state = optimizers[0].state

    courses = []
    for _ in range(2):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module.Optimizer, "__init__", shared)
            tape = trace_steps(one.model, one.step, H200, one.load)
        events = tape.events[tape.step_start :]
        freed = {event >> 2 for event in events if event & 3 == FREE}
        courses.append([tape.sizes[e >> 2] for e in events if e & 3 == ALLOC and e >> 2 in freed])
    assert courses[0] == courses[1]


def test_dropout_keeps_a_mask_of_bytes() -> None:
    tape = Tape()
    with as_on_cuda(H200), Recorder(tape):
        out = torch.nn.functional.dropout(meta(8, 512, dtype=torch.bfloat16, grad=True), 0.1, True)
    assert sorted(tape.sizes[-2:]) == [8 * 512, 2 * 8 * 512]
    assert out.dtype is torch.bfloat16


def test_autocast_casts_once_and_keeps_the_cast_of_a_leaf() -> None:
    tape = Tape()
    weight, x = meta(64, 32, grad=True), meta(16, 32, dtype=torch.bfloat16)
    with as_on_cuda(H200), Recorder(tape), Autocast("cuda", dtype=torch.bfloat16):
        first = torch.nn.functional.linear(x, weight)
        second = torch.nn.functional.linear(x, weight)
        assert first.dtype is second.dtype is torch.bfloat16
        assert tape.sizes.count(2 * 64 * 32) == 1
        assert torch.nn.functional.softmax(first, -1).dtype is torch.float32
        with Autocast("cuda", enabled=False):
            assert (meta(4, 4) @ meta(4, 4)).dtype is torch.float32
    assert not torch.is_autocast_enabled("cuda")


@pytest.mark.parametrize("function", ["softmax", "log_softmax"])
def test_played_casts_are_those_of_torch(function: str) -> None:
    """Where the CPU's own autocast has the same rule, both give the same type."""
    call = getattr(torch.nn.functional, function)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        x = torch.randn(4, 8)
        expected = [torch.nn.functional.linear(x, x).dtype, call(torch.nn.functional.linear(x, x), -1).dtype]
    with as_on_cuda(H200), Autocast("cuda", dtype=torch.bfloat16):
        y = meta(4, 8)
        played = [torch.nn.functional.linear(y, y).dtype, call(torch.nn.functional.linear(y, y), -1).dtype]
    assert played[0] is expected[0] is torch.bfloat16
    assert played[1] is torch.float32


def test_each_card_takes_its_own_attention() -> None:
    rules = {}
    for machine in (H200, RTX_4090):
        tape = traced(subject(), machine)
        rules[machine.card.name] = {kernel.rule for kernel in tape.kernels}
    assert "cudnn_attention_backward" in rules["H200"]
    assert "flash_attention_backward" in rules["RTX 4090"]


def test_the_flash_attention_package_stands_in_for_the_cards_choice() -> None:
    rules = {kernel.rule for kernel in traced(subject(flash=True), H200).kernels}
    assert "flash_attention_backward" in rules and "cudnn_attention_backward" not in rules


def test_a_padded_batch_has_a_mask() -> None:
    plain, padded = traced(subject(), RTX_4090), traced(subject(padded=True), RTX_4090)
    assert "efficient_attention_backward" in {kernel.rule for kernel in padded.kernels}
    assert "efficient_attention_backward" not in {kernel.rule for kernel in plain.kernels}


def test_a_value_that_no_batch_gives_is_not_guessed() -> None:
    with Recorder(Tape()), pytest.raises(UnknownValue):
        bool((meta(3) > 0).all())


def test_values_of_the_batch_are_followed() -> None:
    recorder = Recorder(Tape())
    mask = torch.empty(2, 4, dtype=torch.int64, device="meta")
    recorder.values.know(mask, torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]]))
    with recorder:
        assert not bool((mask == 1).all())
        assert int(mask.sum()) == 6
        assert mask.nonzero().shape == (6, 2)


def test_autograd_adds_a_second_gradient_in_place() -> None:
    """As it does without a dispatch mode: the residual stream's gradient is not copied at each use."""
    tape = Tape()
    learn_counts()
    recorder = Recorder(tape)
    with recorder:
        inner = meta(64, 64, grad=True) * 1.0
        loss = (inner * 2.0 + inner * 3.0).sum()
        before = len(tape.sizes)
        recorder.in_backward = True
        loss.backward()
    # One gradient for each use of ``inner`` and one for the leaf; their sum takes nothing.
    assert [size for size in tape.sizes[before:] if size == 4 * 64 * 64] == [4 * 64 * 64] * 3


def test_arguments_of_a_cast_product_are_cast_last_first() -> None:
    tape = Tape()
    x, weight = meta(16, 32), meta(64, 32)
    with as_on_cuda(H200), Recorder(tape), Autocast("cuda", dtype=torch.bfloat16):
        torch.nn.functional.linear(x, weight)
    assert tape.sizes[:2] == [2 * 64 * 32, 2 * 16 * 32]


def test_attention_without_a_kernel_holds_its_scores_once() -> None:
    """Grouped heads in float32: the scores, their softmax, and what looks for rows that are masked throughout."""
    tape = Tape()
    query, key = meta(1, 8, 64, 32), meta(1, 2, 64, 32)
    with as_on_cuda(H200), Recorder(tape):
        torch.nn.functional.scaled_dot_product_attention(query, key, key, is_causal=True, enable_gqa=True)
    scores = 4 * 8 * 64 * 64
    assert tape.sizes.count(scores) == 2
    assert [kernel.shape for kernel in tape.kernels if kernel.rule == "safe_softmax"] == [(8 * 64 * 64, 8 * 64)]


def test_a_mask_given_by_name_is_cast_before_the_others() -> None:
    """Half of T5's step: a bias in float32 that no fused kernel takes, whose scores are a second result in 16 bits."""
    tape = Tape()
    query, bias = meta(1, 4, 64, 16), meta(1, 64, 64, 4).permute(0, 3, 1, 2)
    with as_on_cuda(H200), Recorder(tape), Autocast("cuda", dtype=torch.bfloat16):
        torch.nn.functional.scaled_dot_product_attention(query, query, query, attn_mask=bias)
    scores, one = 4 * 64 * 64, 4 * 64 * 16
    assert tape.sizes[:4] == [2 * scores, *[2 * one] * 3]
    assert tape.sizes.count(4 * scores) == 2 and tape.sizes.count(2 * scores) == 2


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_cross_entropy_keeps_the_log_softmax_in_the_logits_type(dtype: torch.dtype) -> None:
    """As an H200 was asked for it in T5's step, whose logits come in 16 bits."""
    tape = Tape()
    logits, labels = meta(16, 1000, dtype=dtype, grad=True), meta(16, dtype=torch.int64)
    with as_on_cuda(H200), Recorder(tape), Autocast("cuda", dtype=torch.bfloat16):
        loss = torch.nn.functional.cross_entropy(logits, labels, ignore_index=-100)
    large = [size for size in tape.sizes if size >= 2 * 16 * 1000]
    assert large == ([2 * 16 * 1000, 4 * 16 * 1000] if dtype is torch.bfloat16 else [4 * 16 * 1000])
    assert loss.dtype is torch.float32

"""Liger's kernels: what they take and keep, where they are put, and for whom there is no figure."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from qlora_doctor.facts import Facts
from qlora_doctor.memory.evaluation import trace_evaluation
from qlora_doctor.memory.kernel_switches import LigerKernels
from qlora_doctor.memory.liger import RmsNorm, _HeadLoss, _Rotation, _Swiglu
from qlora_doctor.memory.predict import Prediction, predict
from qlora_doctor.memory.scope import unmodelled
from qlora_doctor.memory.step import StepOptions
from qlora_doctor.memory.subject import subject_of_setup
from qlora_doctor.memory.tape import Tape
from qlora_doctor.memory.trace import Recorder
from qlora_doctor.setup.setup import Setup, Training
from tests.memory.cases import H200, LLAMA, subject
from tests.memory.test_run import config, memory_of
from tests.traits import traits_of

WORDY = LLAMA | {"vocab_size": 32003}


def predicted(kernels: LigerKernels | None, **options: Any) -> Prediction:
    """The prediction of a small model of many words."""
    one = subject(options.pop("architecture", WORDY), sequence=256, **options)
    return predict(replace(one, step=replace(one.step, liger=kernels)), H200)


def test_the_loss_never_holds_all_logits() -> None:
    plain, fused = predicted(None), predicted(LigerKernels())
    logits = 2 * 256 * 32003 * 4
    assert plain.step_breakdown["logits_and_loss"] > logits
    # A part of the logits at a time, and a copy of the head in 16 bits.
    assert fused.step_breakdown["logits_and_loss"] < logits / 3
    assert sum(fused.step_breakdown.values()) == fused.step_allocated_bytes
    assert fused.steps[1] == fused.steps[2]


def test_the_layers_keep_less_without_checkpointing() -> None:
    case: dict[str, Any] = {"architecture": LLAMA, "gradient_checkpointing": False, "batch": 16}
    none = LigerKernels(rope=False, rms_norm=False, swiglu=False, fused_linear_cross_entropy=False)
    before = predicted(none, **case).step_breakdown
    assert before == predicted(None, **case).step_breakdown
    after = predicted(LigerKernels(fused_linear_cross_entropy=False), **case).step_breakdown
    assert after["activations"] < before["activations"] * 0.95


def test_kernels_write_where_liger_writes() -> None:
    """Gradients of SwiGLU go over gate and up, that of a norm over the one it is given, rotation turns in place."""
    tape = Tape()
    with Recorder(tape), torch.device("meta"):
        gate, up = torch.empty(1024, requires_grad=True), torch.empty(1024, requires_grad=True)
        states = torch.empty(4, 8, 256, requires_grad=True)
        query = torch.empty(4, 8, 2, 128, requires_grad=True).transpose(1, 2)
        weight, table = torch.empty(256), torch.empty(1, 8, 128)

        def taken(run: Any) -> list[int]:
            start = len(tape.sizes)
            kept = run()  # noqa: F841
            return tape.sizes[start:]

        assert taken(lambda: _Swiglu.apply(gate, up)) == [4096]
        assert taken(lambda: RmsNorm.apply(states, weight)) == [4 * 8 * 256 * 4, 4 * 8 * 4]
        assert taken(lambda: _Rotation.apply(query, query, table, table)) == []
        head = torch.empty(1000, 256)
        sizes = taken(lambda: _HeadLoss.apply(states.view(-1, 256), head, torch.empty(32, dtype=torch.int64)))
        # 32 tokens over 1,000 words of width 256: 4 times as wide, so 8 tokens at a time into one buffer.
        assert sizes.count(8 * 1000 * 4) == 1 and max(sizes) == 32 * 256 * 4


def test_an_evaluation_has_no_logits_either() -> None:
    one = subject(WORDY)
    one = replace(one, step=replace(one.step, liger=LigerKernels()))
    tape = trace_evaluation(one, H200, 16, made_ready=False)
    assert max(tape.sizes) < 16 * 128 * 32003 * 2


def test_trl_keeps_its_own_head() -> None:
    plain = Setup(training=Training(use_liger_kernel=True))
    found = LigerKernels.of(plain, fuses_head=True)
    assert found is not None and not found.fused_linear_cross_entropy
    told = plain.training.model_copy(update={"extra": {"liger_kernel_config": {"rope": False, "unknown": True}}})
    assert LigerKernels.of(Setup(training=told), fuses_head=False) == LigerKernels(rope=False)
    assert LigerKernels.of(Setup(), fuses_head=False) is None
    assert StepOptions(batch=1, sequence=1).liger is None


@pytest.mark.parametrize("trainer", ["transformers", "trl"])
def test_a_setup_with_liger_is_predicted(trainer: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(WORDY), encoding="utf-8")
    given = config(tmp_path, trainer=trainer, use_liger_kernel=True)
    memory = memory_of(given)
    assert memory.predicted is not None
    assert any("Liger" in said for said in memory.predicted.assumptions or ())
    one = subject_of_setup(Setup.model_validate(given))
    assert one.step.liger is not None
    if trainer == "trl":
        assert not one.step.liger.fused_linear_cross_entropy


@pytest.mark.parametrize("dialect", ["llamafactory", "ms-swift"])
def test_other_trainers_apply_liger_otherwise(dialect: str) -> None:
    reason = unmodelled(
        Setup(dialect=dialect, traits=traits_of(dialect), training=Training(use_liger_kernel=True)), Facts()
    )
    assert reason is not None and "Liger" in reason


def test_a_family_that_is_not_restated_has_no_figure(tmp_path: Path) -> None:
    gemma = LLAMA | {"model_type": "gemma", "head_dim": 32}
    (tmp_path / "config.json").write_text(json.dumps(gemma), encoding="utf-8")
    memory = memory_of(config(tmp_path, use_liger_kernel=True))
    assert memory.predicted is None and "gemma" in str(memory.prediction_failure)

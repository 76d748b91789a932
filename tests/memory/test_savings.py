"""What changes save: worked out from shallow stacks, checked against full predictions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from qlora_doctor.memory import savings as module
from qlora_doctor.memory.predict import predict
from qlora_doctor.memory.savings import changed, savings
from qlora_doctor.memory.subject import subject_of_setup
from qlora_doctor.setup.setup import Lora, Model, Setup, Training
from tests.memory.cases import RTX_4090
from tests.models import make_architecture


@pytest.fixture(scope="module")
def setup(model_folder: Callable[..., Path]) -> Setup:
    folder = model_folder("llama", num_hidden_layers=12)
    return Setup(
        model=Model(name_or_path=str(folder), dtype="bfloat16"),
        lora=Lora(target_modules="all-linear", task_type="CAUSAL_LM", r=8),
        training=Training(per_device_train_batch_size=4, max_length=256, bf16=True, gradient_checkpointing=False),
    )


def test_savings_agree_with_full_predictions(setup: Setup) -> None:
    here = predict(subject_of_setup(setup), RTX_4090)
    found = savings(setup, RTX_4090, here)
    assert [saving.saved_bytes for saving in found] == sorted((s.saved_bytes for s in found), reverse=True)
    changes = {saving.pointer for saving in found}
    assert {"/training/per_device_train_batch_size", "/training/max_length"} <= changes
    for saving in found:
        there = predict(subject_of_setup(changed(setup, saving.pointer, saving.value)), RTX_4090)
        assert saving.peak_allocated_bytes == here.peak_allocated_bytes - saving.saved_bytes
        assert saving.peak_allocated_bytes == pytest.approx(there.peak_allocated_bytes, rel=0.03), saving.change


def test_a_change_that_saves_nothing_is_not_offered(setup: Setup) -> None:
    lean = changed(setup, "/training/optim", "paged_adamw_8bit")
    found = savings(lean, RTX_4090, predict(subject_of_setup(lean), RTX_4090))
    assert all(saving.saved_bytes > 0 for saving in found)
    assert "/training/optim" not in {saving.pointer for saving in found}


def test_where_depths_do_not_add_up_changes_are_predicted_in_full(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = predict(subject_of_setup(setup), RTX_4090)
    monkeypatch.setattr(module, "peak_by_depth", lambda *_: lambda setup: 1)
    monkeypatch.setattr(module, "changes", lambda *_: [("", "/training/per_device_train_batch_size", 2)])
    (saving,) = savings(setup, RTX_4090, here)
    there = predict(subject_of_setup(changed(setup, "/training/per_device_train_batch_size", 2)), RTX_4090)
    assert saving.peak_allocated_bytes == there.peak_allocated_bytes


def test_a_change_of_the_load_is_told_where_loading_is_the_peak(tmp_path: Path) -> None:
    """Experts that stay in 16 bits are cast to float32 by the preparation, which is the peak of such a run."""
    folder = make_architecture(tmp_path, "qwen3_moe", num_experts=128, moe_intermediate_size=1024)
    setup = Setup(
        model=Model(name_or_path=str(folder), dtype="bfloat16"),
        lora=Lora(target_modules=["q_proj"], task_type="CAUSAL_LM", r=8),
        training=Training(per_device_train_batch_size=1, max_length=32, bf16=True, gradient_checkpointing=True),
    )
    here = predict(subject_of_setup(setup), RTX_4090)
    assert here.run["load"][0] > here.step_allocated_bytes
    pointer = "/training/prepare_for_kbit_training"
    saving = next(each for each in savings(setup, RTX_4090, here) if each.pointer == pointer)
    there = predict(subject_of_setup(changed(setup, pointer, False)), RTX_4090)
    assert saving.peak_allocated_bytes == there.peak_allocated_bytes < here.peak_allocated_bytes / 1.5

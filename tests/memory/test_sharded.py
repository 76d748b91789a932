"""Models divided over several ranks: what stays on each, and what comes and goes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from qlora_doctor.facts import Facts
from qlora_doctor.facts.config import ConfigFacts
from qlora_doctor.memory.allocator import CachingAllocator
from qlora_doctor.memory.engine_options import FlatOptions, ZeroOptions
from qlora_doctor.memory.predict import Prediction, predict
from qlora_doctor.memory.scope import unmodelled
from qlora_doctor.setup.setup import Hardware, Quantization, Setup, Training
from tests.memory.cases import H200, LLAMA, subject

LARGER = LLAMA | {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 6, "vocab_size": 8003}
GIVEN: dict[str, Any] = {"prepare_for_kbit_training": False, "lora_dropout": 0.0, "batch": 1, "sequence": 64}


def predicted(ranks: int | None, engine: Any = "fsdp2", **options: Any) -> Prediction:
    """The small model's prediction on one rank of several, with 4-bit weights stored as integers."""
    one = subject(LARGER, **GIVEN, **options)
    return predict(replace(one, step=replace(one.step, engine=ranks and engine, ranks=ranks or 1)), H200)


def test_what_stays_is_divided_by_the_ranks() -> None:
    whole, half, quarter = (predicted(ranks) for ranks in (None, 2, 4))
    # 4-bit weights in uint8 stay whole; embeddings, head, adapter, its gradients and optimizer states are sharded.
    packed = whole.step_breakdown["base_4bit"]
    assert half.step_breakdown["base_4bit"] == packed
    assert half.step_breakdown["optimizer"] == pytest.approx(whole.step_breakdown["optimizer"] / 2, rel=0.01)
    rest = whole.after_bytes - packed
    for run, ranks in ((half, 2), (quarter, 4)):
        kept = run.after_bytes - packed
        fixed = 2 * H200.blas_workspace_bytes + whole.step_breakdown["quantization_statistics"]
        assert kept - fixed == pytest.approx((rest - fixed) / ranks, rel=0.1)


@pytest.mark.parametrize(
    "engine",
    [FlatOptions(), FlatOptions(prefetches=True), "fsdp2", ZeroOptions(100_000), ZeroOptions(None, overlaps=True)],
)
def test_steps_leave_nothing_behind(engine: Any) -> None:
    run = predicted(2, engine)
    assert run.steps[1] == run.steps[2]
    assert sum(run.step_breakdown.values()) == run.step_allocated_bytes


def test_fsdp_1_divides_packed_weights_too() -> None:
    whole, half, quarter = (predicted(ranks, FlatOptions()) for ranks in (None, 2, 4))
    fixed = 2 * H200.blas_workspace_bytes + whole.step_breakdown["quantization_statistics"]
    assert half.after_bytes - fixed == pytest.approx(2 * (quarter.after_bytes - fixed), rel=0.02)
    assert half.after_bytes - fixed == pytest.approx((whole.after_bytes - fixed) / 2, rel=0.05)


def test_zero_2_divides_the_optimizer_and_takes_a_bucket_for_gradients() -> None:
    whole, half = predicted(None), predicted(2, ZeroOptions(1))
    # Both moments and a float32 copy of the adapter's part, which is kept in bfloat16.
    assert half.step_breakdown["optimizer"] == pytest.approx(whole.step_breakdown["optimizer"] * 3 / 4, rel=0.01)
    assert half.step_breakdown["base_4bit"] == whole.step_breakdown["base_4bit"]
    larger = predicted(2, ZeroOptions(100_000_000))
    assert larger.step_allocated_bytes > half.step_allocated_bytes + 150_000_000


@pytest.mark.parametrize("engine", [FlatOptions(), "fsdp2", ZeroOptions()])
def test_an_evaluation_is_predicted_after_the_step(engine: Any) -> None:
    one = subject(LARGER, **GIVEN)
    run = predict(replace(one, step=replace(one.step, engine=engine, ranks=2)), H200, evaluation_batch=8)
    plain = predict(subject(LARGER, **GIVEN), H200, evaluation_batch=8)
    assert 0 < run.run["evaluation"][0] < plain.run["evaluation"][0] + 2 * 500_000_000
    assert run.steps[1] == run.steps[2]


def test_accumulated_gradients_stay_whole_until_the_last_batch() -> None:
    once, twice = predicted(2), predicted(2, gradient_accumulation_steps=2)
    assert twice.step_allocated_bytes >= once.step_allocated_bytes


def test_streams_have_pools_of_their_own() -> None:
    allocator = CachingAllocator()
    allocator.free(allocator.malloc(20 << 20))
    allocator.malloc(20 << 20)
    assert allocator.reserved == 20 << 20
    allocator.malloc(10 << 20, 1)
    assert allocator.reserved == 30 << 20


@pytest.mark.parametrize(
    "told, bucket, small",
    [("auto", None, True), (5e8, 500_000_000, False), (10_000_000, 10_000_000, True), (None, 500_000_000, False)],
)
def test_a_bucket_of_gradients_is_read(told: Any, bucket: int | None, small: bool) -> None:
    options = ZeroOptions.of({} if told is None else {"reduce_bucket_size": told})
    assert options is not None and (options.bucket, options.is_small) == (bucket, small)


@pytest.mark.parametrize("told", ["many", 0, -1, True, float("inf"), None, [1]])
def test_a_bucket_of_no_size_has_no_figure(told: Any) -> None:
    assert ZeroOptions.of({"reduce_bucket_size": told}) is None


def zero(**section: Any) -> Setup:
    return Setup(
        training=Training(
            bf16=True,
            gradient_checkpointing=True,
            gradient_accumulation_steps=4,
            per_device_train_batch_size=1,
            deepspeed={"zero_optimization": {"stage": 2, **section}},
        ),
        hardware=Hardware(count=2),
        quantization=Quantization(load_in_4bit=True),
    )


def left_out(setup: Setup, **config: Any) -> str | None:
    known = {"distributed": "zero2", "gradient_checkpointing": True, **config}
    return unmodelled(setup, Facts(config=ConfigFacts(**known)))


def test_why_a_run_of_zero_has_no_figure_is_said() -> None:
    assert left_out(zero(reduce_bucket_size="auto")) is None
    assert "accumulated batches and a large bucket" in (left_out(zero()) or "")
    assert "without offloading" in (left_out(zero(offload_optimizer={"device": "cpu"})) or "")
    assert "DeepSpeed ZeRO-3," in (left_out(zero(stage=3), distributed="zero3") or "")
    alone = zero(reduce_bucket_size="auto").model_copy(update={"hardware": Hardware()})
    assert "2xrtx-4090" in (left_out(alone) or "")

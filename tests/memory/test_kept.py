"""Kept traces: what they tell without torch is what a live prediction tells, and where they do not, nothing is told."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from qlora_doctor.facts import Facts
from qlora_doctor.memory.kept import NotKept, Traces, decode, encode
from qlora_doctor.memory.plan import Planner, largest_within
from qlora_doctor.memory.plan_stage import look_at_plan, recalled_plan
from qlora_doctor.memory.predict import predict
from qlora_doctor.setup.changed import with_value
from qlora_doctor.setup.setup import Hardware, Lora, Model, Setup, Training
from qlora_doctor.worker.job import PlanRequest
from tests.memory.cases import H200, RTX_4090, subject

SPACE = 400 << 20


@pytest.fixture(scope="module")
def traces() -> Traces:
    """What a question about one cell that does not fit leaves, written and read again."""
    planner = Planner(lambda: subject(), (2,), (256,))
    planner.prediction(RTX_4090, 2, 256)
    assert planner.traces == 1
    planner.longest_sequence(RTX_4090, 1, SPACE, 512)
    planner.largest_batch(RTX_4090, 256, SPACE)
    return decode(encode(planner.tracer.traces))


@pytest.mark.parametrize("size", [(1, 192), (1, 1024), (2, 256), (5, 320), (64, 64)])
def test_a_kept_answer_is_the_live_one(traces: Traces, size: tuple[int, int]) -> None:
    told = Planner(None, (size[0],), (size[1],), traces=traces).prediction(RTX_4090, *size)
    live = predict(subject(batch=size[0], sequence=size[1]), RTX_4090)
    assert (told.peak_allocated_bytes, told.peak_reserved_bytes) == (
        live.peak_allocated_bytes,
        live.peak_reserved_bytes,
    )
    assert told.breakdown == live.breakdown and told.assumptions == live.assumptions


def test_what_is_not_kept_is_not_made_up(traces: Traces) -> None:
    with pytest.raises(NotKept):
        Planner(None, (1,), (100,), traces=traces).prediction(RTX_4090, 1, 100)  # padded on the way: another course
    with pytest.raises(NotKept):
        Planner(None, (1,), (192,), traces=traces).prediction(H200, 1, 192)  # other attention kernels
    with pytest.raises(NotKept):
        Planner(None, (1,), (192,)).prediction(RTX_4090, 1, 192)


def test_a_damaged_file_holds_nothing(traces: Traces, tmp_path: Path) -> None:
    path = tmp_path / "x.traces"
    traces.write(path)
    assert Traces.read(path).outline == traces.outline
    path.write_bytes(path.read_bytes()[:-9] + b"123456789")
    assert Traces.read(path) == Traces() and Traces.read(tmp_path / "none") == Traces()


@pytest.mark.parametrize("space", [0, 5, 990, 1000, 123_456, 10**9])
def test_the_largest_that_fits_is_found(space: int) -> None:
    asked: list[int] = []

    def reserved(count: int, enough: int | None = None) -> int:
        asked.append(count)
        return 1000 * count + 37 * (count % 7) + 90

    expected = max((count for count in range(1, 501) if reserved(count) <= space), default=None)
    asked.clear()
    assert largest_within(lambda count: 1000 * count, reserved, space, 500) == expected
    assert len(asked) <= 8


@pytest.fixture(scope="module")
def setup(model_folder: Callable[..., Path]) -> Setup:
    return Setup(
        model=Model(name_or_path=str(model_folder("llama", num_hidden_layers=6)), dtype="bfloat16"),
        lora=Lora(target_modules="all-linear", task_type="CAUSAL_LM", r=8),
        training=Training(
            per_device_train_batch_size=4, max_length=128, bf16=True, gradient_checkpointing=True, optim="adamw_torch"
        ),
        hardware=Hardware(gpu="RTX 4090"),
    )


def test_a_cell_that_fits_costs_one_trace_and_the_next_question_none(setup: Setup, tmp_path: Path) -> None:
    kept = str(tmp_path / "x.traces")
    told = look_at_plan(setup, Facts(), PlanRequest(kept=kept, batches=(4,), sequences=(128,)), lambda text: None)
    assert told.plan_traces == 1 and told.plans is not None and told.plans[0].asked is not None
    assert told.plans[0].asked.fits and told.plans[0].asked.traced
    again = recalled_plan(setup, Facts(), PlanRequest(kept=kept, batches=(4,), sequences=(128,), cards=("l4",)))
    assert again is not None and again.plan_traces == 0 and again.predicted is not None
    assert again.predicted.peak_allocated_bytes == told.predicted.peak_allocated_bytes  # type: ignore[union-attr]
    longer = with_value(setup, "training.max_length", 192)
    assert recalled_plan(longer, Facts(), PlanRequest(kept=kept)) is None  # one trace tells no table


def test_a_cell_that_does_not_fit_says_what_does(setup: Setup, tmp_path: Path) -> None:
    kept = str(tmp_path / "x.traces")
    request = PlanRequest(kept=kept, batches=(256,), sequences=(256,), cards=("1GiB",))
    told = look_at_plan(setup, Facts(), request, lambda text: None)
    assert told.plans is not None
    (plan,) = told.plans
    assert plan.asked is not None and plan.asked.fits is False and plan.card_bytes is not None
    assert plan.instead is not None and plan.instead.batch < 256 and plan.instead.sequence == 256
    best = with_value(setup, "training.per_device_train_batch_size", plan.instead.batch)
    best = with_value(best, "training.max_length", 256)
    alone = PlanRequest(batches=(plan.instead.batch,), sequences=(256,), cards=("1GiB",))
    assert look_at_plan(best, Facts(), alone, lambda text: None).plans[0].asked.fits  # type: ignore[index, union-attr]
    assert plan.cure is not None and plan.cure.fits and not plan.cure.alters
    assert plan.cure.peak_reserved_bytes <= plan.card_bytes
    again = recalled_plan(setup, Facts(), request)
    assert again is not None and again.plans is not None
    assert (again.plans[0].instead, again.plans[0].cure) == (plan.instead, plan.cure)


def test_tables_from_kept_traces_import_no_torch() -> None:
    code = "import sys, qlora_doctor.run.planning, qlora_doctor.memory.plan; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

"""Tables of predicted peaks: pieces, searches, cards, and what a report of one says."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qlora_doctor.core.report import Report, StageRecord, Tool
from qlora_doctor.facts import Facts
from qlora_doctor.memory.machine import Machine
from qlora_doctor.memory.plan import Planner, lengths_for
from qlora_doctor.memory.plan_stage import look_at_plan
from qlora_doctor.memory.predict import predict, traced
from qlora_doctor.memory.replay import replay_peaks
from qlora_doctor.memory.stage import allocator_assumptions, machine_for
from qlora_doctor.memory.tapes_by_size import TapesBySize, Tracer
from qlora_doctor.reading import read_setup
from qlora_doctor.reporters import plan as plan_text
from qlora_doctor.setup.setup import Hardware, Lora, Model, Setup, Training
from qlora_doctor.tables.cards import card_for_memory, find_card
from qlora_doctor.worker.job import PlanRequest
from tests.memory.cases import H200, LLAMA, RTX_4090, subject

SLIDING = {**LLAMA, "model_type": "mistral", "sliding_window": 128}
GIB = 1 << 30


def test_lengths_with_and_without_a_mask_are_traced_apart() -> None:
    tracer = Tracer(lambda: subject(SLIDING))
    courses = TapesBySize(tracer, RTX_4090, (1, 2, 4), (64, 96, 128, 256, 512))
    for size in ((1, 96), (1, 512), (4, 128), (4, 256), (3, 512)):
        own = traced(subject(SLIDING, batch=size[0], sequence=size[1]), RTX_4090)
        assert courses.at(*size).sizes == own.sizes, size
    assert any("another course" in note for note in courses.notes)
    assert tracer.count < 20


@pytest.mark.parametrize("machine", [RTX_4090, Machine(find_card("T4"), (2, 11))], ids=["4090", "t4"])
def test_any_cell_is_what_its_own_trace_says(machine: Machine) -> None:
    planner = Planner(lambda: subject(), (1, 2, 5), (64, 100, 333))
    for size in ((1, 100), (5, 333), (2, 64)):
        own = predict(subject(batch=size[0], sequence=size[1]), machine)
        ours = planner.prediction(machine, *size)
        assert (ours.peak_allocated_bytes, ours.breakdown) == (own.peak_allocated_bytes, own.breakdown)
        assert (ours.batch, ours.sequence) == size


def test_the_search_ends_where_the_card_is_full() -> None:
    planner = Planner(lambda: subject(), (1, 2), (64, 256))
    space = 400 << 20
    batch = planner.largest_batch(RTX_4090, 256, space)
    assert batch is not None and batch > 1
    at = planner.courses(RTX_4090).at
    assert replay_peaks(at(batch, 256), RTX_4090)[1] <= space < replay_peaks(at(batch + 1, 256), RTX_4090)[1]
    assert planner.longest_sequence(RTX_4090, 1, space, limit=512) == 512
    assert planner.largest_batch(RTX_4090, 256, 1 << 20) is None


def test_cards_of_one_kind_share_traces() -> None:
    planner = Planner(lambda: subject(), (1, 2), (64, 128, 192))
    tables = [planner.table(Machine(find_card(name), (2, 11))) for name in ("RTX 4090", "RTX 3090", "A100", "L4")]
    assert planner.traces == 6
    assert len({table.capacity_bytes for table in tables}) == 4
    planner.table(H200)
    assert planner.traces == 12


def test_lengths_keep_to_the_positions_that_a_model_has() -> None:
    assert max(lengths_for(1024)) == 1024 and len(lengths_for(1024)) >= 8
    assert lengths_for(None) == lengths_for(131_072)
    assert lengths_for(16) == (16,)


@pytest.fixture(scope="module")
def setup(model_folder: Callable[..., Path]) -> Setup:
    return Setup(
        model=Model(name_or_path=str(model_folder("llama")), dtype="bfloat16"),
        lora=Lora(target_modules="all-linear", task_type="CAUSAL_LM", r=8),
        training=Training(per_device_train_batch_size=3, max_length=96, bf16=True, gradient_checkpointing=True),
        hardware=Hardware(gpu="RTX 4090"),
    )


def look(setup: Setup, **request: Any) -> Any:
    told: list[str] = []
    return look_at_plan(setup, Facts(), PlanRequest(**request), told.append)


def test_a_plan_as_facts(setup: Setup) -> None:
    facts = look(setup, cards=("t4", "24GiB"), batches=(1, 4), sequences=(64, 128))
    assert facts.plan == facts.plans[0].cells and len(facts.plan) == 4
    assert [plan.card for plan in facts.plans] == ["Tesla T4", "24 GiB"]
    assert [plan.bf16 for plan in facts.plans] == [False, True]
    assert all(cell.fits for cell in facts.plan)
    assert (facts.predicted.batch, facts.predicted.sequence) == (3, 96)
    assert facts.card == "Tesla T4" and 0 < facts.predicted_ratio < 1
    assert facts.plan_verified_ratio == 0 and facts.plan_traces >= 6
    assert len(facts.sufficient_cards) > 40
    assert [point.batch for point in facts.plans[0].frontier] == [1, 4]


def test_a_table_without_a_card_holds_nothing_against_it(setup: Setup) -> None:
    facts = look(setup.model_copy(update={"hardware": Hardware()}), batches=(1,), sequences=(64,))
    assert facts.card is None and facts.plans[0].card_bytes is None
    assert facts.plan[0].fits is None and facts.plans[0].frontier == []
    assert any("No card is named" in sentence for sentence in facts.predicted.assumptions)


def test_the_setups_own_values_are_in_the_table(setup: Setup) -> None:
    facts = look(setup)
    assert {cell.batch for cell in facts.plan} >= {1, 3} and 96 in {cell.sequence for cell in facts.plan}


def test_the_text_shows_what_fits(setup: Setup) -> None:
    facts = look(setup, cards=("1GiB",), batches=(1, 64), sequences=(64, 4096))
    report = Report(tool=Tool(version="0", created="now"), facts=Facts(memory=facts))
    text = plan_text.render(report)
    assert "\x1b[" not in text and "\x1b[" in plan_text.render(report, color=True)
    assert "✓" in text and "✗" in text
    assert "Frontier (batch × longest that fits): 1 × " in text
    assert "Largest batch at 96 tokens: " in text and "Longest sequence at batch 3: " in text
    assert "linearly" in text and "traces; verified cells differ by 0.00% at most" in text


def test_the_text_says_why_there_is_none() -> None:
    record = StageRecord(name="memory", status="skipped", reason="The step cannot be traced.", remedy="Measure it.")
    memory = Facts.model_validate({"memory": {"prediction_failure": "x", "certain_bytes": 5 * GIB}}).memory
    report = Report(tool=Tool(version="0", created="now"), stages=[record], facts=Facts(memory=memory))
    text = plan_text.render(report)
    assert "The step cannot be traced." in text and "5 GiB" in text and "Measure it." in text


def test_a_card_of_one_size() -> None:
    planner = Planner(lambda: subject(), (1,), (64,))
    table = planner.table(Machine(card_for_memory(GIB), (2, 11)))
    assert table.capacity_bytes == GIB - (512 << 20)
    assert json.dumps(table.frontier) == '{"1": 64}'


def test_the_allocators_setting_is_heard(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTORCH_ALLOC_CONF", raising=False)
    monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True,max_split_size_mb:128")
    assert machine_for(setup, find_card("L4")).expandable_segments
    heard, unheard = allocator_assumptions(setup)
    assert "expandable_segments:True" in heard and "max_split_size_mb" in unheard
    monkeypatch.setenv("PYTORCH_ALLOC_CONF", "expandable_segments:False")
    assert not machine_for(setup, find_card("L4")).expandable_segments
    named = setup.model_copy(update={"hardware": Hardware(expandable_segments=True)})
    assert machine_for(named, find_card("L4")).expandable_segments


def test_a_trainers_own_setting_gives_way_to_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """axolotl sets PYTORCH_ALLOC_CONF only where nobody has set it."""
    for name in ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "c.yml").write_text("base_model: x/y\nadapter: qlora\nload_in_4bit: true\nmicro_batch_size: 1\n")
    setup = read_setup(tmp_path / "c.yml")
    assert machine_for(setup, None).expandable_segments
    assert [said for said in allocator_assumptions(setup) if "axolotl" in said]
    monkeypatch.setenv("PYTORCH_ALLOC_CONF", "max_split_size_mb:128")
    assert not machine_for(setup, None).expandable_segments
    assert not [said for said in allocator_assumptions(setup) if "axolotl" in said]

"""Cures: what is offered is what a live prediction of the changed setup says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from qlora_doctor.facts import Facts
from qlora_doctor.memory.cure_stage import all_levers, look_at_cure
from qlora_doctor.memory.levers import Lever, Operation, applied, combinations, levers_of, smaller_base
from qlora_doctor.memory.machine import Machine
from qlora_doctor.memory.predict import lasting_bytes, predict, traced
from qlora_doctor.memory.savings import changed
from qlora_doctor.memory.searching import search_for
from qlora_doctor.memory.stage import machine_for
from qlora_doctor.memory.subject import Subject, subject_of_setup
from qlora_doctor.memory.tape import Tape
from qlora_doctor.setup.setup import Hardware, Lora, Model, Setup, Training
from qlora_doctor.tables.cards import card_for_memory, parse_memory
from qlora_doctor.worker.job import CureRequest


def setup_for(folder: Path, memory: str, **training: object) -> Setup:
    told = {"per_device_train_batch_size": 16, "gradient_accumulation_steps": 1, "max_length": 256, "bf16": True,
            "gradient_checkpointing": False, "prepare_for_kbit_training": False, **training}  # fmt: skip
    return Setup(
        model=Model(name_or_path=str(folder), dtype="bfloat16"),
        lora=Lora(target_modules="all-linear", task_type="CAUSAL_LM", r=16),
        training=Training.model_validate(told),
        hardware=Hardware(memory=memory),
    )


@pytest.fixture(scope="module")
def folder(model_folder: Callable[..., Path]) -> Path:
    return model_folder("llama", num_hidden_layers=8)


def look(setup: Setup, **request: object) -> object:
    names = tuple(lever.change for group in all_levers(setup, Facts()) for lever in group)
    return look_at_cure(setup, Facts(), CureRequest(levers=names, **request), lambda text: None)  # type: ignore[arg-type]


def test_every_cure_is_the_prediction_of_its_own_setup(folder: Path) -> None:
    setup = setup_for(folder, "600MiB")
    memory = look(setup)
    assert memory.cures and memory.cure is not None and memory.cures[0] == memory.cure  # type: ignore[attr-defined]
    assert memory.cure.fits and not memory.cure.alters  # type: ignore[attr-defined]
    levers = {lever.change: lever for lever in levers_of(setup)}
    for cure in memory.cures:  # type: ignore[attr-defined]
        changed = applied(setup, [levers[name] for name in dict.fromkeys(each.change for each in cure.changes)])
        machine = machine_for(changed, card_for_memory(parse_memory("600MiB")))
        live = predict(subject_of_setup(changed), machine)
        assert cure.peak_allocated_bytes == live.peak_allocated_bytes
        assert cure.peak_reserved_bytes == live.peak_reserved_bytes


def test_nothing_is_traced_where_the_base_alone_is_too_large(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from qlora_doctor.memory import traced_once
    from qlora_doctor.memory.stage import look_at_memory

    traces: list[object] = []

    def counted(subject: Subject, machine: Machine) -> Tape:
        traces.append(subject)
        return traced(subject, machine)

    monkeypatch.setattr(traced_once, "traced", counted)
    setup = setup_for(folder, "1MiB")
    base = subject_of_setup(setup).model
    floor = lasting_bytes(base)
    frozen = sum(p.nbytes for p in base.parameters() if not p.requires_grad)
    prepared = subject_of_setup(changed(setup, "/training/prepare_for_kbit_training", True)).model
    assert floor == frozen == lasting_bytes(prepared) < sum(p.nbytes for p in prepared.parameters())
    seen = look_at_memory(setup, Facts(), lambda text: None)
    assert seen.predicted is not None and seen.savings is None and seen.cures is None and len(traces) == 1
    assert seen.certain_bytes == floor <= (seen.predicted.peak_allocated_bytes or 0)
    assert "The base alone takes" in (seen.predicted.assumptions or [""])[-1]
    cured = look(setup)
    assert cured.cures == [] and cured.cure is None and len(traces) == 2  # type: ignore[attr-defined]
    smaller = [Lever("base", "a smaller base", (Operation("model.name_or_path", "none"),), alters="another model")]
    search = search_for(
        setup, Facts(), card_for_memory(2**20), machine_of=machine_for, evaluation_batch=None, architecture=None,
        offline=True, progress=lambda text: None, floor=floor,
    )  # fmt: skip
    assert search is not None and search.may_fit(tuple(smaller)) and not search.may_fit(tuple(levers_of(setup)))


def test_a_search_traces_each_setup_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The allocator's setting is no reason for a trace, nor is a question that was asked before."""
    from qlora_doctor.memory.traced_once import TracedOnce

    setup, machine = setup_for(folder, "600MiB"), machine_for(setup_for(folder, "600MiB"), card_for_memory(2**30))
    known = TracedOnce(setup)
    first = known.prediction(setup, machine)
    tight = changed(setup, "/hardware/expandable_segments", True)
    there = machine_for(tight, card_for_memory(2**31))
    assert there.expandable_segments and known.prediction(tight, there) == predict(subject_of_setup(tight), there)
    assert known.prediction(setup, machine) == first == predict(subject_of_setup(setup), machine)
    assert known.count == 1
    with_evaluation = known.prediction(setup, machine, 4)
    assert with_evaluation == predict(subject_of_setup(setup), machine, evaluation_batch=4) and known.count == 2
    assert known.prediction(setup, machine) == first and known.count == 2
    other = changed(setup, "/training/per_device_train_batch_size", 2)
    assert known.prediction(other, machine) == predict(subject_of_setup(other), machine) and known.count == 3


def test_what_is_kept_is_not_changed(folder: Path) -> None:
    setup = setup_for(folder, "600MiB")
    names = [lever.change for lever in levers_of(setup) if lever.kind not in ("batch", "loss")]
    memory = look_at_cure(setup, Facts(), CureRequest(levers=tuple(names)), lambda text: None)
    changed = {change.pointer for cure in memory.cures or () for change in cure.changes}
    assert changed and "/training/per_device_train_batch_size" not in changed


def test_what_is_learned_is_changed_only_where_nothing_else_is_left(folder: Path) -> None:
    setup = setup_for(folder, "530MiB", per_device_train_batch_size=1, max_length=4096)
    memory = look(setup)
    assert memory.cures  # type: ignore[attr-defined]
    if memory.cure is not None:  # type: ignore[attr-defined]
        harmless_fits = any(cure.fits and not cure.alters for cure in memory.cures)  # type: ignore[attr-defined]
        assert memory.cure.alters is not harmless_fits  # type: ignore[attr-defined]


def test_a_setup_that_fits_needs_no_cure(folder: Path) -> None:
    assert look(setup_for(folder, "24GiB")).cures is None  # type: ignore[attr-defined]


def test_micro_batches_keep_the_samples_of_an_update(folder: Path) -> None:
    for lever in levers_of(setup_for(folder, "1GiB", gradient_accumulation_steps=3)):
        if lever.kind == "batch":
            changed = lever.applied(setup_for(folder, "1GiB")).training
            batch, accumulation = changed.per_device_train_batch_size, changed.gradient_accumulation_steps
            assert batch is not None and accumulation is not None and batch * accumulation == 48


def test_the_order_follows_what_is_preferred(folder: Path) -> None:
    levers = levers_of(setup_for(folder, "1GiB"))
    assert len(combinations(levers)[0]) == 1
    assert not any(lever.rounds for lever in combinations(levers, "quality")[0])
    fastest = combinations(levers, "speed")[0]
    assert all("checkpointing" not in lever.kind for lever in fastest)


def test_a_smaller_base_of_the_same_family() -> None:
    assert smaller_base("Qwen/Qwen2.5-14B") == "Qwen/Qwen2.5-7B"
    assert smaller_base("someone/unheard-of-7B") is None and smaller_base("gpt2") is None

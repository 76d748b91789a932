"""A healthy training is silent, and goes on as if nobody looked: the same numbers, and nothing left behind."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.optim.optimizer import _global_optimizer_post_hooks

import qlora_doctor
from tests.faults.planting import found, told
from tests.watching.loops import adamw, adapted, batches, hooks_on, train, trainable, watched


def state_of_chance() -> tuple[Any, ...]:
    return torch.rand(1).item(), random.random(), float(np.random.rand())


def outcome(model: Any, losses: list[float]) -> tuple[Any, ...]:
    weights = [p.detach().clone() for p in model.parameters() if p.requires_grad]
    return losses, weights, state_of_chance()


def same(first: tuple[Any, ...], second: tuple[Any, ...]) -> bool:
    weights = all(torch.equal(a, b) for a, b in zip(first[1], second[1], strict=True))
    return first[0] == second[0] and weights and first[2] == second[2]


def seeded() -> None:
    torch.manual_seed(3)
    random.seed(3)
    np.random.seed(3)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_watching_changes_no_bit(tiny_llama: Path, checkpointing: bool) -> None:
    outcomes = []
    for look in (False, True):
        model = adapted(tiny_llama, checkpointing=checkpointing, lora_dropout=0.1)
        optimizer = adamw(model)
        seeded()
        if look:
            with qlora_doctor.watch(model, optimizer, quiet=True) as seen:
                losses = train(model, optimizer, accumulate=2)
            assert seen.report is not None and not found(seen.report, "warning"), told(seen.report)
        else:
            losses = train(model, optimizer, accumulate=2)
        outcomes.append(outcome(model, losses))
    assert same(*outcomes)


def test_hooks_are_gone_after_the_watched_steps(tiny_llama: Path) -> None:
    model = adapted(tiny_llama)
    optimizer = adamw(model)
    plain, before = torch.autograd.backward, hooks_on(model)
    seen: list[int] = []

    def note(number: int) -> None:
        seen.append(hooks_on(model))

    with qlora_doctor.watch(model, optimizer, quiet=True):
        train(model, optimizer, after=note)
    assert torch.autograd.backward is plain and not optimizer._optimizer_step_pre_hooks
    assert seen[0] > before and seen[1] > before  # two steps are watched
    assert set(seen[2:]) == {before}
    assert not _global_optimizer_post_hooks


def test_what_a_healthy_loop_shows(tiny_llama: Path) -> None:
    model = adapted(tiny_llama, checkpointing=True)
    report = watched(model, adamw(model), accumulate=2)
    run, step, batch = report.facts.run, report.facts.step, report.facts.batch
    assert not found(report, "warning"), told(report)
    assert run is not None and step is not None and batch is not None
    assert run.kind == "loop" and run.watched_steps == 2 and run.micro_batches == [2, 2]
    assert run.training_mode and run.checkpointing_active and run.loss_scale == pytest.approx(1, rel=0.2)
    assert run.base_changed_at_end == [] and run.troubles == [] and run.ended == "well"
    assert step.changed_base_tensors == [] and step.parameters_not_updated == [] and step.adapter_effective
    assert step.optimizer is not None and step.optimizer.missing_parameters == []
    assert batch.rows == 8 and batch.trained_ratio == 1.0 and batch.labels_shifted is False
    assert [record.name for record in report.stages] == ["config", "structure", "load", "step", "run", "course"]


def test_a_training_of_one_step_is_looked_at(tiny_llama: Path) -> None:
    model = adapted(tiny_llama)
    report = watched(model, adamw(model), list(batches(1)))
    assert report.facts.run is not None and report.facts.run.watched_steps == 1
    assert report.facts.step is not None and report.facts.step.changed_base_tensors == []


def test_a_training_without_a_step_is_no_green_one(tiny_llama: Path) -> None:
    model = adapted(tiny_llama)
    report = watched(model, adamw(model), [])
    statuses = {record.name: record.status for record in report.stages}
    assert statuses["step"] == "skipped"
    assert not [o for o in report.rules if o.stage == "step" and o.status == "pass" and o.rule in ("QD401", "QD405")]


def planted(*_: object, **__: object) -> Any:
    raise RuntimeError("planted in the doctor")


PLACES = [
    "qlora_doctor.watching.first_look.nonfinite_tensors",
    "qlora_doctor.watching.watcher.objects",
    "qlora_doctor.watching.onlooker._sample",
    "qlora_doctor.watching.watcher.Watch._forward",
    "qlora_doctor.watching.watcher.Watch._optimizer_begins",
    "qlora_doctor.watching.watcher.Watch._step_over",
    "qlora_doctor.watching.watcher.Watch._conclude",
    "qlora_doctor.watching.onlooker.Onlooker._after_forward",
    "qlora_doctor.watching.onlooker.Onlooker._gradient_came",
    "qlora_doctor.watching.watcher.known_facts",
    "qlora_doctor.probes.step.forward.ForwardWatch._end",
    "qlora_doctor.probes.step.forward.ForwardWatch._layer_begins",
    "qlora_doctor.probes.observing.snapshot.compare",
    "qlora_doctor.watching.update.Update.backward_begins",
    "qlora_doctor.watching.rows.Rows.look_at_loop",
    "qlora_doctor.watching.watcher.Watch._follow_on",
    "qlora_doctor.watching.watcher.Watch._loop_recorded",
    "qlora_doctor.watching.watcher.Watch._look_at_end",
    "qlora_doctor.watching.backward.BackwardWatch._noted",
    "qlora_doctor.watching.course.LoopCourse._after_backward",
    "qlora_doctor.watching.course.LoopCourse._take",
    "qlora_doctor.watching.course.Standing.changes",
    "qlora_doctor.watching.outputs.kept_outputs",
]


@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.rpartition(".")[2])
def test_a_failure_inside_leaves_the_training_alone(
    tiny_llama: Path, place: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    alone = adapted(tiny_llama)
    expected = train(alone, adamw(alone))
    model = adapted(tiny_llama)
    optimizer = adamw(model)
    before, plain = hooks_on(model), torch.autograd.backward
    monkeypatch.setattr(place, planted)
    with qlora_doctor.watch(model, optimizer, quiet=True) as seen:
        losses = train(model, optimizer)
    assert losses == expected
    assert all(torch.equal(a, b) for a, b in zip(trainable(alone), trainable(model), strict=True))
    assert hooks_on(model) == before and not _global_optimizer_post_hooks
    assert torch.autograd.backward is plain and not optimizer._optimizer_step_pre_hooks
    assert "planted in the doctor" in capsys.readouterr().err
    assert seen.report is None or not [o for o in seen.report.rules if o.rule == "QD748" and o.status == "pass"]


def test_an_output_that_cannot_be_written_is_told(
    tiny_llama: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = adapted(tiny_llama)
    optimizer = adamw(model)
    with qlora_doctor.watch(model, optimizer, f"json={tmp_path}/nowhere/x.json", f"html={tmp_path}/a.html", quiet=True):
        train(model, optimizer, list(batches(3)))
    assert "cannot be written" in capsys.readouterr().err
    assert (tmp_path / "a.html").is_file()


def test_a_watch_can_be_used_twice(tiny_llama: Path) -> None:
    for _ in range(2):
        model = adapted(tiny_llama)
        assert not found(watched(model, adamw(model), list(batches(3))), "warning")

"""Known faults, planted in a loop of one's own: the watching names exactly their rule within two steps."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from qlora_doctor.core.report import Report
from tests.faults.planting import found, told
from tests.models import VOCABULARY
from tests.watching.loops import Batch, adamw, adapted, batches, trainable, watched


def only(report: Report, rule: str, level: str) -> None:
    assert found(report, level) == {rule}, told(report)


# -- optimizers, as `examine` is tested with


def test_optimizer_of_an_older_copy(tiny_llama: Path) -> None:
    model = adapted(tiny_llama)
    older = copy.deepcopy(model)
    only(watched(model, adamw(older)), "QD415", "error")


def test_optimizer_misses_half_of_the_adapter(tiny_llama: Path) -> None:
    model = adapted(tiny_llama)
    only(watched(model, torch.optim.AdamW(trainable(model)[::2], lr=2e-4)), "QD416", "error")


def test_optimizer_holds_frozen_tensors(tiny_llama: Path) -> None:
    model = adapted(tiny_llama)
    everything = [p for p in model.parameters() if p.is_floating_point()]
    only(watched(model, torch.optim.AdamW(everything, lr=2e-4)), "QD417", "warning")


def test_an_optimizer_that_is_made_late_is_found(tiny_llama: Path) -> None:
    """Nobody hands it in: it shows itself when it steps."""
    from qlora_doctor import watch

    model = adapted(tiny_llama)
    with watch(model, quiet=True) as seen:
        half = torch.optim.AdamW(trainable(model)[::2], lr=2e-4)
        model.train()
        for batch in batches(3):
            model(**batch).loss.backward()
            half.step()
            half.zero_grad()
    assert seen.report is not None
    only(seen.report, "QD416", "error")


def test_a_wrapped_step_that_undoes_the_step(tiny_llama: Path) -> None:
    """A wrapper around the optimizer's step puts the weights back: seen after it, not inside of it."""
    model = adapted(tiny_llama)
    optimizer = adamw(model)
    step = optimizer.step

    def undone(*args: Any, **kwargs: Any) -> None:
        kept = [p.detach().clone() for p in trainable(model)]
        step(*args, **kwargs)
        with torch.no_grad():
            for parameter, old in zip(trainable(model), kept, strict=True):
                parameter.copy_(old)

    optimizer.step = undone  # type: ignore[method-assign,assignment]
    only(watched(model, optimizer), "QD411", "error")


def test_a_wrapped_step_that_writes_to_the_base(tiny_llama: Path) -> None:
    model = adapted(tiny_llama)
    optimizer = adamw(model)
    step, norm = optimizer.step, model.get_base_model().model.norm

    def writing(*args: Any, **kwargs: Any) -> None:
        step(*args, **kwargs)
        with torch.no_grad():
            norm.weight.add_(1e-3)

    optimizer.step = writing  # type: ignore[method-assign,assignment]
    only(watched(model, optimizer), "QD401", "error")


def test_a_hook_that_writes_to_the_base(tiny_llama: Path) -> None:
    model = adapted(tiny_llama)
    norm = model.get_base_model().model.layers[0].input_layernorm

    def nudge(module: nn.Module, inputs: Any) -> None:
        with torch.no_grad():
            module.weight.add_(1e-3)

    norm.register_forward_pre_hook(nudge)
    only(watched(model, adamw(model)), "QD401", "error")


def test_a_base_that_changes_after_the_watched_steps(tiny_llama: Path) -> None:
    model = adapted(tiny_llama)

    def late(number: int) -> None:
        if number == 5:
            with torch.no_grad():
                model.get_base_model().model.norm.weight.add_(0.1)

    only(watched(model, adamw(model), after=late), "QD748", "error")


# -- modes, accumulation, schedules


def test_nothing_calls_train(tiny_llama: Path) -> None:
    model = adapted(tiny_llama, checkpointing=True, lora_dropout=0.1)
    model.eval()
    report = watched(model, adamw(model), train_mode=False)
    assert "QD740" in found(report, "warning") and "QD741" not in found(report, "warning"), told(report)


def test_evaluation_mode_is_no_matter_where_nothing_depends_on_it(tiny_llama: Path) -> None:
    model = adapted(tiny_llama)
    model.eval()
    assert not found(watched(model, adamw(model), train_mode=False), "warning")


def test_micro_batches_are_summed(tiny_llama: Path) -> None:
    model = adapted(tiny_llama)
    only(watched(model, adamw(model), accumulate=4, divide=1), "QD742", "error")


def test_gradients_that_come_as_zero_are_not_cleared(tiny_llama: Path) -> None:
    """The first tensor gets no gradient in the first place, the others keep theirs: none is cleared within a step."""
    model = adapted(tiny_llama)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and "q_proj" in name:
            parameter.register_hook(torch.zeros_like)
    rules = found(watched(model, adamw(model), accumulate=2), "warning")
    assert "QD406" in rules and "QD456" not in rules


def test_micro_batches_are_divided_twice(tiny_llama: Path) -> None:
    model = adapted(tiny_llama)
    only(watched(model, adamw(model), accumulate=4, divide=16), "QD743", "warning")


@pytest.mark.parametrize(("every", "rules"), [(True, {"QD744"}), (False, set())])
def test_a_scheduler_in_the_inner_loop(tiny_llama: Path, every: bool, rules: set[str]) -> None:
    model = adapted(tiny_llama)
    optimizer = adamw(model)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: max(0.0, 1 - step / 100))
    data = list(batches(12))
    report = watched(model, optimizer, data, accumulate=4, scheduler=scheduler, every_micro_batch=every)
    assert found(report, "warning") == rules, told(report)


# -- batches


def changed(**change: Any) -> list[Batch]:
    return [{**batch, **{name: make(batch) for name, make in change.items()}} for batch in batches(4)]


def shifted(batch: Batch) -> torch.Tensor:
    labels = torch.full_like(batch["input_ids"], -100)
    labels[:, :-1] = batch["input_ids"][:, 1:]
    return labels


def half_masked(batch: Batch) -> torch.Tensor:
    mask = torch.ones_like(batch["input_ids"])
    mask[:, 8:] = 0
    return mask


def first_row_masked(batch: Batch) -> torch.Tensor:
    labels = batch["input_ids"].clone()
    labels[0] = -100
    return labels


def elsewhere(batch: Batch) -> torch.Tensor:
    return (batch["input_ids"] + 7) % VOCABULARY


@pytest.mark.parametrize(
    ("rule", "level", "data"),
    [
        ("QD630", "error", changed(labels=shifted)),
        ("QD631", "error", changed(attention_mask=half_masked)),
        ("QD634", "warning", changed(labels=first_row_masked)),
        ("QD637", "warning", [next(batches())] * 4),
        ("QD638", "warning", changed(labels=elsewhere)),
        ("QD421", "error", changed(labels=lambda batch: torch.full_like(batch["input_ids"], -100))),
    ],
)
def test_batches(tiny_llama: Path, rule: str, level: str, data: list[Batch]) -> None:
    model = adapted(tiny_llama)
    report = watched(model, adamw(model), data)
    assert rule in found(report, level) and len(found(report, "error") - {"QD408"}) <= 1, told(report)


# -- ends


def test_an_exception_in_a_watched_step(tiny_llama: Path) -> None:
    model = adapted(tiny_llama)
    data = [*batches(1), {"input_ids": torch.tensor([[VOCABULARY + 7, 1]]), "labels": torch.tensor([[1, 1]])}]
    only(watched(model, adamw(model), data), "QD420", "error")


def test_an_exception_later(tiny_llama: Path) -> None:
    model = adapted(tiny_llama)

    def late(number: int) -> None:
        if number == 6:
            raise ValueError("planted")

    report = watched(model, adamw(model), after=late)
    only(report, "QD750", "error")
    assert report.exit_code == 1 and "planted" in report.findings[0].message
    assert {record.name: record.status for record in report.stages}["step"] == "done"


def test_out_of_memory_tells_what_was_allocated(tiny_llama: Path) -> None:
    model = adapted(tiny_llama)

    def late(number: int) -> None:
        if number == 6:
            raise torch.OutOfMemoryError(
                "CUDA out of memory. Tried to allocate 1.20 GiB. GPU 0 has a total capacity of 23.64 GiB of which "
                "512.00 MiB is free. Of the allocated memory 21.70 GiB is allocated by PyTorch, and 800.00 MiB is "
                "reserved by PyTorch but unallocated."
            )

    report = watched(model, adamw(model), after=late)
    only(report, "QD749", "error")
    failure = report.facts.run.failure if report.facts.run is not None else None
    assert failure is not None and failure.step == 6 and failure.card_bytes == int(23.64 * 2**30)
    assert "21.7 GiB were allocated and 1.2 GiB more asked for" in report.findings[0].message

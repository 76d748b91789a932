"""Faults between the lines of a loop of one's own: each is a plain loop, run watched, whose cause is the finding."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import qlora_doctor
from qlora_doctor.core.report import Report
from tests.faults.planting import found, told
from tests.watching.loops import Batch, adamw, adapted, batches, trainable

Loop = Callable[[Any, Any, list[Batch]], None]


def looked_at(model: Any, optimizer: Any, loop: Loop, data: list[Batch] | None = None) -> Report:
    model.train()
    seen = None
    try:
        with qlora_doctor.watch(model, optimizer, quiet=True) as seen:
            loop(model, optimizer, data if data is not None else list(batches()))
    except (RuntimeError, ValueError):
        pass
    assert seen is not None and seen.report is not None
    assert seen.report.facts.run is not None and seen.report.facts.run.troubles == []
    return seen.report


def told_of(report: Report) -> set[str]:
    return found(report, "error") | found(report, "warning")


# -- gradients on their way


def healthy(model: Any, optimizer: Any, data: list[Batch]) -> None:
    for batch in data:
        model(**batch).loss.backward()
        nn.utils.clip_grad_norm_(trainable(model), 1.0)
        optimizer.step()
        optimizer.zero_grad()


def clears_nothing(model: Any, optimizer: Any, data: list[Batch]) -> None:
    for batch in data:
        model(**batch).loss.backward()
        optimizer.step()


def clears_before_the_backward(model: Any, optimizer: Any, data: list[Batch]) -> None:
    for batch in data:
        loss = model(**batch).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def clears_before_the_step(model: Any, optimizer: Any, data: list[Batch]) -> None:
    for batch in data:
        model(**batch).loss.backward()
        optimizer.zero_grad()
        optimizer.step()


def clips_to_nothing(model: Any, optimizer: Any, data: list[Batch]) -> None:
    for batch in data:
        model(**batch).loss.backward()
        nn.utils.clip_grad_norm_(trainable(model), 0.0)
        optimizer.step()
        optimizer.zero_grad()


def clips_to_almost_nothing(model: Any, optimizer: Any, data: list[Batch]) -> None:
    for batch in data:
        model(**batch).loss.backward()
        nn.utils.clip_grad_norm_(trainable(model), 1e-9)
        optimizer.step()
        optimizer.zero_grad()


def accumulates(model: Any, optimizer: Any, data: list[Batch]) -> None:
    accumulation_steps = 4
    for number, batch in enumerate(data, start=1):
        (model(**batch).loss / accumulation_steps).backward()
        if number % accumulation_steps == 0:
            optimizer.step()
            optimizer.zero_grad()


def clears_every_micro_batch(model: Any, optimizer: Any, data: list[Batch]) -> None:
    accumulation_steps = 4
    for number, batch in enumerate(data, start=1):
        (model(**batch).loss / accumulation_steps).backward()
        if number % accumulation_steps == 0:
            optimizer.step()
        optimizer.zero_grad()


def steps_every_micro_batch(model: Any, optimizer: Any, data: list[Batch]) -> None:
    accumulation_steps = 4
    for batch in data:
        (model(**batch).loss / accumulation_steps).backward()
        optimizer.step()
        optimizer.zero_grad()


def halves_its_loss(model: Any, optimizer: Any, data: list[Batch]) -> None:
    for batch in data:
        (0.5 * model(**batch).loss).backward()
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize(
    ("loop", "rules"),
    [
        (healthy, set()),
        (clears_before_the_backward, set()),
        (accumulates, set()),
        (halves_its_loss, set()),
        (clears_nothing, {"QD445"}),
        (clears_before_the_step, {"QD446"}),
        (clips_to_nothing, {"QD446"}),
        (clips_to_almost_nothing, {"QD446"}),
        (clears_every_micro_batch, {"QD456"}),
        (steps_every_micro_batch, {"QD453"}),
    ],
)
def test_gradients_on_their_way(tiny_llama: Path, loop: Loop, rules: set[str]) -> None:
    model = adapted(tiny_llama)
    report = looked_at(model, adamw(model), loop)
    assert told_of(report) == rules, told(report)


def scaled(how: str) -> Loop:
    def loop(model: Any, optimizer: Any, data: list[Batch]) -> None:
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16)
        for batch in data:
            with torch.autocast("cpu", dtype=torch.bfloat16 if how == "bfloat16" else torch.float16):
                loss = scaler.scale(model(**batch).loss)
            (scaler.scale(loss) if how == "twice" else loss).backward()
            if how == "healthy":
                scaler.unscale_(optimizer)
            if how in ("healthy", "clipped early"):
                nn.utils.clip_grad_norm_(trainable(model), 1.0)
            if how == "not unscaled":
                optimizer.step()
            else:
                scaler.step(optimizer)
                scaler.update()
            optimizer.zero_grad()

    return loop


@pytest.mark.parametrize(
    ("how", "rules"),
    [
        ("healthy", set()),
        ("clipped early", {"QD447"}),
        ("not unscaled", {"QD448"}),
        ("twice", {"QD449"}),
        ("bfloat16", {"QD450"}),
    ],
)
def test_a_gradient_scaler(tiny_llama: Path, how: str, rules: set[str]) -> None:
    model = adapted(tiny_llama)
    report = looked_at(model, adamw(model), scaled(how))
    assert told_of(report) | (found(report, "info") & {"QD450"}) == rules, told(report)


# -- losses of one's own


def own_loss(of: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> Loop:
    def loop(model: Any, optimizer: Any, data: list[Batch]) -> None:
        for batch in data:
            of(model(**batch).logits.float(), batch["labels"]).backward()
            optimizer.step()
            optimizer.zero_grad()

    return loop


@pytest.mark.parametrize(
    ("loss", "rules"),
    [
        (lambda logits, labels: cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()), set()),
        (lambda logits, labels: cross_entropy(logits.flatten(0, 1), labels.flatten()), {"QD451"}),
        (
            lambda logits, labels: cross_entropy(
                logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), reduction="sum"
            ),
            {"QD452"},
        ),
        (
            lambda logits, labels: 8 * cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()),
            {"QD458"},
        ),
        (
            lambda logits, labels: cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()) + 6,
            set(),
        ),
    ],
    ids=["mean", "not shifted", "sum", "a multiple", "another part added"],
)
def test_a_loss_of_ones_own(tiny_llama: Path, loss: Any, rules: set[str]) -> None:
    model = adapted(tiny_llama)
    report = looked_at(model, adamw(model), own_loss(loss))
    assert told_of(report) == rules, told(report)


def test_a_base_that_is_called_past_its_adapter_is_watched(tiny_llama: Path) -> None:
    def loop(model: Any, optimizer: Any, data: list[Batch]) -> None:
        for batch in data:
            model.get_base_model()(**batch).loss.backward()
            optimizer.step()
            optimizer.zero_grad()

    model = adapted(tiny_llama)
    report = looked_at(model, adamw(model), loop)
    assert report.facts.run is not None and report.facts.run.watched_steps == 2 and not told_of(report), told(report)


# -- optimizers and schedules


def test_an_optimizer_older_than_the_adapter(tiny_llama: Path) -> None:
    model = adapted(tiny_llama)
    base = [p for n, p in model.named_parameters() if "lora_" not in n and p.is_floating_point()]
    report = looked_at(model, torch.optim.AdamW(base, lr=2e-4), healthy)
    assert {"QD440", "QD416"} <= told_of(report) and "QD445" not in told_of(report), told(report)


def test_a_group_without_a_rate(tiny_llama: Path) -> None:
    model = adapted(tiny_llama)
    first = [p for n, p in model.named_parameters() if "lora_A" in n]
    second = [p for n, p in model.named_parameters() if "lora_B" in n]
    report = looked_at(model, torch.optim.AdamW([{"params": first, "lr": 0.0}, {"params": second}], lr=2e-4), healthy)
    assert told_of(report) == {"QD444"}, told(report)


def test_rates_that_differ_are_none_of_our_business(tiny_llama: Path) -> None:
    model = adapted(tiny_llama)
    first = [p for n, p in model.named_parameters() if "lora_A" in n]
    second = [p for n, p in model.named_parameters() if "lora_B" in n]
    report = looked_at(model, torch.optim.AdamW([{"params": first}, {"params": second, "lr": 3e-3}], lr=2e-4), healthy)
    assert not told_of(report), told(report)
    assert report.facts.run is not None and report.facts.run.rate_ratio_real == pytest.approx(15)


@pytest.mark.parametrize(
    ("which", "rules"), [("own", set()), ("never", {"QD725"}), ("other", {"QD726"}), ("zero", {"QD727"})]
)
def test_schedules(tiny_llama: Path, which: str, rules: set[str]) -> None:
    model = adapted(tiny_llama)
    optimizer = adamw(model, 0.0 if which == "zero" else 2e-4)
    driven = adamw(model) if which == "other" else optimizer
    scheduler = torch.optim.lr_scheduler.LambdaLR(driven, lambda step: min(1.0, step / 3))

    def loop(model: Any, optimizer: Any, data: list[Batch]) -> None:
        for batch in data:
            model(**batch).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            if which != "never":
                scheduler.step()

    report = looked_at(model, optimizer, loop)
    assert told_of(report) == rules, told(report)


@pytest.mark.parametrize(("scheduler_too", "rules"), [(True, set()), (False, {"QD747"})])
def test_a_loop_that_goes_on(tiny_llama: Path, scheduler_too: bool, rules: set[str]) -> None:
    """Its optimizer has the state of 4 steps; the schedule begins again where it was not loaded too."""
    model = adapted(tiny_llama)
    before = adamw(model)
    past = torch.optim.lr_scheduler.LambdaLR(before, lambda step: max(0.0, 1 - step / 100))
    for batch in batches(4):
        model(**batch).loss.backward()
        before.step()
        before.zero_grad()
        past.step()
    optimizer = adamw(model)
    optimizer.load_state_dict(before.state_dict())
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: max(0.0, 1 - step / 100))
    if scheduler_too:
        scheduler.load_state_dict(past.state_dict())

    def loop(model: Any, optimizer: Any, data: list[Batch]) -> None:
        for batch in data:
            model(**batch).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            scheduler.step()

    del past, before
    report = looked_at(model, optimizer, loop)
    assert told_of(report) == rules, told(report)
    assert report.facts.run is not None and report.facts.run.resumed_step == 4 and report.facts.run.steps == 8


# -- adapters


def test_the_adapter_that_trains_is_not_the_active_one(tiny_llama: Path) -> None:
    from peft import LoraConfig

    model = adapted(tiny_llama)
    model.add_adapter("new", LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(".new." in name)
    report = looked_at(model, adamw(model), healthy)
    assert "QD439" in told_of(report), told(report)


@pytest.mark.parametrize("switched", [True, False])
def test_an_adapter_that_a_gradient_reached_is_not_idle(switched: bool, tiny_llama: Path) -> None:
    """Two adapters, called as layers are, one forward each: what is active last is not all that trains."""
    from peft import LoraConfig

    model = adapted(tiny_llama)
    names = ["default", "1"]
    model.add_adapter("1", LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
    trained = [parameter for name, parameter in model.named_parameters() if "lora_" in name]

    def loop(model: Any, optimizer: Any, data: list[Batch]) -> None:
        for batch in data:
            losses = []
            for name in names if switched else names[:1]:
                model.base_model.set_adapter(name)
                for parameter in trained:
                    parameter.requires_grad_(True)
                losses.append(model(**batch).loss)
            sum(losses).backward()
            optimizer.step()
            optimizer.zero_grad()

    report = looked_at(model, torch.optim.AdamW(trained, lr=1e-4), loop)
    assert ("QD439" in told_of(report)) is not switched, told(report)
    assert "QD332" not in told_of(report), told(report)


def test_the_optimizer_of_the_other_adapter(tiny_llama: Path) -> None:
    from peft import LoraConfig

    model = adapted(tiny_llama)
    model.add_adapter("new", LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
    model.set_adapter("new")
    optimizer = adamw(model)
    assert not told_of(looked_at(model, optimizer, healthy, list(batches(3))))
    model.set_adapter("default")
    report = looked_at(model, optimizer, healthy)
    assert "QD440" in told_of(report), told(report)
    assert "new alone" in next(each.message for each in report.findings if each.rule == "QD440")


def test_a_loaded_adapter_that_is_initialised_again(tiny_llama: Path, tmp_path: Path) -> None:
    from peft import PeftModel

    from qlora_doctor.watching.adapters import loaded_into, overwritten

    model = adapted(tiny_llama)
    healthy(model, adamw(model), list(batches(2)))
    model.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(copy.deepcopy(model).unload(), tmp_path, is_trainable=True)
    loaded = loaded_into(again, tmp_path, "default")
    assert loaded is not None
    assert overwritten(again, [loaded])["adapter_loaded_differs"] == []
    for module in again.modules():
        if hasattr(module, "reset_lora_parameters"):
            module.reset_lora_parameters("default", True)
    assert len(overwritten(again, [loaded])["adapter_loaded_differs"]) == 28
    assert overwritten(again.merge_and_unload(), [loaded]) == {}


def test_a_merged_adapter_is_left_merged(tiny_llama: Path) -> None:
    """The comparison of on and off would take it out of the base again."""
    model = adapted(tiny_llama)
    model.merge_adapter()
    report = looked_at(model, adamw(model), healthy)
    assert "QD326" in told_of(report) and "QD401" not in told_of(report), told(report)
    assert all(module.merged for module in model.modules() if hasattr(module, "merged_adapters"))


def test_weights_that_are_no_numbers(tiny_llama: Path) -> None:
    model = adapted(tiny_llama)
    with torch.no_grad():
        next(p for n, p in model.named_parameters() if "layers.1" in n and "lora_A" in n)[0, 0] = float("nan")
    report = looked_at(model, adamw(model), healthy)
    assert found(report, "error") == {"QD442"}, told(report)


def test_the_layer_that_makes_a_nan_is_named(tiny_llama: Path) -> None:
    model = adapted(tiny_llama)
    layer = model.get_base_model().model.layers[1].mlp
    layer.register_forward_hook(lambda module, inputs, output: output * float("inf"))
    report = looked_at(model, adamw(model), healthy)
    assert report.facts.run is not None and report.facts.run.nonfinite_layer == "model.layers.1"
    assert any(each.rule == "QD408" and "model.layers.1" in each.message for each in report.findings), told(report)


# -- modes and batches


def test_an_evaluation_that_leaves_its_mode_on(tiny_llama: Path) -> None:
    def loop(model: Any, optimizer: Any, data: list[Batch]) -> None:
        for batch in data:
            model(**batch).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            model.eval()

    model = adapted(tiny_llama, lora_dropout=0.1)
    report = looked_at(model, adamw(model), loop)
    assert found(report, "warning") == {"QD740"} and "from step 2 on" in report.findings[0].message, told(report)


def padded(side: str, labels_too: bool) -> list[Batch]:
    """Rows of 16 tokens and 16 of padding under a mask of ones; token 0 is no token of the rows."""
    made = []
    for batch in batches(4):
        ids, empty = batch["input_ids"], torch.zeros_like(batch["input_ids"])
        label = empty if labels_too else torch.full_like(empty, -100)
        order = ((empty, ids), (label, ids)) if side == "left" else ((ids, empty), (ids, label))
        both, labels = (torch.cat(parts, dim=1) for parts in order)
        made.append({"input_ids": both, "labels": labels, "attention_mask": torch.ones_like(both)})
    return made


@pytest.mark.parametrize(
    ("side", "labels_too", "rules"),
    [("left", False, {"QD443"}), ("right", False, set()), ("right", True, {"QD631"})],
)
@pytest.mark.parametrize("mask", ["of ones", "none"])
def test_a_mask_of_ones_over_padding(tiny_llama: Path, side: str, labels_too: bool, rules: set[str], mask: str) -> None:
    model = adapted(tiny_llama)
    model.config.pad_token_id = 0
    data = padded(side, labels_too)
    if mask == "none":
        data = [{name: value for name, value in batch.items() if name != "attention_mask"} for batch in data]
    report = looked_at(model, adamw(model), healthy, data)
    assert told_of(report) == rules, told(report)


def test_what_trains_in_bfloat16_and_never_moves(tiny_llama: Path) -> None:
    """DoRA's magnitudes are near 1, where bfloat16 has steps of 0.008."""
    model = adapted(tiny_llama, use_dora=True)
    for parameter in trainable(model):
        parameter.data = parameter.data.to(torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        report = looked_at(model, adamw(model), healthy)
    assert found(report, "error") == {"QD455"}, told(report)


# -- losses of one's own, where no label reaches the model


def by_logits(change: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> Loop:
    """A loop that keeps the labels to itself.

    Args:
        change: gives the loss by logits and labels.
    """

    def loop(model: Any, optimizer: Any, data: list[Batch]) -> None:
        for number, batch in enumerate(data, start=1):
            labels = batch.pop("labels")
            change(model(**batch).logits, labels).backward()
            if number % 2 == 0:
                optimizer.step()
                optimizer.zero_grad()

    return loop


def mean(logits: torch.Tensor, labels: torch.Tensor, **options: Any) -> torch.Tensor:
    return cross_entropy(logits.flatten(0, 1).float(), labels.flatten(), **options)


def shifted(logits: torch.Tensor, labels: torch.Tensor, **options: Any) -> torch.Tensor:
    return mean(logits[:, :-1], labels[:, 1:], **options) / 2


OWN = {
    "a mean, divided once": (shifted, set()),
    "smoothed": (lambda logits, labels: shifted(logits, labels, label_smoothing=0.1), set()),
    "not shifted": (lambda logits, labels: mean(logits, labels) / 2, {"QD451"}),
    "shifted twice": (lambda logits, labels: mean(logits[:, :-2], labels[:, 2:]) / 2, {"QD630"}),
    "the other way": (lambda logits, labels: mean(logits[:, 1:], labels[:, :-1]) / 2, {"QD638"}),
    "of another row": (lambda logits, labels: shifted(logits, labels.roll(1, 0)), {"QD638"}),
    "never divided": (lambda logits, labels: 2 * shifted(logits, labels), {"QD742"}),
    "divided twice": (lambda logits, labels: shifted(logits, labels) / 2, {"QD743"}),
    "a sum over tokens": (lambda logits, labels: shifted(logits, labels, reduction="sum"), {"QD452"}),
    "negated": (lambda logits, labels: -shifted(logits, labels), {"QD735"}),
}  # fmt: skip


@pytest.mark.parametrize("how", OWN)
def test_a_loss_of_ones_own_is_read_from_its_gradient(tiny_llama: Path, how: str) -> None:
    model = adapted(tiny_llama)
    change, rules = OWN[how]
    data = list(batches(6, length=24))
    report = looked_at(model, adamw(model), by_logits(change), data)
    assert told_of(report) == rules, told(report)


def test_padding_in_a_loss_of_ones_own(tiny_llama: Path) -> None:
    model = adapted(tiny_llama)
    data = list(batches(4, length=24))
    for batch in data:
        batch["attention_mask"][:, 16:] = 0
    assert "QD631" in told_of(looked_at(model, adamw(model), by_logits(shifted), data))


# -- clipping, and the optimizer's settings


def clips(where: str) -> Loop:
    """A loop of two micro-batches a step that clips at some place."""

    def loop(model: Any, optimizer: Any, data: list[Batch]) -> None:
        own = [p.detach().clone() for p in trainable(model)] if where == "copies" else trainable(model)
        for number, batch in enumerate(data, start=1):
            if where == "before":
                nn.utils.clip_grad_norm_(own, 1.0)
            (model(**batch).loss / 2).backward()
            if where in ("every", "copies"):
                nn.utils.clip_grad_norm_(own, 1.0)
            if number % 2 == 0:
                optimizer.step()
                if where == "after":
                    nn.utils.clip_grad_norm_(own, 1.0)
                optimizer.zero_grad()

    return loop


@pytest.mark.parametrize(
    ("where", "rules"), [("every", set()), ("before", {"QD739"}), ("after", {"QD739"}), ("copies", {"QD739"})]
)
def test_clipping(tiny_llama: Path, where: str, rules: set[str]) -> None:
    from torch.nn.utils import clip_grad

    plain = clip_grad._clip_grads_with_norm_
    model = adapted(tiny_llama)
    report = looked_at(model, adamw(model), clips(where), list(batches(6)))
    assert told_of(report) == rules, told(report)
    assert clip_grad._clip_grads_with_norm_ is plain


@pytest.mark.parametrize(
    ("settings", "rules"),
    [
        ({"weight_decay": 1000.0}, {"QD778"}),
        ({"weight_decay": 0.1}, set()),
        ({"eps": 1.0}, {"QD778"}),
        ({"betas": (0.999, 0.9)}, {"QD778"}),
        ({"lr": 10.0}, {"QD121"}),
    ],
)
def test_settings_of_the_optimizer(tiny_llama: Path, settings: dict[str, Any], rules: set[str]) -> None:
    model = adapted(tiny_llama)
    report = looked_at(model, torch.optim.AdamW(trainable(model), **{"lr": 2e-4} | settings), healthy, list(batches(4)))
    assert told_of(report) == rules, told(report)


# -- what is done to gradients


def handled(by_hand: Callable[[torch.Tensor], Any], limit: float | None = None) -> Loop:
    """A loop of two micro-batches a step, never divided, that handles its gradients before it clips them."""

    def loop(model: Any, optimizer: Any, data: list[Batch]) -> None:
        for number, batch in enumerate(data, start=1):
            model(**batch).loss.backward()
            if number % 2 == 0:
                for parameter in trainable(model):
                    by_hand(parameter.grad)  # type: ignore[arg-type]
                if limit is not None:
                    nn.utils.clip_grad_norm_(trainable(model), limit)
                optimizer.step()
                optimizer.zero_grad()

    return loop


@pytest.mark.parametrize("limit", [None, 0.01])
@pytest.mark.parametrize(
    ("by_hand", "rules"),
    [
        (lambda gradient: gradient.div_(2), set()),
        (lambda gradient: gradient.div_(-2), {"QD779"}),
        (lambda gradient: gradient.copy_(torch.randn_like(gradient)), {"QD779", "QD742"}),
    ],
    ids=["divided", "turned", "replaced"],
)
def test_gradients_handled_by_hand(tiny_llama: Path, by_hand: Any, rules: set[str], limit: float | None) -> None:
    model = adapted(tiny_llama)
    report = looked_at(model, adamw(model), handled(by_hand, limit), list(batches(4)))
    assert told_of(report) - {"QD707", "QD468"} == rules, told(report)


@pytest.mark.parametrize(("factor", "rules"), [(0.5, set()), (-1.0, {"QD779"}), (100.0, {"QD479"})])
def test_hooks_on_tensors(tiny_llama: Path, factor: float, rules: set[str]) -> None:
    model = adapted(tiny_llama)
    handles = [p.register_hook(lambda gradient: factor * gradient) for p in trainable(model)]
    report = looked_at(model, adamw(model), healthy, list(batches(4)))
    assert (told_of(report) | (found(report, "info") & {"QD479"})) - {"QD707", "QD468"} == rules, told(report)
    assert all(len(p._backward_hooks or {}) == 1 for p in trainable(model))
    for handle in handles:
        handle.remove()
    assert not any(p._backward_hooks for p in trainable(model))


def test_two_forwards_to_a_backward(tiny_llama: Path) -> None:
    """A loss of two answers, each through a forward of its own, is neither's cross entropy."""

    def loop(model: Any, optimizer: Any, data: list[Batch]) -> None:
        for good, bad in zip(data[::2], data[1::2], strict=True):
            margin = [shifted(model(input_ids=each["input_ids"]).logits, each["labels"]) for each in (good, bad)]
            nn.functional.softplus(margin[0] - margin[1]).backward()
            optimizer.step()
            optimizer.zero_grad()

    model = adapted(tiny_llama)
    report = looked_at(model, adamw(model), loop, list(batches(8)))
    assert not told_of(report), told(report)


# -- healthy loops that look like faults


def measures_the_norm(model: Any, optimizer: Any, data: list[Batch]) -> None:
    for batch in data:
        model(**batch).loss.backward()
        optimizer.step()
        nn.utils.clip_grad_norm_(trainable(model), float("inf"))
        optimizer.zero_grad()


def keeps_some_rows(model: Any, optimizer: Any, data: list[Batch]) -> None:
    """As where the rows of new tokens alone are to train."""
    for batch in data:
        model(**batch).loss.backward()
        for parameter in trainable(model):
            assert parameter.grad is not None
            parameter.grad[: -max(1, len(parameter) // 8)] = 0
        optimizer.step()
        optimizer.zero_grad()


def divides_by_tokens(model: Any, optimizer: Any, data: list[Batch]) -> None:
    for first, second in zip(data[::2], data[1::2], strict=True):
        tokens = 0
        for each in (first, second):
            labels = each["labels"][:, 1:]
            logits = model(input_ids=each["input_ids"]).logits[:, :-1]
            nn.functional.cross_entropy(logits.flatten(0, 1).float(), labels.flatten(), reduction="sum").backward()
            tokens += int((labels != -100).sum())
        for parameter in trainable(model):
            assert parameter.grad is not None
            parameter.grad /= tokens
        optimizer.step()
        optimizer.zero_grad()


def fills_in_masks(model: Any, optimizer: Any, data: list[Batch]) -> None:
    """A loss of the tokens that a mask hides, at their own places."""
    for batch in data:
        hidden = torch.rand(batch["input_ids"].shape) < 0.4
        logits = model(input_ids=batch["input_ids"].masked_fill(hidden, 3)).logits
        nn.functional.cross_entropy(logits[hidden].float(), batch["input_ids"][hidden]).backward()
        optimizer.step()
        optimizer.zero_grad()


def steps_twice_into_a_batch(model: Any, optimizer: Any, data: list[Batch]) -> None:
    """A sharpness-aware step: the gradient is taken where the first one leads to, of the same batch."""
    for batch in data:
        labels = batch["labels"][:, 1:].flatten()
        moved: list[tuple[torch.Tensor, torch.Tensor]] = []
        for _ in range(2):
            optimizer.zero_grad()
            logits = model(input_ids=batch["input_ids"]).logits[:, :-1]
            nn.functional.cross_entropy(logits.flatten(0, 1).float(), labels).backward()
            with torch.no_grad():
                for parameter in trainable(model) if not moved else []:
                    assert parameter.grad is not None
                    step = 0.05 * parameter.grad / (parameter.grad.norm() + 1e-12)
                    parameter.add_(step)
                    moved.append((parameter, step))
        with torch.no_grad():
            for parameter, step in moved:
                parameter.sub_(step)
        optimizer.step()


@pytest.mark.parametrize(
    "loop", [measures_the_norm, keeps_some_rows, divides_by_tokens, fills_in_masks, steps_twice_into_a_batch]
)
def test_healthy_loops_that_look_like_faults(tiny_llama: Path, loop: Loop) -> None:
    torch.manual_seed(0)
    model = adapted(tiny_llama)
    report = looked_at(model, adamw(model), loop, list(batches(8)))
    assert not told_of(report) & {"QD739", "QD779", "QD452", "QD638", "QD451", "QD742", "QD456"}, told(report)


def test_two_optimizers_that_step_one_after_the_other(tiny_llama: Path) -> None:
    model = adapted(tiny_llama)
    halves = [[p for n, p in model.named_parameters() if name in n] for name in ("lora_A", "lora_B")]
    first, second = (torch.optim.AdamW(half, lr=1e-3) for half in halves)

    def loop(model: Any, optimizer: Any, data: list[Batch]) -> None:
        for batch in data:
            model(**batch).loss.backward()
            first.step()
            second.step()
            first.zero_grad()
            second.zero_grad()

    report = looked_at(model, first, loop, list(batches(6)))
    assert "QD416" not in told_of(report), told(report)


def test_a_merge_after_the_last_step(tiny_llama: Path) -> None:
    model = adapted(tiny_llama)

    def loop(model: Any, optimizer: Any, data: list[Batch]) -> None:
        healthy(model, optimizer, data)
        model.merge_adapter()

    report = looked_at(model, adamw(model), loop, list(batches(8)))
    assert "QD748" not in told_of(report), told(report)

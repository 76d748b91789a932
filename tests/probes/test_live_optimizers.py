"""What two steps prove of an optimizer, and a script's own ``step``: seen as it is called, and left as it was found."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("bitsandbytes")

import qlora_doctor  # noqa: E402

Build = Callable[..., Any]


def trained(model: Any) -> list[Any]:
    return [p for p in model.parameters() if p.requires_grad]


def adamw(model: Any) -> Any:
    return torch.optim.AdamW(trained(model), lr=2e-4)


def batch() -> dict[str, Any]:
    ids = torch.randint(0, 512, (2, 24), generator=torch.Generator().manual_seed(0))
    return {"input_ids": ids, "labels": ids.clone()}


def examine(model: Any, optimizer: Any) -> Any:
    return qlora_doctor.examine(model, optimizer, batch())


def rules(report: Any) -> dict[str, str]:
    return {finding.rule: finding.severity for finding in report.findings}


class Wrapper:
    """An optimizer of a script's own around torch's: it steps in every nth call."""

    def __init__(self, inner: Any, every: int) -> None:
        self.inner, self.every, self.calls = inner, every, 0
        self.seen: list[int] = []

    @property
    def param_groups(self) -> Any:
        return self.inner.param_groups

    @property
    def state(self) -> Any:
        return self.inner.state

    def step(self) -> None:
        self.calls += 1
        self.seen.append(self.calls)
        if self.every and self.calls % self.every == 0:
            self.inner.step()


def dropped(optimizer: Any) -> Any:
    optimizer.step = lambda *args, **kwargs: None
    return optimizer


def undone(optimizer: Any) -> Any:
    step, parameters = optimizer.step, optimizer.param_groups[0]["params"]

    def back_again() -> None:
        before = [p.detach().clone() for p in parameters]
        step()
        for parameter, value in zip(parameters, before, strict=True):
            parameter.data.copy_(value)

    optimizer.step = back_again
    return optimizer


def starved(optimizer: Any) -> Any:
    step, parameters = optimizer.step, optimizer.param_groups[0]["params"]

    def without_half() -> None:
        for parameter in parameters[1::2]:
            parameter.grad = None
        step()

    optimizer.step = without_half
    return optimizer


@pytest.mark.parametrize(
    "change",
    [dropped, undone, starved, functools.partial(Wrapper, every=0)],
    ids=["dropped", "undone", "starved", "never"],
)
def test_a_step_that_reaches_nothing_is_seen(qlora: Build, change: Callable[[Any], Any]) -> None:
    model = qlora()
    report = examine(model, change(adamw(model)))
    assert rules(report) == {"QD411": "error"}
    assert all(".lora_B." in name for name in report.facts.step.parameters_out_of_reach)


def test_a_step_of_accelerates_wrapper_is_seen(qlora: Build) -> None:
    from accelerate import Accelerator

    model = qlora()
    prepared = Accelerator(cpu=True).prepare(adamw(model))
    assert rules(examine(model, prepared)) == {}
    assert rules(examine(model, dropped(prepared))) == {"QD411": "error"}


def test_a_rate_of_zero_in_one_group(qlora: Build) -> None:
    model = qlora()
    first, *rest = trained(model)[1::2]
    groups = [{"params": [first], "lr": 0.0}, {"params": [*rest, *trained(model)[::2]]}]
    report = examine(model, torch.optim.AdamW(groups, lr=2e-4))
    assert rules(report) == {"QD411": "error"} and len(report.facts.step.parameters_out_of_reach) == 1


def test_a_wrapper_that_accumulates_is_no_fault(qlora: Build) -> None:
    model = qlora()
    report = examine(model, Wrapper(adamw(model), every=4))
    assert rules(report) == {"QD431": "info"} and report.facts.step.steps_to_update == 4


@pytest.mark.parametrize("rate", [1e-3, 1e-5])
def test_plain_sgd_at_a_small_rate_is_rounded_and_not_stuck(qlora: Build, rate: float) -> None:
    """Held against a plain loop: what is said to be held back is what does not move, and moves when it is said to."""
    model = qlora()
    optimizer = torch.optim.SGD(trained(model), lr=rate)
    step = examine(model, optimizer).facts.step
    before = {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}
    model.train()

    def still(steps: int) -> set[str]:
        for _ in range(steps):
            model(**batch()).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        moving = dict(model.named_parameters())
        return {n.removeprefix("base_model.model.") for n, value in before.items() if torch.equal(moving[n], value)}

    assert still(2) == set(step.parameters_below_precision) != set() and step.parameters_out_of_reach == []
    assert 0 < step.update_share < 1
    if rate == 1e-3:
        assert step.steps_to_update < 200 and not still(4 * step.steps_to_update)
    else:
        assert step.steps_to_update > 1000 and still(20)


def test_dora_in_bfloat16_names_its_cause(qlora: Build) -> None:
    model = qlora(lora={"use_dora": True})
    for parameter in trained(model):
        parameter.data = parameter.data.to(torch.bfloat16)
    report = examine(model, adamw(model))
    assert rules(report) == {"QD455": "error"} and "bfloat16" in str(report.findings[0].evidence)
    assert all("magnitude" in name for name in report.facts.step.parameters_below_precision)


def test_updates_that_epsilon_holds_down_may_grow(qlora: Build) -> None:
    """lora_A in bfloat16 stays as it is while its gradients are far below epsilon, and moves once they are not."""
    model = qlora()
    for parameter in trained(model):
        parameter.data = parameter.data.to(torch.bfloat16)
    step = examine(model, torch.optim.AdamW(trained(model), lr=1e-3, eps=1.0)).facts.step
    assert step.parameters_below_precision and step.parameters_too_coarse == step.precision_too_coarse == []
    optimizer = torch.optim.AdamW(trained(model), lr=1e-3, eps=1.0)
    before = {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}
    for parameter in trained(model):
        parameter.grad = torch.full_like(parameter, 10.0)
    optimizer.step()
    assert not any(torch.equal(p, before[n]) for n, p in model.named_parameters() if n in before)


def test_an_optimizer_that_runs_the_forward_itself_is_left_alone(qlora: Build) -> None:
    model = qlora()
    report = examine(model, torch.optim.LBFGS(trained(model)))
    assert rules(report) == {} and report.facts.step.parameters_not_updated is None


COUNT = [0]


def test_the_scripts_objects_stay_as_they_were(qlora: Build) -> None:
    model = qlora()
    optimizer = adamw(model)
    model(**batch()).loss.backward()
    optimizer.step()
    original, calls, number = optimizer.step, [], 0

    def step() -> Any:
        nonlocal number
        number += 1
        calls.append(number)
        COUNT[0] += 1
        step.times += 1  # type: ignore[attr-defined]
        optimizer.history["steps"].append(number)
        return original()

    step.times = 5  # type: ignore[attr-defined]
    optimizer.step, optimizer.history = step, {"steps": [1, 2]}
    wrapper = Wrapper(optimizer, every=1)
    states = [(id(entry), entry["exp_avg"].clone()) for entry in optimizer.state.values()]
    values = [p.detach().clone() for p in trained(model)]
    names = set(vars(optimizer))
    assert rules(examine(model, wrapper)) == {}
    assert (calls, number, COUNT, step.times) == ([], 0, [0], 5)  # type: ignore[attr-defined]
    assert optimizer.step is step and optimizer.history == {"steps": [1, 2]} and set(vars(optimizer)) == names
    assert (wrapper.calls, wrapper.seen, wrapper.inner) == (0, [], optimizer)
    assert [id(entry) for entry in optimizer.state.values()] == [key for key, _ in states]
    assert all(torch.equal(e["exp_avg"], v) for e, (_, v) in zip(optimizer.state.values(), states, strict=True))
    assert all(torch.equal(p, v) for p, v in zip(trained(model), values, strict=True))


def negative(optimizer: Any) -> Any:
    optimizer.param_groups[0]["lr"] *= -1
    return optimizer


def turned(optimizer: Any) -> Any:
    """The sign of the gradients is turned before the step."""

    def turn(held: Any, *_: Any) -> None:
        for parameter in held.param_groups[0]["params"]:
            if parameter.grad is not None:
                parameter.grad.neg_()

    optimizer.register_step_pre_hook(turn)
    return optimizer


@pytest.mark.parametrize(
    ("build", "found"),
    [
        (lambda model: negative(adamw(model)), {"QD468": "error"}),
        (lambda model: turned(adamw(model)), {"QD468": "error"}),
        (lambda model: torch.optim.AdamW(trained(model), lr=2e-4, maximize=True), {"QD469": "warning"}),
        (lambda model: torch.optim.SGD(trained(model), lr=1.0, momentum=0.9, nesterov=True), {}),
        (lambda model: torch.optim.AdamW(trained(model), lr=2e-4, weight_decay=0.5), {}),
    ],
    ids=["negative", "turned", "maximize", "sgd", "decay"],
)
def test_a_step_that_goes_up_the_loss(qlora: Build, build: Callable[[Any], Any], found: dict[str, str]) -> None:
    model = qlora()
    assert rules(examine(model, build(model))) == found


def test_an_optimizer_with_a_past_is_not_judged_by_its_momentum(qlora: Build) -> None:
    model = qlora()
    optimizer = torch.optim.SGD(trained(model), lr=1e-3, momentum=0.99)
    model(**batch()).loss.backward()
    for parameter in trained(model):
        optimizer.state[parameter]["momentum_buffer"] = -100 * parameter.grad
    optimizer.zero_grad()
    report = examine(model, optimizer)
    assert report.facts.step.update_along_gradient is None and "QD468" not in rules(report)


def test_a_lora_a_that_is_too_coarse_beside_a_lora_b_that_moves(qlora: Build) -> None:
    """TRL's rate for preferences, and its adapter in bfloat16: lora_A stays as it was drawn, and the model learns."""
    model = qlora()
    for parameter in trained(model):
        parameter.data = parameter.data.to(torch.bfloat16)
    report = examine(model, torch.optim.AdamW(trained(model), lr=1e-6, weight_decay=0.0))
    assert report.facts.step.parameters_below_precision and report.facts.step.parameters_too_coarse == []
    assert "QD455" not in rules(report)

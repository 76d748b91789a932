"""What a loop of one's own does after its watched steps: its course, and what no longer holds of its model."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from qlora_doctor.core.uncollected import uncollected
from qlora_doctor.watching import course
from qlora_doctor.watching.dataset import evaluated_share, sorted_rows
from qlora_doctor.watching.working import Work
from tests.faults.planting import found, told
from tests.watching.loops import adamw, adapted, batches, train, watched


def test_the_course_of_a_loop(tiny_llama: Path) -> None:
    model = adapted(tiny_llama)
    optimizer = adamw(model)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, total_iters=12)
    report = watched(model, optimizer, list(batches(24)), accumulate=2, scheduler=schedule)
    facts = report.facts.course
    assert facts is not None and facts.last_step == 12 and not found(report, "warning"), told(report)
    curves = {curve.quantity: curve for curve in facts.curves or []}
    assert {"loss", "grad_norm", "learning_rate"} <= set(curves)
    assert list(curves["loss"].steps) == [float(step) for step in range(3, 13)]
    assert all(6.0 < value < 6.5 for value in curves["loss"].values)  # ln 512: two halves of it make one step


def test_what_is_recorded_is_what_the_loop_had(tiny_llama: Path) -> None:
    import qlora_doctor

    model = adapted(tiny_llama)
    optimizer = adamw(model)
    seen = []

    def norm(optimizer: Any, args: Any, kwargs: Any) -> None:
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"]]
        seen.append(torch.linalg.vector_norm(torch.stack([g.norm() for g in gradients])).item())

    optimizer.register_step_pre_hook(norm)
    with qlora_doctor.watch(model, optimizer, quiet=True) as watching:
        losses = train(model, optimizer, list(batches(6)))
    records = watching._watches[-1].series
    assert [record["step"] for record in records] == [3, 4, 5, 6]
    assert [record["loss"] for record in records] == pytest.approx(losses[2:])
    assert [record["grad_norm"] for record in records] == pytest.approx(seen[2:], rel=1e-4)


def test_where_steps_are_too_short_not_each_is_recorded(tiny_llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(course, "_SHARE", 0.0)
    monkeypatch.setattr(course, "_FIRST", 4)
    model = adapted(tiny_llama)
    report = watched(model, adamw(model), list(batches(12)))
    assert report.facts.course is not None and report.facts.run is not None
    assert report.facts.course.last_step == 6 and report.facts.run.steps == 12


def frozen(model: Any) -> None:
    for name, parameter in model.named_parameters():
        if "layers.0" in name:
            parameter.requires_grad_(False)


def at(step: int, change: Callable[[Any], None]) -> Callable[[Any], Callable[[int], None]]:
    return lambda model: lambda number: change(model) if number == step else None


@pytest.mark.parametrize(
    ("change", "rules"),
    [
        (lambda model: None, set()),
        (frozen, {"QD732"}),
        (lambda model: model.base_model.disable_adapter_layers(), {"QD733"}),
        (lambda model: model.eval(), {"QD740"}),
    ],
    ids=["nothing", "frozen", "switched off", "evaluation mode"],
)
def test_what_changes_after_the_watched_steps(tiny_llama: Path, change: Any, rules: set[str]) -> None:
    model = adapted(tiny_llama, lora_dropout=0.1)
    report = watched(model, adamw(model), list(batches(10)), after=at(5, change)(model))
    own = {rule for rule in found(report, "warning") if rule in ("QD732", "QD733", "QD740")}
    assert own == rules, told(report)
    if rules == {"QD740"}:
        assert any("from step 6 on" in finding.message for finding in report.findings)


def test_checkpointing_that_the_loop_switches_off(tiny_llama: Path) -> None:
    model = adapted(tiny_llama, checkpointing=True)
    model.get_base_model().gradient_checkpointing_disable()
    report = watched(model, adamw(model))
    assert found(report, "warning") == {"QD741"}, told(report)


@pytest.mark.parametrize("backoff", [0.999, 1.0 - 1e-9], ids=["falls", "stays"])
def test_a_scaler_that_lets_no_step_through(tiny_llama: Path, backoff: float) -> None:
    import qlora_doctor

    model = adapted(tiny_llama)
    optimizer = adamw(model)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**126, backoff_factor=backoff)
    model.train()
    with qlora_doctor.watch(model, optimizer, quiet=True) as seen:
        for batch in batches(12):
            with torch.autocast("cpu", dtype=torch.float16):
                loss = model(**batch).loss
            scaler.scale(loss * 8).backward()
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
    report = seen.report
    assert report is not None and "QD737" in found(report, "error"), told(report)


# -- data sets


def test_rows_that_are_evaluated_on() -> None:
    datasets = pytest.importorskip("datasets")
    rows = datasets.Dataset.from_dict({"text": [f"row {number}" for number in range(40)]})
    assert evaluated_share(rows, rows) == 1.0
    assert evaluated_share(rows, rows.select(range(10))) == 1.0
    parts = rows.train_test_split(10, seed=0)
    assert evaluated_share(parts["train"], parts["test"]) == 0.0
    assert evaluated_share(rows, None) is None
    assert evaluated_share(rows, torch.utils.data.TensorDataset(torch.zeros(3))) is None


class Rows(torch.utils.data.Dataset[Any]):
    """A data set as scripts write it."""

    def __init__(self, rows: list[Any]) -> None:
        self.columns = ["input_ids"]
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Any:
        raise AssertionError("code of the user's is not run")


def test_rows_of_data_sets_of_ones_own() -> None:
    rows = [{"input_ids": torch.arange(number, number + 5)} for number in range(40)]
    assert evaluated_share(Rows(rows), Rows(rows[:8])) == 1.0
    assert evaluated_share(Rows(rows[8:]), Rows(rows[:8])) == 0.0
    part, other = torch.utils.data.random_split(rows, [30, 10])  # type: ignore[arg-type]
    assert evaluated_share(part, other) == 0.0
    assert evaluated_share(rows, other) == 1.0
    assert evaluated_share([list(range(5)), list(range(9))], [list(range(9))]) == 1.0
    assert evaluated_share(Rows([object()] * 4), Rows([object()] * 4)) is None


@pytest.mark.parametrize("field", [False, True])
@pytest.mark.parametrize(
    ("held_out", "name", "share"),
    [(False, "val_loader", 1.0), (True, "val_loader", 0.0), (False, "lengths", None), (False, "train_eval", None)],
)
def test_loaders_of_a_loop(tiny_llama: Path, held_out: bool, name: str, share: float | None, field: bool) -> None:
    """What is gone through trains; what a name says to be held out is held against it."""
    import types

    import qlora_doctor

    rows = [{name: value[0] for name, value in batch.items()} for batch in batches(128, rows=1)]
    rows = [{name: value[: 4 + at // 10] for name, value in row.items()} for at, row in enumerate(rows)]
    loader = torch.utils.data.DataLoader(rows[:112], batch_size=1)  # type: ignore[arg-type]
    other = torch.utils.data.DataLoader(rows[112:] if held_out else rows[:16], batch_size=1)  # type: ignore[arg-type]
    model = adapted(tiny_llama)
    optimizer = adamw(model)
    source = (
        "for number, batch in enumerate(loader):\n"
        "    model(**batch).loss.backward()\n"
        "    optimizer.step()\n"
        "    optimizer.zero_grad()\n"
        "    if number == 3:\n"
        "        break\n"
    )
    names = {"__name__": "__main__", "model": model, "optimizer": optimizer, "loader": loader}
    names |= {"self": types.SimpleNamespace(**{name: other})} if field else {name: other}
    model.train()
    with qlora_doctor.watch(model, optimizer, quiet=True) as seen:
        exec(source, names)
    report = seen.report
    assert report is not None and report.facts.run is not None
    assert report.facts.run.evaluates_training_rows == share
    assert report.facts.run.rows_sorted is True
    expected = {"QD457", "QD738"} if share == 1.0 else {"QD457"}
    assert found(report, "warning") & {"QD457", "QD738"} == expected


def test_rows_that_are_sorted() -> None:
    loader = torch.utils.data.DataLoader
    lengths = ["x" * (10 + number // 4) for number in range(200)]
    mixed = ["x" * (10 + number * 37 % 50) for number in range(200)]
    assert sorted_rows([loader(lengths, batch_size=2)]) is True
    assert sorted_rows([loader(lengths[::-1], batch_size=2)]) is True
    assert sorted_rows([loader(mixed, batch_size=2)]) is False
    assert sorted_rows([loader(lengths, batch_size=2, shuffle=True)]) is False
    assert sorted_rows([loader(["x" * 10] * 200, batch_size=2)]) is False
    assert sorted_rows([]) is None


# -- the tool's own work


def test_work_is_counted_once_and_collects_nothing() -> None:
    work = Work()
    assert gc.isenabled()
    with work.on("outer"):
        assert not gc.isenabled()
        with work.on("inner"):
            sum(range(10_000))
        assert not gc.isenabled()
    assert gc.isenabled() and set(work.parts) == {"outer", "inner"}
    assert work.seconds == pytest.approx(sum(work.parts.values()))
    gc.disable()
    try:
        with uncollected():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()

"""Faults that a loop of one's own plants in its loss, its optimizer and its adapter, each beside its healthy twin."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import qlora_doctor
from tests.watching.loops import adamw, adapted, batches, train, trainable
from tests.watching.test_run_command import rules_of


def _told(folder: Path, step: Callable[[Any, Any, Any, int], Any], *, count: int = 6, **lora: Any) -> set[str]:
    """Rules of a loop that calls ``step`` with the model, the optimizer, the batch and its number."""
    model = adapted(folder, **lora)
    optimizer = adamw(model, 1e-3)
    # Merged, nothing is left to go backward through.
    with contextlib.suppress(RuntimeError), qlora_doctor.watch(model, optimizer, quiet=True) as seen:
        model.train()
        for number, batch in enumerate(batches(count), start=1):
            optimizer = step(model, optimizer, batch, number) or optimizer
            optimizer.step()
            optimizer.zero_grad()
    assert seen.report is not None
    return rules_of(seen.report.model_dump())


def _plain(model: Any, optimizer: Any, batch: Any, number: int) -> None:
    model(**batch).loss.backward()


def _negated(model: Any, optimizer: Any, batch: Any, number: int) -> None:
    (-model(**batch).loss).backward()


def _made_anew(model: Any, optimizer: Any, batch: Any, number: int) -> Any:
    model(**batch).loss.backward()
    return adamw(model, 1e-3)


def _cleared(model: Any, optimizer: Any, batch: Any, number: int) -> None:
    optimizer.state.clear()
    model(**batch).loss.backward()


def _merged_later(model: Any, optimizer: Any, batch: Any, number: int) -> None:
    model(**batch).loss.backward()
    if number == 4:
        model.merge_adapter()


def _in_float16(model: Any, optimizer: Any, batch: Any, number: int) -> None:
    with torch.autocast("cpu", dtype=torch.float16):
        loss = model(**batch).loss
    loss.backward()


def _looked_at_twice(model: Any, optimizer: Any, batch: Any, number: int) -> None:
    model(**batch)
    model(**batch).loss.backward()


def _gradient_breaks(model: Any, optimizer: Any, batch: Any, number: int) -> None:
    if number == 1:
        trainable(model)[1].register_hook(lambda gradient: gradient * float("nan"))
    model(**batch).loss.backward()


@pytest.mark.parametrize(
    ("step", "rules"),
    [
        (_plain, set()),
        (_looked_at_twice, set()),
        (_negated, {"QD735"}),
        (_made_anew, {"QD736"}),
        (_cleared, {"QD736"}),
        (_merged_later, {"QD777"}),
        (_in_float16, {"QD734"}),
        (_gradient_breaks, {"QD407"}),
    ],
)
def test_a_loop(tiny_llama: Path, step: Callable[..., Any], rules: set[str]) -> None:
    found = _told(tiny_llama, step)
    assert found >= rules and (rules or not found)
    assert "QD408" not in found  # what follows is not told in place of its cause


def test_two_optimizers_that_take_turns(tiny_llama: Path) -> None:
    model = adapted(tiny_llama)
    halves = [torch.optim.AdamW(trainable(model)[number::2], lr=1e-3) for number in (0, 1)]
    with qlora_doctor.watch(model, quiet=True) as seen:
        model.train()
        for number, batch in enumerate(batches(6)):
            model(**batch).loss.backward()
            halves[number % 2].step()
            model.zero_grad()
    assert seen.report is not None and "QD736" not in rules_of(seen.report.model_dump())


@pytest.mark.parametrize(
    ("how", "rewritten", "unsaved"),
    [
        ("left", None, 0),
        ("moved", None, 0),
        ("cut off", "cannot be read", 0),
        ("zeroed", "holds other values", 0),
        ("earlier", None, 2),
    ],
)
def test_the_file_as_the_process_ends(
    tiny_llama: Path, tmp_path: Path, how: str, rewritten: str | None, unsaved: int
) -> None:
    from safetensors.torch import load_file, save_file

    from qlora_doctor.watching.records import Options
    from qlora_doctor.watching.watcher import Watch

    model = adapted(tiny_llama)
    optimizer = adamw(model)
    seen = Watch(model, None, Options())
    seen.begin(optimizer=optimizer)
    file = tmp_path / "out" / "adapter_model.safetensors"
    for when in ("earlier", "left"):
        train(model, optimizer, list(batches(2)))
        if when == "left" and how == "earlier":
            break
        model.save_pretrained(tmp_path / "out")
        seen.model_saved(model, tmp_path / "out")
    if how == "moved":
        file.parent.rename(tmp_path / "elsewhere")
    elif how == "cut off":
        file.write_bytes(file.read_bytes()[:1000])
    elif how == "zeroed":
        save_file({name: tensor * 0 for name, tensor in load_file(file).items()}, file)
    seen.end(exiting=True)
    run = seen.facts.run
    assert run is not None and run.troubles == []
    assert (run.adapter_rewritten, run.steps_unsaved) == (rewritten, unsaved)

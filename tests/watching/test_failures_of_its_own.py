"""What fails inside the tool: the training goes on, one line says it, and nothing of ours stays on."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

import pytest

import qlora_doctor
from qlora_doctor.probes.observing import overheard
from qlora_doctor.probes.step.gradients import GradientWatch
from qlora_doctor.watching import gathering, watcher
from qlora_doctor.watching.backward import BackwardWatch
from tests.watching.loops import adamw, adapted, batches, hooks_on, train


def _fails(*args: Any, **kwargs: Any) -> Any:
    raise RuntimeError("planted")


@pytest.mark.parametrize(
    ("owner", "name", "left"),
    [
        (GradientWatch, "begin_step", 0),
        (GradientWatch, "__init__", 0),
        (BackwardWatch, "close", 0),
        (gathering, "_step_facts", 0),
        (watcher.Watch, "_begin", 0),
    ],
)
def test_a_planted_failure(
    tiny_llama: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    owner: Any,
    name: str,
    left: int,
) -> None:
    model = adapted(tiny_llama)
    before = hooks_on(model)
    monkeypatch.setattr(owner, name, _fails)
    with qlora_doctor.watch(model, adamw(model), quiet=True) as seen:
        losses = train(model, adamw(model), list(batches(4)))
    assert len(losses) == 4 and hooks_on(model) == before + left
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("qlora-doctor:")]
    assert len(told) == 1 and "planted" in told[0]
    assert seen.report is not None and seen.report.facts.run is not None
    assert "planted" in (seen.report.facts.run.troubles or [""])[0]


def test_a_warning_that_cannot_be_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    failed: list[str] = []
    with warnings.catch_warnings():
        listening = overheard.Overhearing(lambda error: failed.append(str(error)))
        monkeypatch.setattr(overheard, "_add", _fails)
        try:
            warnings.warn("of the program", UserWarning, stacklevel=1)
            logging.getLogger("transformers").warning("of a library")
        finally:
            listening.close()
    assert failed == ["planted", "planted"]

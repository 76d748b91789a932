"""Answers that a model writes in a step: few tokens are traced, the others are added, and all of it is counted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("trl")

from qlora_doctor.facts import Facts
from qlora_doctor.facts.config import ConfigFacts
from qlora_doctor.memory import generation
from qlora_doctor.memory.generation import NotRegular, _spread, write_more
from qlora_doctor.memory.scope import unmodelled
from qlora_doctor.memory.tape import ALLOC, FREE, Tape
from qlora_doctor.setup.setup import Setup, Training
from tests.memory.cases import LLAMA
from tests.memory.test_trl_methods import predicted

SIZES: dict[str, Any] = {"max_length": 64, "num_generations": 2, "extra": {"max_completion_length": 24}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("llama")
    (made / "config.json").write_text(json.dumps(LLAMA), encoding="utf-8")
    return made


def test_a_step_that_generates_is_predicted(folder: Path) -> None:
    run = predicted(folder, "grpo", **SIZES)
    assert set(run.run) == {"load", "step", "generation"}
    assert run.run["generation"][0] <= run.run["step"][0]
    assert run.steps[1] == run.steps[2] and run.kinds == ("generation",)
    assert sum(run.step_breakdown.values()) == run.step_allocated_bytes


def test_tokens_that_are_written_are_like_those_that_are_traced(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = predicted(folder, "grpo", **SIZES)
    monkeypatch.setattr(generation, "TRACED", 24)
    traced = predicted(folder, "grpo", **SIZES)
    assert written.run["generation"][0] == pytest.approx(traced.run["generation"][0], rel=1e-3)
    assert written.run["step"] == pytest.approx(traced.run["step"], rel=1e-3)


def test_a_longer_answer_has_a_larger_cache(folder: Path) -> None:
    short = predicted(folder, "grpo", **SIZES)
    long = predicted(folder, "grpo", **SIZES | {"extra": {"max_completion_length": 2048}})
    cache = 3 * 2 * 2 * 2 * 32 * 2024 * 2  # layers, keys and values, rows, heads, their width, tokens, bytes
    assert long.run["generation"][0] - short.run["generation"][0] > cache


def test_several_updates_a_generation(folder: Path) -> None:
    once = predicted(folder, "grpo", **SIZES)
    more = SIZES | {"gradient_accumulation_steps": 2}
    assert predicted(folder, "grpo", **more).run["generation"][0] > once.run["generation"][0]


def test_a_growing_cache_is_written_on() -> None:
    """Two tokens, each of which makes a longer cache and drops the one before."""
    tape = Tape()
    before = tape.alloc(100, "activations")
    begins = []
    for size in (110, 120, 130):
        begins.append(len(tape.events))
        now = tape.alloc(size, "activations")
        tape.free(before)
        before = now
    tape.free(before)
    tape.phase("end")
    write_more(tape, (begins[0], begins[1], begins[2]), 5)
    made = [tape.sizes[event >> 2] for event in tape.events if event & 3 == ALLOC]
    assert made == [100, 110, 120, 130, 140, 150, 160, 170, 130]
    alive: set[int] = set()
    for event in tape.events:
        if event & 3 == ALLOC:
            alive.add(event >> 2)
        elif event & 3 == FREE:
            alive.remove(event >> 2)
    assert not alive and tape.phases[-1][0] == len(tape.events)


def test_tokens_that_differ_are_not_written_on() -> None:
    tape = Tape()
    begins = []
    for count in (1, 2, 1):
        begins.append(len(tape.events))
        for _ in range(count):
            tape.free(tape.alloc(100, "activations"))
    with pytest.raises(NotRegular):
        write_more(tape, (begins[0], begins[1], begins[2]), 5)


def test_the_longest_cache_is_always_written() -> None:
    assert _spread(3) == [1, 2, 3]
    assert len(_spread(1000)) == generation.STEPS and _spread(1000)[-1] == 1000


@pytest.mark.parametrize(
    ("training", "word"),
    [
        (Training(method="grpo", use_vllm=True), "vLLM"),
        (Training(method="grpo", extra={"use_transformers_continuous_batching": True}), "continuous batching"),
        (Training(method="grpo"), "evaluation that generates"),
        (Training(method="rloo"), "evaluation that generates"),
        (Training(compute_metrics=True), "compute_metrics"),
    ],
)
def test_generation_that_is_not_modelled(training: Training, word: str) -> None:
    reason = unmodelled(Setup(training=training), Facts(config=ConfigFacts(evaluates=True)))
    assert reason is not None and word in reason


@pytest.mark.parametrize("method", ["grpo", "rloo"])
def test_generation_that_is_modelled(method: str) -> None:
    assert unmodelled(Setup(training=Training(method=method)), Facts(config=ConfigFacts(evaluates=False))) is None

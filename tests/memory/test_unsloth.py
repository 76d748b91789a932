"""A step of Unsloth's: which scripts have a figure, and the measured runs that hold it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from qlora_doctor.facts import Facts
from qlora_doctor.facts.memory import MemoryFacts
from qlora_doctor.memory.kernel_switches import Unsloth
from qlora_doctor.memory.stage import look_at_memory
from qlora_doctor.memory.unsloth import LOGITS, _power_below
from qlora_doctor.probes.config.conclude import conclude
from qlora_doctor.reading import read_setup
from qlora_doctor.setup.setup import Setup
from tests.memory.cases import LLAMA

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "memory"
CASE: dict[str, Any] = {
    "bs": 2, "seq": 256, "dropout": 0, "gc": "unsloth", "optim": "adamw_8bit", "r": 8, "engine": "unsloth",
    "targets": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
}  # fmt: skip


@pytest.fixture
def compare(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARK))
    import compare_kinds

    return compare_kinds


def read(compare: Any, folder: Path, architecture: dict[str, Any] = LLAMA, **case: Any) -> Setup:
    (folder / "config.json").write_text(json.dumps(architecture | {"dtype": "bfloat16"}), encoding="utf-8")
    (folder / "train.py").write_text(compare.unsloth_of(CASE | case, folder), encoding="utf-8")
    return read_setup(folder / "train.py")


def memory_of(setup: Setup) -> MemoryFacts:
    return look_at_memory(setup, Facts(config=conclude(setup, None)), lambda *_: None, with_savings=False)


def test_where_the_inputs_of_layers_wait(compare: Any, tmp_path: Path) -> None:
    found = [Unsloth.of(read(compare, tmp_path, gc=gc)) for gc in ("unsloth", True, False)]
    assert found == [Unsloth(True, True), Unsloth(True, False), Unsloth(False, False)]
    assert Unsloth.of(Setup()) is None


def test_a_script_has_a_figure_and_says_whose_allocator_it_is(compare: Any, tmp_path: Path) -> None:
    taken = []
    for gc in ("unsloth", True, False):
        setup = read(compare, tmp_path, LLAMA | {"num_hidden_layers": 12}, gc=gc, bs=8, seq=1024)
        predicted = memory_of(setup).predicted
        assert predicted is not None and any("which Unsloth sets" in said for said in predicted.assumptions or ())
        taken.append(predicted.peak_allocated_bytes)
    assert taken == sorted(taken)


@pytest.mark.parametrize(
    ("architecture", "case", "word"),
    [
        (LLAMA | {"model_type": "qwen2"}, {}, "qwen2"),
        (LLAMA, {"targets": ["q_proj", "v_proj"]}, "projections"),
        (LLAMA, {"dropout": 0.1}, "dropout"),
    ],
    ids=["family", "targets", "dropout"],
)
def test_what_is_not_restated_has_no_figure(
    architecture: dict[str, Any], case: dict[str, Any], word: str, compare: Any, tmp_path: Path
) -> None:
    memory = memory_of(read(compare, tmp_path, architecture, **case))
    assert memory.predicted is None and word in str(memory.prediction_failure)


def test_how_many_tokens_the_loss_takes_at_a_time() -> None:
    assert [_power_below(LOGITS / words) for words in (151_936, 128_256, 32_768, 256_000)] == [512, 512, 2048, 256]


@pytest.mark.parametrize("place", [1, 12], ids=["on the host", "whole"])
def test_recorded_measurements(place: int, compare: Any, tmp_path: Path) -> None:
    truth = json.loads((BENCHMARK / "kinds_unsloth_h200.json").read_text(encoding="utf-8"))
    row = compare.predict_case(truth["cases"][place], truth["architectures"], tmp_path)
    errors = row.errors()
    assert abs(errors["allocated"]) < 0.1 and abs(errors["reserved"]) < 1

"""Steps of trl's own trainers: built for real, traced without storage, held against what they have to hold."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("trl")

from qlora_doctor.memory.machine import Machine
from qlora_doctor.memory.predict import Prediction, predict
from qlora_doctor.memory.subject import subject_of_setup
from qlora_doctor.setup.setup import Lora, Model, Setup, Training
from qlora_doctor.tables.cards import find_card
from tests.memory.cases import LLAMA

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "memory"
H200 = Machine(find_card("H200"), (2, 11))


def predicted(folder: Path, method: str, **training: Any) -> Prediction:
    """The prediction of a small model under a method."""
    classifies = method == "reward"
    setup = Setup(
        model=Model(
            name_or_path=str(folder),
            dtype="bfloat16",
            task="sequence-classification" if classifies else None,
            num_labels=1 if classifies else None,
        ),
        lora=Lora(target_modules=["q_proj", "v_proj"], r=8, task_type="SEQ_CLS" if classifies else "CAUSAL_LM"),
        training=Training.model_validate(
            {"trainer": "trl", "method": method, "per_device_train_batch_size": 2, "max_length": 128} | training
        ),
    )
    return predict(subject_of_setup(setup), H200)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model large enough that its activations outweigh cuBLAS' workspaces."""
    made = tmp_path_factory.mktemp("llama")
    (made / "config.json").write_text(json.dumps(LLAMA | {"hidden_size": 1024}), encoding="utf-8")
    return made


@pytest.mark.parametrize("method", ["dpo", "kto", "reward", "orpo", "cpo", "simpo"])
def test_a_method_is_predicted_and_says_what_it_takes_as_given(method: str, folder: Path) -> None:
    plain, other = predicted(folder, "sft"), predicted(folder, method)
    assert sum(other.step_breakdown.values()) == other.step_allocated_bytes
    assert set(other.assumptions) > set(plain.assumptions)


def test_dpo_takes_more_than_supervised_fine_tuning(folder: Path) -> None:
    sizes = {"max_length": 1024, "gradient_checkpointing": False}
    plain, dpo = predicted(folder, "sft", **sizes), predicted(folder, "dpo", **sizes)
    ratio = (dpo.step_allocated_bytes - dpo.loaded_bytes) / (plain.step_allocated_bytes - plain.loaded_bytes)
    assert 1.3 < ratio < 2.1  # 1.7 measured with a 1.5B


def test_the_reference_of_dpo_is_an_adapter_beside_the_trained_one(folder: Path) -> None:
    plain, dpo = predicted(folder, "sft"), predicted(folder, "dpo")
    trained = plain.step_breakdown["adapter"]  # bfloat16
    # The copy stays in float32: four bytes beside two.
    assert dpo.step_breakdown["adapter"] == pytest.approx(3 * trained, rel=0.01)


def test_the_evaluation_of_a_method(folder: Path) -> None:
    setup = Setup(
        model=Model(name_or_path=str(folder), dtype="bfloat16"),
        lora=Lora(target_modules=["q_proj", "v_proj"], r=8, task_type="CAUSAL_LM"),
        training=Training(trainer="trl", method="dpo", per_device_train_batch_size=1, max_length=128),
    )
    run = predict(subject_of_setup(setup), H200, evaluation_batch=32)
    assert run.peak_phase == "evaluation" and run.run["evaluation"][0] > run.run["step"][0]


def test_a_model_reads_no_made_up_value(folder: Path) -> None:
    """Only a trainer that logs is given values that no batch has."""
    import torch

    from qlora_doctor.memory.values import UnknownValue, Values

    with pytest.raises(UnknownValue):
        Values().scalar(torch.empty((), device="meta"))


RECORDED = {
    "kinds_results": (14, 14),
    "kinds_h200_results": (23, 21),
    "kinds_more_h200_results": (39, 37),
    "kinds_loaded_h200_results": (8, 8),
    "kinds_further_h200_results": (10, 10),
    "kinds_sharded_h200_results": (19, 15),
}
"""Results of each file of measured runs: how many, and how many of them are predicted."""


@pytest.mark.parametrize("name", RECORDED)
def test_the_recorded_kinds_keep_the_bar(name: str) -> None:
    rows = json.loads((BENCHMARK / f"{name}.json").read_text(encoding="utf-8"))
    predicted_rows = [row for row in rows if row["predicted"]]
    assert (len(rows), len(predicted_rows)) == RECORDED[name]
    assert sum(abs(row["allocated"]) for row in predicted_rows) / len(predicted_rows) <= 1
    for row in predicted_rows:
        assert abs(row["allocated"]) <= 4 and abs(row["reserved"]) <= 10 and abs(row.get("evaluation", 0)) <= 5
    assert all(row["reason"] for row in rows if not row["predicted"])


@pytest.mark.parametrize(
    ("storage", "trainer", "covered"),
    [("bfloat16", "transformers", True), ("uint8", "transformers", False), ("bfloat16", "trl", True)],
)
def test_what_is_told_of_fsdp_2_is_what_was_measured_right(
    storage: str, trainer: str, covered: bool, tmp_path: Path
) -> None:
    compare = compare_kinds()
    case = {"model": "tiny", "bs": 1, "seq": 64, "fsdp": 2, "bf16_storage": storage != "uint8", "targets": ["q_proj"]}
    case |= {"trainer": "trl"} if trainer == "trl" else {}
    entry = {"case": case, "peaks": [[1, 1, 0.1]]}
    row = compare.predict_case(entry, {"tiny": LLAMA}, tmp_path)
    assert (row.step is not None) == covered
    assert covered or (row.reason is not None and "FSDP 2" in row.reason)


def compare_kinds() -> Any:
    """The benchmark's script as a module."""
    spec = importlib.util.spec_from_file_location("memory_compare_kinds", BENCHMARK / "compare_kinds.py")
    assert spec is not None and spec.loader is not None
    compare = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = compare
    spec.loader.exec_module(compare)
    return compare


KINDS = BENCHMARK / "kinds_h200.json"


@pytest.mark.parametrize("wanted", ["qwen2.5-1.5b reward", "llama3.2-1b dpo"])
def test_measured_steps(wanted: str, tmp_path: Path) -> None:
    compare = compare_kinds()
    truth = json.loads(KINDS.read_text(encoding="utf-8"))
    entry = next(e for e in truth["cases"] if compare.describe(e["case"], 1).startswith(wanted))
    row = compare.predict_case(entry, truth["architectures"], tmp_path)
    assert row.step is not None and row.within()
    assert abs(row.errors()["allocated"]) < 0.1

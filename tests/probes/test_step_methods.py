"""Two steps of each method's own trainer: silent on healthy setups, exact on planted faults."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("bitsandbytes")
pytest.importorskip("trl")

import qlora_doctor  # noqa: E402
from qlora_doctor.facts import StepFacts  # noqa: E402
from qlora_doctor.pipeline.four_bit import never_repacked  # noqa: E402
from qlora_doctor.probes.load.look import look_at_load  # noqa: E402
from qlora_doctor.probes.step import look as module  # noqa: E402
from qlora_doctor.probes.step.look import StepSeen, look_at_step  # noqa: E402
from qlora_doctor.setup.setup import Data, Setup  # noqa: E402
from tests.probes.conftest import make_setup, silent  # noqa: E402

GENERATE = ("grpo", "rloo")
METHODS = ("dpo", "ipo", "kto", "reward", "orpo", "cpo", "simpo", *GENERATE)


def setup_of(folder: Path, method: str, **training: Any) -> Setup:
    """A healthy setup of a method."""
    rows = 8 if method in GENERATE else 2
    values = {"trainer": "trl", "method": method, "per_device_train_batch_size": rows}
    return make_setup(folder, lora={"task_type": "SEQ_CLS" if method == "reward" else "CAUSAL_LM"}, **values | training)


def step(setup: Setup) -> StepSeen:
    """Load and step."""
    loaded = look_at_load(setup, "cpu", silent)
    assert loaded.error is None and loaded.base is not None
    return look_at_step(setup, loaded.base, loaded.timeline, silent)


def assert_healthy(facts: StepFacts) -> None:
    assert facts.failure is not None and facts.failure.kind == "none", facts.failure
    assert facts.steps == 2 and facts.changed_base_tensors == []
    assert facts.parameters_without_gradient == [] and facts.parameters_zero_gradient == []
    assert facts.parameters_nonfinite_gradient == [] and facts.parameters_not_updated == []
    assert facts.adapter_identity and facts.adapter_effective and facts.loss_finite and facts.logits_finite
    optimizer = facts.optimizer
    assert optimizer is not None and optimizer.parameters == facts.trainable_tensors
    assert (optimizer.frozen_parameters, optimizer.missing_parameters, optimizer.stale_parameters) == ([], [], 0)


@pytest.mark.parametrize("method", METHODS)
def test_a_healthy_method(tiny_llama: Path, method: str) -> None:
    seen = step(setup_of(tiny_llama, method))
    facts = seen.facts
    assert_healthy(facts)
    assert (facts.method, facts.trainer, facts.data) == (method, "trl", "synthetic") and seen.batch is None
    # The copy of the adapter that is the reference trains nothing, and is not asked for gradients.
    assert facts.trainable_tensors == 28 + (method == "reward")
    if method in GENERATE:
        assert facts.loss_before is None and facts.loss_moved is None, "the loss of a generation is zero on average"
    else:
        assert facts.loss_moved and facts.losses is not None and facts.loss_before == pytest.approx(facts.losses[0])
    expected = {"dpo": math.log(2), "ipo": 25.0, "kto": 0.5}.get(method)
    assert facts.loss_expected == pytest.approx(expected)
    assert (facts.loss_off_start or 0) < 1e-3


ROWS: dict[str, Callable[[int], dict[str, Any]]] = {
    "dpo": lambda i: {"prompt": f"Name {i}.", "chosen": f" It is {i}.", "rejected": " I will not."},
    "kto": lambda i: {"prompt": f"Name {i}.", "completion": f" It is {i}.", "label": i % 2 == 0},
    "grpo": lambda i: {"prompt": f"Name {i}."},
}


@pytest.mark.parametrize("method", ROWS)
def test_the_data_of_a_method(tiny_llama: Path, tmp_path: Path, method: str) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(json.dumps(ROWS[method](i)) for i in range(32)), encoding="utf-8")
    setup = setup_of(tiny_llama, method).model_copy(update={"data": Data(train=str(file))})
    facts = step(setup).facts
    assert_healthy(facts)
    assert facts.data == "file" and facts.method == method


def test_a_beta_of_zero_gives_no_gradient(tiny_llama: Path) -> None:
    facts = step(setup_of(tiny_llama, "dpo", extra={"beta": 0.0})).facts
    assert facts.gradients_sound is False and facts.parameters_zero_gradient


def test_a_reference_that_is_another_model(tiny_llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = module.make_trainer

    def with_another_reference(*args: Any, **kwargs: Any) -> Any:
        trainer = original(*args, **kwargs)
        with torch.no_grad():
            for name, parameter in trainer.model.named_parameters():
                if "lora_B.ref" in name:
                    parameter.add_(0.5)
        return trainer

    monkeypatch.setattr(module, "make_trainer", with_another_reference)
    facts = step(setup_of(tiny_llama, "dpo", extra={"beta": 1.0})).facts
    assert facts.loss_off_start is not None and facts.loss_off_start > 0.05


def test_a_trainer_of_the_method_that_refuses(tiny_llama: Path) -> None:
    facts = step(setup_of(tiny_llama, "grpo", per_device_train_batch_size=3)).facts
    assert facts.failure is not None and facts.failure.kind != "none" and facts.failure.phase == "trainer"


def test_a_layer_in_evaluation_keeps_its_bytes(qlora: Callable[..., Any]) -> None:
    """A model may put its own layers into evaluation: they are not packed anew under a look."""
    model = qlora()
    layers = [layer for layer in model.modules() if type(layer).__name__ == "Linear4bit"]
    for layer in layers:
        layer.support_avx512bf16_for_cpu = True
    before = [layer.weight.data.clone() for layer in layers]
    model.eval()
    with warnings.catch_warnings(), torch.no_grad(), never_repacked(model):
        warnings.simplefilter("ignore")
        model(input_ids=torch.tensor([[5, 6, 7]]))
    assert all(torch.equal(old, layer.weight.data) for old, layer in zip(before, layers, strict=True))
    assert all(layer.support_avx512bf16_for_cpu for layer in layers)


@pytest.mark.parametrize(
    ("method", "reason"), [("ppo", "a value model"), ("gkd", "a teacher model"), ("bco", "none of")]
)
def test_a_method_whose_trainer_is_not_built_is_not_stepped_as_another(
    tiny_llama: Path, method: str, reason: str
) -> None:
    report = qlora_doctor.check(setup_of(tiny_llama, method), stages=("load", "step"), cache=False, offline=True)
    record = next(record for record in report.stages if record.name == "step")
    assert record.status == "skipped" and f"No step of {method} is taken" in str(record.reason)
    assert reason in str(record.reason) and report.facts.step is None

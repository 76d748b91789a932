"""The small parts of a step's observation, each with faults that no tiny model shows by itself."""

from __future__ import annotations

import logging
import math
import warnings
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from qlora_doctor.core.errors import StageError  # noqa: E402
from qlora_doctor.facts import Facts, MemoryFacts  # noqa: E402
from qlora_doctor.facts.memory import MemoryPicture  # noqa: E402
from qlora_doctor.probes.failures import explain  # noqa: E402
from qlora_doctor.probes.observing import timeline  # noqa: E402
from qlora_doctor.probes.observing.overheard import overheard  # noqa: E402
from qlora_doctor.probes.observing.timeline import Timeline  # noqa: E402
from qlora_doctor.probes.step import gradients  # noqa: E402
from qlora_doctor.probes.step.gradients import GradientWatch, StepGradients, conclude  # noqa: E402
from qlora_doctor.probes.step.held_against import with_measured  # noqa: E402
from qlora_doctor.probes.step.optimizer import optimizer_facts, state_bytes  # noqa: E402
from qlora_doctor.probes.step.updates import UpdateWatch  # noqa: E402
from tests.models import tiny_config  # noqa: E402

A, B = "model.layers.0.q_proj.lora_A.default.weight", "model.layers.0.q_proj.lora_B.default.weight"


def step(a: float, b: float, **options: Any) -> StepGradients:
    values = {A: a, B: b}
    return StepGradients(values, dict(values), **options)


def test_a_zero_by_design_is_none() -> None:
    found = conclude([A, B], [step(0.0, 1.0, by_design_zero={A}), step(0.5, 1.0)])
    assert (found.missing, found.zero, found.nonfinite) == ([], [], [])
    assert found.norm == pytest.approx(math.hypot(0.5, 1.0))
    assert found.columns[0].projection == "q_proj" and found.columns[0].norms == [pytest.approx(math.hypot(0.5, 1.0))]


def test_a_zero_that_is_not_by_design() -> None:
    assert conclude([A, B], [step(0.0, 0.0, by_design_zero={A}), step(0.0, 0.0, by_design_zero={A})]).zero == [B]
    assert conclude([A, B], [step(0.0, 1.0, by_design_zero={A}), step(0.0, 1.0)]).zero == [A]


def test_a_tensor_that_one_step_reached_is_not_missing() -> None:
    """Experts that no token of the first batch was routed to."""
    assert conclude([A, B], [StepGradients({A: 1.0}, {A: 1.0}), step(1.0, 1.0)]).missing == []
    assert conclude([A, B], [StepGradients({A: 1.0}, {A: 1.0})] * 2).missing == [B]


def test_an_overflow_that_the_scaler_skipped_is_no_fault() -> None:
    skipped, good = step(math.inf, math.nan, skipped=True), step(1.0, 1.0)
    assert conclude([A, B], [skipped, good]).nonfinite == []
    assert conclude([A, B], [skipped, skipped]).nonfinite == [A, B]
    assert conclude([A, B], [good, step(1.0, math.nan)]).nonfinite == [B]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_the_watch_reads_what_autograd_has(dtype: str) -> None:
    parameters = {
        "used": torch.nn.Parameter(torch.ones(4, dtype=getattr(torch, dtype))),
        "zero": torch.nn.Parameter(torch.ones(4, dtype=getattr(torch, dtype))),
        "nan": torch.nn.Parameter(torch.ones(4, dtype=getattr(torch, dtype))),
        "unused": torch.nn.Parameter(torch.ones(4, dtype=getattr(torch, dtype))),
    }
    fired: list[int] = []
    watch = GradientWatch(parameters, lambda: fired.append(1))
    for _ in range(2):  # two micro-batches: the gradient is their sum
        loss = (3 * parameters["used"] + 0 * parameters["zero"]).sum() + (parameters["nan"] * math.nan).sum()
        loss.float().backward()
    watch.end_step(2.0, set(), skipped=False)
    watch.close()
    seen = watch.steps[0]
    assert seen.norms["used"] == pytest.approx(6.0) and seen.largest["used"] == pytest.approx(3.0), "unscaled by 2"
    assert seen.largest["zero"] == 0.0 and math.isnan(seen.largest["nan"]) and "unused" not in seen.norms
    assert len(fired) == 6
    assert conclude(list(parameters), watch.steps).missing == ["unused"]
    assert not any(p._post_accumulate_grad_hooks for p in parameters.values())


def test_lora_a_whose_lora_b_is_zero() -> None:
    parameters = {A: torch.nn.Parameter(torch.ones(2)), B: torch.nn.Parameter(torch.zeros(2))}
    assert gradients.lora_a_without_effect(parameters, torch.nn.Identity()) == {A}
    parameters[B].data[0] = 1e-30
    assert gradients.lora_a_without_effect(parameters, torch.nn.Identity()) == set()


def test_updates_that_are_rounded_away() -> None:
    parameter = torch.nn.Parameter(torch.full((8,), 256.0, dtype=torch.bfloat16))
    watch = UpdateWatch({"p": parameter})
    parameter.grad = torch.tensor([1.0] * 4 + [0.0] * 4, dtype=torch.bfloat16)
    parameter.data[:1] += 2  # one element's update arrives; 256 + 0.5 is 256 in bfloat16
    parameter.data[1:4] += 0.5
    assert watch.lost_ratio() == 0.75


def test_updates_without_a_gradient_say_nothing() -> None:
    assert UpdateWatch({"p": torch.nn.Parameter(torch.ones(2))}).lost_ratio() is None


def test_optimizer_inside_accelerate_s_wrapper() -> None:
    from accelerate import Accelerator

    model = torch.nn.Linear(4, 4)
    optimizer = torch.optim.AdamW(model.parameters())
    wrapped = Accelerator(cpu=True).prepare(optimizer)
    assert optimizer_facts(wrapped, model).name == "AdamW"
    model(torch.ones(1, 4)).sum().backward()
    wrapped.step()
    assert state_bytes(wrapped) >= 2 * 4 * (16 + 4)
    assert state_bytes(wrapped, "cpu") == state_bytes(wrapped) and state_bytes(wrapped, "cuda") == 0


def test_timeline_of_a_cpu_has_seconds_and_no_memory() -> None:
    watch = Timeline(torch.device("cpu"))
    watch.begin_step()
    watch.enter("forward")
    assert watch.phase == "forward"
    with watch.pause():
        pass
    watch.end_step()
    assert len(watch.seconds) == 1 and watch.step_peak() is None and watch.points() is None
    assert watch.phase_peaks() is None and watch.phase == "idle"


def test_a_pause_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(100))
    monkeypatch.setattr(timeline.time, "perf_counter", lambda: float(next(clock)))
    watch = Timeline(torch.device("cpu"))
    watch.begin_step()
    with watch.pause():
        for _ in range(50):
            next(clock)
    watch.end_step()
    assert watch.seconds[0] < 10


def test_a_long_timeline_keeps_its_peak_and_its_phases() -> None:
    points = [(n / 5000, n % 977, "forward" if n < 3000 else "backward") for n in range(5000)]
    thinned = timeline._thinned(points, 600)
    assert len(thinned) <= 600 and max(p[1] for p in thinned) == 976
    assert [p[0] for p in thinned] == sorted(p[0] for p in thinned)
    assert {p[2] for p in thinned} == {"forward", "backward"}


def test_warnings_are_overheard_once_and_go_on(recwarn: pytest.WarningsRecorder) -> None:
    with overheard() as heard:
        warnings.simplefilter("always")
        for _ in range(3):
            warnings.warn("something\n  is wrong", UserWarning, stacklevel=1)
        warnings.warn("old", FutureWarning, stacklevel=1)
        logging.getLogger("transformers.trainer").warning("and %s", "that")
        logging.getLogger("peft").info("chatter")
    assert heard == ["something is wrong", "and that"]


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (RuntimeError("element 0 of tensors does not require grad and does not have a grad_fn"), "no-gradient"),
        (ValueError("Attempting to unscale FP16 gradients."), "float16-gradients"),
        (IndexError("index out of range in self"), "token-out-of-range"),
        (RuntimeError("mat1 and mat2 must have the same dtype, but got Float and BFloat16"), "dtype-mismatch"),
        (ValueError("You cannot perform fine-tuning on purely quantized models."), "no-adapter"),
        (MemoryError(), "host-out-of-memory"),
        (OSError(28, "No space left on device"), "disk"),
        (StageError("As it was.", kind="truncated"), "truncated"),
        (RuntimeError("nobody knows"), "other"),
    ],
)
def test_failures_have_a_kind_and_a_sentence(error: Exception, kind: str) -> None:
    told = explain(error, "the backward of a training step")
    assert told.kind == kind and "\n" not in told.message and told.message.endswith(".")


def test_prediction_is_held_against_the_measurement() -> None:
    def picture(peak: int, batch: int) -> MemoryPicture:
        return MemoryPicture(peak_allocated_bytes=peak, peak_reserved_bytes=peak, batch=batch, sequence=64)

    facts = Facts(memory=MemoryFacts(predicted=picture(110, 2), card_bytes=1000))
    memory = with_measured(facts, picture(100, 2))
    assert memory.measured_ratio == 0.1 and memory.difference_ratio == pytest.approx(0.1)
    assert with_measured(facts, picture(100, 4)).difference_ratio is None, "another batch is another peak"
    assert with_measured(Facts(), picture(100, 2)).measured is not None


def test_experts_that_one_step_reaches_and_the_next_does_not() -> None:
    """The second step's expert has a lora_B of zeros still, so that nothing of lora_A gets a gradient in it."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    config = tiny_config("mixtral", num_hidden_layers=1, num_experts_per_tok=1)
    torch.manual_seed(0)
    targets = ["experts.gate_up_proj", "experts.down_proj"]
    lora = LoraConfig(
        r=2, target_modules=["q_proj"], target_parameters=targets, lora_dropout=0.0, task_type="CAUSAL_LM"
    )
    model = get_peft_model(AutoModelForCausalLM.from_config(config), lora)
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad and ".experts." in name}
    moved: dict[int, Any] = {}
    seconds = [p for n, p in parameters.items() if "lora_B" in n]
    for token in range(5, 60):  # one layer and one word: all tokens of a row reach one expert
        ids = torch.full((1, 6), token)
        reached = torch.autograd.grad(model(input_ids=ids, labels=ids).loss, seconds)[0]
        moved[int((reached != 0).any(dim=0).nonzero()[0])] = ids
    first, second = list(moved.values())[:2]
    watch = gradients.GradientWatch(parameters)
    optimizer = torch.optim.AdamW(parameters.values(), lr=1e-2)
    for ids in (first, second):
        by_design = gradients.lora_a_without_effect(parameters, model)
        watch.begin_step()
        model(input_ids=ids, labels=ids).loss.backward()
        watch.end_step(1.0, by_design, skipped=False)
        optimizer.step()
        optimizer.zero_grad()
    watch.close()
    firsts = [name for name in parameters if "lora_A" in name]
    assert all(watch.steps[1].largest[name] == 0.0 for name in firsts)
    assert gradients.conclude(list(parameters), watch.steps).zero == []

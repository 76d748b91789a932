"""Predictions: against recorded measurements, and against each other."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from qlora_doctor.memory.optimizers import RULES, Optimizer
from qlora_doctor.memory.plan import capacity, cards_that_fit, plan
from qlora_doctor.memory.predict import PredictionError, certain_bytes, predict, traced
from qlora_doctor.memory.replay import replay
from qlora_doctor.memory.scaling import MANY, scalable
from qlora_doctor.memory.tape import CATEGORIES, Tape
from qlora_doctor.memory.trace import Recorder
from tests.memory.cases import H200, LLAMA, RTX_4090, subject

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "memory"
MOE = {
    "model_type": "mixtral",
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 500,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
}


def _compare() -> Any:
    spec = importlib.util.spec_from_file_location("memory_compare", BENCHMARK / "compare.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    "wanted",
    [
        {"model": "tinyllama-1.1b", "sequence": 512, "batch": 1},
        {"model": "tinyllama-1.1b", "sequence": 512, "batch": 4},
        {"model": "llama3.2-1b", "gradient_checkpointing": False},
        {"model": "llama3.2-1b", "modules_to_save": ["embed_tokens", "lm_head"]},
        {"model": "pythia-1.4b", "gradient_checkpointing": False},
        {"model": "tinyllama-1.1b", "from_checkpoint": True},
    ],
    ids=lambda wanted: "-".join(str(value) for value in wanted.values()),
)
def test_recorded_measurements(wanted: dict[str, Any]) -> None:
    compare = _compare()
    measured_with, cases = compare.read_cases(BENCHMARK / "h200.json")
    case = next(case for case in cases if all(case[name] == value for name, value in wanted.items()))
    prediction = predict(compare.subject_of(case), compare.machine_of(measured_with))
    measured = max(step["peak_allocated"] for step in case["steps"])
    reserved = max(step["peak_reserved"] for step in case["steps"])
    assert prediction.peak_allocated_bytes == pytest.approx(measured, rel=0.002)
    assert prediction.peak_reserved_bytes == pytest.approx(reserved, rel=0.02)
    assert prediction.loaded_bytes == pytest.approx(case["allocated_after_load"], rel=0.001)


@pytest.mark.parametrize(
    "wanted",
    [
        {"model": "mistral-7b/5", "precision": "no"},
        {"model": "mistral-7b/5", "padded": True, "cudnn_attention": False},
        {"model": "llama3.1-8b/5", "fp16": True},
        {"model": "llama3.1-8b/5", "expandable_segments": True},
        {"model": "mixtral/2"},
        {"model": "gemma3-1b/6"},
    ],
    ids=lambda wanted: "-".join(str(value) for value in wanted.values()),
)
def test_measurements_off_the_beaten_track(wanted: dict[str, Any]) -> None:
    compare = _compare()
    measured_with, cases = compare.read_cases(BENCHMARK / "h100.json")
    case = next(case for case in cases if all(case[name] == value for name, value in wanted.items()))
    result = compare.predict_case(case, measured_with)
    assert abs(result.allocated_error) < 0.1
    assert abs(result.reserved_error) < 2


def test_the_recorded_results_keep_the_bar() -> None:
    compare = _compare()
    results = [
        compare.Result(**entry) for entry in json.loads((BENCHMARK / "results.json").read_text(encoding="utf-8"))
    ]
    assert len(results) == 60
    assert all(value <= compare.BAR[name] for name, value in compare.summary(results).items())


def test_the_breakdown_adds_up_to_the_peak() -> None:
    prediction = predict(subject(), H200)
    assert set(prediction.breakdown) == set(CATEGORIES)
    assert sum(prediction.breakdown.values()) == prediction.peak_allocated_bytes
    assert all(value >= 0 for value in prediction.breakdown.values())
    assert prediction.breakdown["workspaces"] >= 2 * (32 << 20)


def test_a_prediction_is_a_fact() -> None:
    prediction = predict(subject(optim="paged_adamw_8bit"), H200)
    picture = prediction.picture()
    assert picture.peak_reserved_bytes == prediction.peak_reserved_bytes
    assert picture.timeline is not None and (picture.timeline[0].at, picture.timeline[-1].at) == (0, 1)
    assert any("managed memory" in sentence for sentence in picture.assumptions or [])


def test_the_timeline_reaches_the_peak() -> None:
    prediction = predict(subject(), H200)
    assert len(prediction.timeline) <= 600
    assert max(allocated for allocated, _ in prediction.timeline) == prediction.peak_allocated_bytes
    assert {"load", "forward", "backward", "optimizer"} <= {phase for _, phase in prediction.timeline}


def test_optimizers_differ_by_their_state() -> None:
    after = {
        name: predict(subject(optim=name, r=64), H200).after_bytes
        for name in ("sgd", "adamw_8bit", "adamw_torch_fused")
    }
    assert after["sgd"] < after["adamw_8bit"] < after["adamw_torch_fused"]


@pytest.mark.parametrize("name", [name for name in RULES if not name.startswith(("adamw_torch", "adafactor", "sgd"))])
def test_an_optimizer_of_bitsandbytes_keeps_what_its_name_says(name: str) -> None:
    """Two moments of Adam, one of Lion and RMSprop, three of AdEMAMix; a large paged state is elsewhere."""
    family = next(family for family in ("ademamix", "adamw", "lion", "rmsprop") if family in name)
    states = {"adamw": 2, "lion": 1, "rmsprop": 1, "ademamix": 3}[family]
    small, large = (torch.nn.Parameter(torch.empty(1 << bits, device="meta")) for bits in (14, 18))
    held = {}
    for parameter in (small, large):
        kept = RULES[name][0](Optimizer(name, Recorder(Tape())), parameter)
        held[parameter] = sum(each.nbytes for each in kept if each.shape == parameter.shape)
    width = states * (1 if name.endswith("8bit") else 4)
    assert held[small] == width * small.numel()
    assert held[large] == (0 if name.startswith("paged") else width * large.numel())


def test_paged_state_is_not_on_the_card() -> None:
    wide = {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 1}
    plain, paged = (
        predict(subject(LLAMA | wide, optim=name, r=64), H200).after_bytes
        for name in ("adamw_torch_fused", "paged_adamw_32bit")
    )
    adapter = sum(p.numel() for p in subject(LLAMA | wide, r=64).model.parameters() if p.requires_grad)
    assert plain - paged == pytest.approx(2 * 4 * adapter, rel=0.1)


@pytest.mark.parametrize(
    "options",
    [
        {"use_dora": True},
        {"precision": "fp16"},
        {"prepare_for_kbit_training": False},
        {"attn_implementation": "eager", "gradient_checkpointing": False},
        {"modules_to_save": ["lm_head"]},
        {"optim": "adafactor"},
        {"gradient_accumulation_steps": 3},
        {"double_quant": False},
    ],
    ids=str,
)
def test_unusual_setups_can_be_predicted(options: dict[str, Any]) -> None:
    prediction = predict(subject(**options), RTX_4090)
    assert prediction.loaded_bytes < prediction.peak_allocated_bytes <= prediction.peak_reserved_bytes


@pytest.mark.parametrize("options", [{}, {"packing": True}, {"padded": True}], ids=str)
def test_trl_never_holds_all_logits(options: dict[str, Any]) -> None:
    pytest.importorskip("trl")
    ours, theirs = (
        predict(subject(LLAMA | {"vocab_size": 100_003}, trainer=trainer, batch=4, sequence=512, **options), RTX_4090)
        for trainer in ("transformers", "trl")
    )
    assert theirs.peak_allocated_bytes < ours.peak_allocated_bytes


def test_experts_stay_out_of_4bit() -> None:
    prediction = predict(subject(MOE, target_modules=["q_proj", "v_proj"]), RTX_4090)
    experts = 2 * 4 * 3 * 128 * 256 * 4
    assert prediction.breakdown["base_32bit"] >= experts


def test_one_pair_of_traces_gives_every_size() -> None:
    sizes = (2, 64), (MANY, 1088), (3, 200)
    tapes = [traced(subject(batch=b, sequence=s), H200) for b, s in sizes]
    general = scalable(tapes[0], tapes[1], sizes[0], sizes[1])
    own = replay(tapes[2], H200)
    worked_out = replay(general.at(3, 200), H200)
    assert general.at(3, 200).sizes == tapes[2].sizes
    assert worked_out.steps == own.steps


def test_a_plan_is_verified_and_grows() -> None:
    table = plan(lambda: subject(), RTX_4090, batches=(1, 2, 4), sequences=(64, 128, 256))
    assert table.verified == 0 and table.traces == 6
    cells = {(cell.batch, cell.sequence): cell for cell in table.cells}
    assert len(cells) == 9 and sum(cell.traced for cell in table.cells) == 2
    assert cells[4, 256].peak_allocated_bytes > cells[2, 256].peak_allocated_bytes > cells[2, 64].peak_allocated_bytes
    assert table.frontier == {1: 256, 2: 256, 4: 256}
    assert table.capacity_bytes == capacity(RTX_4090.card)
    own = predict(subject(batch=4, sequence=64), RTX_4090)
    assert cells[4, 64].peak_allocated_bytes == own.peak_allocated_bytes


def test_cards_that_fit_come_smallest_first() -> None:
    cards = cards_that_fit(20 << 30)
    assert cards and all(capacity(card) >= 20 << 30 for card in cards)
    assert [card.usable_bytes for card in cards] == sorted(card.usable_bytes for card in cards)


def test_a_step_that_cannot_be_traced_says_what_is_certain() -> None:
    one = subject()

    def reads_a_value(module: Any, inputs: Any, output: torch.Tensor) -> None:
        if bool(output.isnan().any()):
            raise RuntimeError

    one.model.get_base_model().model.norm.register_forward_hook(reads_a_value)
    with pytest.raises(PredictionError, match="value") as caught:
        predict(one, H200)
    assert caught.value.certain_bytes == certain_bytes(one.model) > 0


def test_an_unknown_optimizer_is_named() -> None:
    with pytest.raises(PredictionError, match="galore_adamw"):
        predict(subject(optim="galore_adamw"), H200)

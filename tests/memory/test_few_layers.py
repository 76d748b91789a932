"""Steps folded from few layers: what they tell is what the model in full tells, and what does not repeat is traced."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from qlora_doctor.facts import Facts
from qlora_doctor.memory.kept import Traces
from qlora_doctor.memory.plan_stage import look_at_plan, recalled_plan
from qlora_doctor.memory.predict import predict
from qlora_doctor.memory.stage import machine_for
from qlora_doctor.memory.subject import subject_of_setup
from qlora_doctor.run.cache import trace_key
from qlora_doctor.run.session import CheckOptions
from qlora_doctor.setup.changed import with_value
from qlora_doctor.setup.setup import Hardware, Lora, Model, Quantization, Setup, Training
from qlora_doctor.tables.cards import find_card
from qlora_doctor.worker.job import PlanRequest

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 1024,
    "intermediate_size": 2816,
    "num_hidden_layers": 11,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "vocab_size": 32000,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": False,
}
WINDOW = {"architectures": ["MistralForCausalLM"], "model_type": "mistral", "sliding_window": 1024}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    return tmp_path


def setup_of(folder: Path, **lora: Any) -> Setup:
    return Setup(
        model=Model(name_or_path=str(folder), dtype="bfloat16"),
        quantization=Quantization(load_in_4bit=True, bnb_4bit_compute_dtype="bfloat16"),
        lora=Lora(**{"target_modules": "all-linear", "task_type": "CAUSAL_LM", "r": 8} | lora),
        training=Training(
            per_device_train_batch_size=2,
            max_length=256,
            bf16=True,
            gradient_checkpointing=True,
            gradient_accumulation_steps=4,
            optim="adamw_torch_fused",
        ),
        hardware=Hardware(gpu="RTX 4090"),
    )


def asked(batch: int, sequence: int, kept: Path) -> PlanRequest:
    return PlanRequest(kept=str(kept), batches=(batch,), sequences=(sequence,))


def live(setup: Setup, batch: int, sequence: int) -> tuple[int, int]:
    found = predict(subject_of_setup(setup, batch=batch, sequence=sequence), machine_for(setup, find_card("RTX 4090")))
    return found.peak_allocated_bytes, found.peak_reserved_bytes


def told(facts: Any) -> tuple[int, int]:
    return facts.predicted.peak_allocated_bytes, facts.predicted.peak_reserved_bytes


@pytest.mark.parametrize("family", [{}, WINDOW], ids=["of one course", "with a window"])
def test_the_next_question_is_answered_from_few_layers(family: dict[str, Any], folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps(CONFIG | family))
    setup, kept = setup_of(folder), folder / "x.traces"
    first = look_at_plan(setup, Facts(), asked(2, 256, kept), lambda text: None)
    assert told(first) == live(setup, 2, 256)
    for rank, batch, sequence in ((8, 1, 512), (16, 3, 704 if family else 201)):
        other = with_value(setup, "lora.r", rank)
        again = recalled_plan(other, Facts(), asked(batch, sequence, kept))
        assert again is not None and again.plan_traces == 0
        assert told(again) == live(other, batch, sequence), (rank, batch, sequence)
    assert not any(Traces.read(kept, 8).tapes.values())  # no trace of the model in full


@pytest.mark.parametrize(
    "lora", [{"layers_to_transform": [0, 1, 9]}, {"rank_pattern": {"layers.7.self_attn.q_proj": 4}}]
)
def test_layers_that_differ_are_traced_in_full(lora: dict[str, Any], folder: Path) -> None:
    setup, kept = setup_of(folder, target_modules=["q_proj", "v_proj"], **lora), folder / "x.traces"
    first = look_at_plan(setup, Facts(), asked(2, 256, kept), lambda text: None)
    assert told(first) == live(setup, 2, 256)
    assert not Traces.read(kept, 8).pieces
    assert recalled_plan(setup, Facts(), asked(1, 512, kept)) is None


def test_a_cure_is_found_among_what_few_layers_told(folder: Path) -> None:
    setup, kept = setup_of(folder), folder / "x.traces"
    look_at_plan(setup, Facts(), asked(2, 256, kept), lambda text: None)
    request = asked(64, 512, kept).model_copy(update={"cards": ("4GiB",)})
    again = recalled_plan(setup, Facts(), request)
    assert again is not None and again.plans is not None
    (plan,) = again.plans
    assert plan.asked is not None and plan.asked.fits is False and plan.cure is not None and plan.cure.fits


def test_traces_are_kept_for_any_rank() -> None:
    setup = Setup(model=Model(name_or_path="x"), lora=Lora(r=8))
    same, other = with_value(setup, "lora.r", 64), with_value(setup, "lora.use_dora", True)
    keys = [trace_key(each, CheckOptions(), None) for each in (setup, same, other)]
    assert keys[0] == keys[1] != keys[2]

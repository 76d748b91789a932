"""Whose the storages of a tape are: module, operator, shape; and that noting it changes nothing of the tape."""

from __future__ import annotations

from collections import Counter
from contextlib import nullcontext
from typing import Any

import pytest
import torch

from qlora_doctor.memory import step as module
from qlora_doctor.memory.predict import prediction_of, traced
from qlora_doctor.memory.replay import replay
from qlora_doctor.memory.scaling import ScalableTape
from qlora_doctor.memory.tape import Owner, Tape
from tests.memory.cases import H200, LLAMA, subject

KINDS: list[dict[str, Any]] = [{}, {"gradient_checkpointing": False}, {"trainer": "trl"}, {"use_reentrant": True}]


class Nobody:
    """Owners that note nothing."""

    def __init__(self, *arguments: object) -> None: ...

    def __getattr__(self, name: str) -> Any:
        return lambda *arguments: nullcontext()


@pytest.mark.parametrize("options", KINDS, ids=str)
def test_noting_owners_changes_nothing_of_the_tape(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    call = torch.nn.Module.__call__
    noted = traced(subject(**options), H200)
    assert torch.nn.Module.__call__ is call
    monkeypatch.setattr(module, "Owners", Nobody)
    plain = traced(subject(**options), H200)
    assert (noted.events, noted.sizes, noted.phases) == (plain.events, plain.sizes, plain.phases)
    assert noted.owners and not plain.owners


@pytest.mark.parametrize("options", KINDS, ids=str)
def test_each_tensor_is_its_modules(options: dict[str, Any]) -> None:
    tape = traced(subject(**options), H200)
    of: dict[str, Counter[str]] = {}
    for index, owner in tape.owners.items():
        of.setdefault(tape.categories[index], Counter())[owner.module] += 1
    layers = LLAMA["num_hidden_layers"]
    assert of["base_4bit"]["model.layers.*.mlp.down_proj.weight"] == layers
    assert of["adapter"]["model.layers.*.self_attn.q_proj.lora_A.default.weight"] >= layers
    # Gradients are made in the backward pass, where no module runs: the node of its forward pass tells which it was.
    assert {name for name in of["gradients"] if ".lora_B" in name} == {
        f"model.layers.*.{name}.lora_B.default"
        for name in (
            *(f"self_attn.{each}_proj" for each in "qkvo"),
            *(f"mlp.{each}_proj" for each in ("gate", "up", "down")),
        )
    }
    state = of["optimizer"]["model.layers.*.mlp.up_proj.lora_A.default.weight"]
    assert state >= 2 * layers
    assert of["activations"]["model.layers.*.self_attn.o_proj.lora_A.default"]


def test_what_is_held_adds_up_to_the_breakdown() -> None:
    one = subject(gradient_checkpointing=False)
    tape = traced(one, H200)
    run = replay(tape, H200)
    phase = max((each for each in run.phases if each != "load"), key=lambda each: run.phases[each][0])
    sums: Counter[str] = Counter()
    for held in run.held:
        if held.phase == phase:
            sums[held.part] += held.bytes
    at_peak = {part: size for part, size in run.step_breakdown.items() if size and part != "fragmentation"}
    within = {part: size for part, size in sums.items() if part != "workspaces"}  # scratch of a kernel is no tensor
    assert within == {part: size for part, size in at_peak.items() if part != "workspaces"}
    picture = prediction_of(one.outline, H200, run).picture()
    assert picture.tensors is not None and {each.phase for each in picture.tensors} >= {"load", "forward", "backward"}


def test_a_tape_of_another_size_has_no_owners() -> None:
    tape = Tape()
    tape.alloc(4, "activations")
    tape.owners[0] = Owner("model.norm", "mul", (1, 64), "float32")
    assert not ScalableTape(tape, [0], [4], []).at(1, 64).owners

"""Which base tensors changed, which were only cast, and that all of them are looked at."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("bitsandbytes")

from qlora_doctor.probes.observing import snapshot  # noqa: E402
from qlora_doctor.probes.tensors import (  # noqa: E402
    base_tensors,
    decoder_layers,
    layer_and_projection,
    plain_name,
    trainable_parameters,
)


def changes(model: Any, change: Callable[[], None]) -> snapshot.Changes:
    before = snapshot.take(model)
    with torch.no_grad():
        change()
    return snapshot.compare(before, model, snapshot.take(model, keep_small=False))


def test_every_tensor_of_the_base_is_taken(qlora: Callable[..., Any]) -> None:
    model = qlora()
    names = set(base_tensors(model))
    weight = "model.layers.0.self_attn.q_proj.weight"
    for statistic in ("absmax", "code", "offset", "state2.absmax", "state2.code"):
        assert f"{weight}.{statistic}" in names
    assert {weight, "model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"} <= names
    assert any("inv_freq" in name for name in names)
    assert not any("lora" in name for name in names)
    assert all("lora" in name for name in trainable_parameters(model))


@pytest.mark.parametrize(
    "name",
    [
        "model.layers.1.mlp.up_proj.weight",
        "model.layers.1.mlp.up_proj.weight.absmax",
        "model.layers.1.mlp.up_proj.weight.state2.absmax",
        "model.layers.0.self_attn.o_proj.weight.offset",
        "model.layers.0.input_layernorm.weight",
        "model.embed_tokens.weight",
    ],
)
def test_a_single_changed_bit_is_seen(qlora: Callable[..., Any], name: str) -> None:
    model = qlora()
    tensor = base_tensors(model)[name].tensor.data

    def flip() -> None:
        flat = tensor.reshape(-1)[-1:].view(torch.uint8)
        flat[0] ^= 1

    seen = changes(model, flip)
    assert (seen.changed, seen.cast, seen.recomputed) == ([name], [], [])


def test_a_cast_is_no_change(qlora: Callable[..., Any]) -> None:
    model = qlora()
    norm = base_tensors(model)["model.norm.weight"].tensor

    def cast() -> None:
        norm.data = norm.data.to(torch.bfloat16)

    seen = changes(model, cast)
    assert seen.changed == []
    assert [(c.name, c.before, c.after) for c in seen.cast] == [("model.norm.weight", "float32", "bfloat16")]


def test_a_cast_that_rounds_is_still_a_cast_where_the_value_was_kept(qlora: Callable[..., Any]) -> None:
    model = qlora()
    norm = base_tensors(model)["model.norm.weight"].tensor
    norm.data.add_(1e-4)  # not to be had in bfloat16

    def cast() -> None:
        norm.data = norm.data.to(torch.bfloat16)

    assert changes(model, cast).changed == []


def test_a_cast_with_another_value_is_a_change(qlora: Callable[..., Any]) -> None:
    model = qlora()
    norm = base_tensors(model)["model.norm.weight"].tensor

    def cast() -> None:
        norm.data = norm.data.to(torch.bfloat16) * 2

    assert changes(model, cast).changed == ["model.norm.weight"]


def test_a_large_tensor_is_cast_back_to_be_judged(monkeypatch: pytest.MonkeyPatch, qlora: Callable[..., Any]) -> None:
    monkeypatch.setattr(snapshot, "_SMALL", 0)
    model = qlora()
    embedding = base_tensors(model)["model.embed_tokens.weight"].tensor

    def cast() -> None:
        embedding.data = embedding.data.to(torch.bfloat16)  # the checkpoint was bfloat16: nothing is lost

    seen = changes(model, cast)
    assert seen.changed == [] and [c.name for c in seen.cast] == ["model.embed_tokens.weight"]


def test_rotary_frequencies_may_be_computed_anew(qlora: Callable[..., Any]) -> None:
    model = qlora()
    name, found = next((n, t) for n, t in base_tensors(model).items() if n.endswith("rotary_emb.inv_freq"))
    seen = changes(model, lambda: found.tensor.mul_(2))
    assert seen.changed == [] and name in seen.recomputed


def test_an_offloaded_base_has_nothing_to_read() -> None:
    with torch.device("meta"):
        model = torch.nn.Linear(4, 4)
    assert snapshot.take(model).fingerprints == {}


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("base_model.model.model.layers.0.mlp.up_proj.base_layer.weight", "model.layers.0.mlp.up_proj.weight"),
        ("base_model.model.score.original_module.weight", "score.weight"),
        ("_orig_mod.model.norm.weight", "model.norm.weight"),
        ("module.base_model.model.lm_head.weight", "lm_head.weight"),
    ],
)
def test_names_are_the_base_s_own(name: str, plain: str) -> None:
    assert plain_name(name) == plain


def test_layer_and_projection() -> None:
    assert layer_and_projection("model.layers.3.self_attn.q_proj.lora_A.default.weight") == (3, "self_attn.q_proj")
    assert layer_and_projection("transformer.h.11.attn.c_attn.weight") == (11, "attn.c_attn")
    assert layer_and_projection("lm_head.weight") == (None, "lm_head")


def test_layers_and_not_experts() -> None:
    expert = torch.nn.ModuleList([torch.nn.Linear(2, 2) for _ in range(8)])
    layers = torch.nn.ModuleList([torch.nn.ModuleDict({"experts": expert}) for _ in range(2)])
    assert decoder_layers(torch.nn.ModuleDict({"layers": layers})) == list(layers)

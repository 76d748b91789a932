"""Names: layers, kinds, wildcards, and what a wrong target may have meant."""

from __future__ import annotations

import pytest

from qlora_doctor.probes.structure.naming import (
    closest_kinds,
    find_stack,
    fused_home,
    kind_of,
    matches,
    split_layer,
    with_wildcards,
)

LLAMA = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
GPT2 = ["c_attn", "c_proj", "c_fc"]
NEOX = ["query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"]


@pytest.mark.parametrize(
    ("name", "kind"),
    [("model.layers.0.self_attn.q_proj", "q_proj"), ("mlp.experts.3", "experts"), ("lm_head", "lm_head"), ("7", "7")],
)
def test_kind(name: str, kind: str) -> None:
    assert kind_of(name) == kind


def test_layer_and_projection() -> None:
    assert split_layer("model.layers.12.mlp.experts.3.w1", "model.layers") == (12, "mlp.experts.*.w1")
    assert split_layer("model.norm", "model.layers") is None
    assert split_layer("lm_head", None) is None
    assert with_wildcards("model.layers.12.mlp.experts.3.w1") == "model.layers.*.mlp.experts.*.w1"


def test_the_stack_is_the_list_with_most_modules() -> None:
    names = [f"transformer.h.{i}.attn.{kind}" for i in range(3) for kind in GPT2] + ["head.0", "head.1"]
    assert find_stack(names) == "transformer.h"
    assert find_stack(["lm_head", "norm"]) is None


def test_a_target_matches_a_whole_name_or_its_end_after_a_dot() -> None:
    assert matches("q_proj", "layers.0.q_proj") and matches("q_proj", "q_proj")
    assert not matches("proj", "layers.0.q_proj") and not matches("q_proj", "layers.0.q_proj.inner")


@pytest.mark.parametrize(
    ("target", "kinds", "home"),
    [
        ("q_proj", GPT2, ["c_attn"]),
        ("value", NEOX, ["query_key_value"]),
        ("gate_proj", ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"], ["gate_up_proj"]),
        ("model.layers.0.self_attn.q_proj", GPT2, ["c_attn"]),
        ("query", LLAMA, []),  # a layer of its own under another name
        ("o_proj", GPT2, []),
        ("anything", GPT2, []),
    ],
)
def test_fused_home(target: str, kinds: list[str], home: list[str]) -> None:
    assert fused_home(target, kinds) == home


@pytest.mark.parametrize(
    ("target", "kinds", "first"),
    [
        ("q_porj", LLAMA, "q_proj"),
        ("Q_PROJ", LLAMA, "q_proj"),
        ("query", LLAMA, "q_proj"),
        ("dense", LLAMA, "o_proj"),
        ("fc1", LLAMA, "up_proj"),
        ("w2", LLAMA, "down_proj"),
        ("query_key_value", LLAMA, "q_proj"),
        ("q_proj", GPT2, "c_attn"),
        ("down_proj", NEOX, "dense_4h_to_h"),
    ],
)
def test_closest_kinds(target: str, kinds: list[str], first: str) -> None:
    assert closest_kinds(target, kinds)[0] == first


def test_nothing_like_it_gives_nothing() -> None:
    assert closest_kinds("embed_positions", GPT2) == []

"""Names of modules: layers and projections, kinds, and which kind of this model a wrong name may have meant."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

from ...core.closest import likeness

_NUMBER = re.compile(r"(?<=\.)\d+(?=\.|$)")

# What a projection is called across families (names as in transformers' and the original authors' modeling code).
_ROLES: dict[str, frozenset[str]] = {
    "query": frozenset({"q_proj", "query", "wq", "Wq", "q", "q_lin", "to_q", "query_proj", "q_attn"}),
    "key": frozenset({"k_proj", "key", "wk", "Wk", "k", "k_lin", "to_k", "key_proj"}),
    "value": frozenset({"v_proj", "value", "wv", "Wv", "v", "v_lin", "to_v", "value_proj"}),
    "output": frozenset(
        {"o_proj", "out_proj", "wo", "Wo", "dense", "c_proj", "out_lin", "to_out", "attn_out", "proj", "o"}
    ),
    "gate": frozenset({"gate_proj", "w1", "wi_0", "gate", "ff_gate"}),
    "up": frozenset({"up_proj", "w3", "wi_1", "fc1", "fc_in", "c_fc", "dense_h_to_4h", "lin1", "wi", "w1", "ff_up"}),
    "down": frozenset(
        {"down_proj", "w2", "wo", "fc2", "fc_out", "c_proj", "dense_4h_to_h", "lin2", "ff_out", "ff_down"}
    ),
}
_QKV = ("query", "key", "value")
# Weights that hold several projections side by side, and which.
_FUSED: dict[str, tuple[str, ...]] = {
    "qkv_proj": _QKV,
    "query_key_value": _QKV,
    "c_attn": _QKV,
    "Wqkv": _QKV,
    "W_pack": _QKV,
    "qkv": _QKV,
    "attn_qkv": _QKV,
    "qkv_linear": _QKV,
    "in_proj_qkv": _QKV,
    "in_proj_qkvz": _QKV,
    "att_proj": _QKV,
    "kv_proj": ("key", "value"),
    "gate_up_proj": ("gate", "up"),
    "gate_up": ("gate", "up"),
    "w12": ("gate", "up"),
    "w1w3": ("gate", "up"),
    "ff_proj": ("gate", "up"),
}


def kind_of(name: str) -> str:
    """The last part of a module's name that is no number: ``q_proj`` of ``model.layers.0.self_attn.q_proj``."""
    return next((part for part in reversed(name.split(".")) if not part.isdigit()), name)


def with_wildcards(name: str) -> str:
    """The name with every number as ``*``."""
    return _NUMBER.sub("*", name)


def split_layer(name: str, stack: str | None) -> tuple[int, str] | None:
    """Layer number and the name inside the layer, with further numbers as ``*``; None outside of the stack.

    Args:
        stack: name of the module list, ``model.layers``.
    """
    if stack is None or not name.startswith(stack + "."):
        return None
    number, _, inside = name[len(stack) + 1 :].partition(".")
    return (int(number), with_wildcards("." + inside)[1:]) if number.isdigit() else None


def find_stack(names: Iterable[str]) -> str | None:
    """The list of layers that most of the modules lie in: ``model.layers``, ``transformer.h``, …"""
    counts: dict[str, int] = {}
    for name in names:
        found = re.match(r"(.+?)\.\d+(?:\.|$)", name)
        if found:
            counts[found[1]] = counts.get(found[1], 0) + 1
    return max(counts, key=lambda stack: counts[stack]) if counts else None


def matches(target: str, name: str) -> bool:
    """PEFT's rule for an entry of a list: the whole name, or its end after a dot."""
    return name == target or name.endswith("." + target)


def fused_parts(kind: str) -> tuple[str, ...]:
    """The projections that a weight of this name holds side by side; none for an ordinary one."""
    return _FUSED.get(kind, ())


def fused_home(target: str, kinds: Collection[str]) -> list[str]:
    """The fused weights of the model that hold the projection named ``target``.

    Empty where the model has the projection as a layer of its own, under this or another name.
    """
    last = kind_of(target)
    roles = {role for role, names in _ROLES.items() if last in names}
    if any(kind in _ROLES[role] for role in roles for kind in kinds):
        return []
    return [kind for kind in kinds if roles & set(fused_parts(kind))]


def closest_kinds(target: str, kinds: Collection[str]) -> list[str]:
    """At most three kinds that ``target`` may have meant: a slip of spelling, the same projection, a fused home."""
    last = kind_of(target)
    spelling = {kind: likeness(last.lower(), kind.lower()) for kind in kinds}
    typos = [kind for kind in kinds if spelling[kind] >= 0.85]
    roles = {role for role, names in _ROLES.items() if last in names}
    # A fused name of another family: what it holds may be layers of their own here.
    roles |= set(fused_parts(last))
    same = [kind for kind in kinds if any(kind in _ROLES[role] for role in roles)]
    fused = [kind for kind in kinds if roles & set(fused_parts(kind))]
    near = sorted((kind for kind in kinds if spelling[kind] >= 0.7), key=lambda kind: -spelling[kind])
    found = list(dict.fromkeys([*sorted(typos, key=lambda kind: -spelling[kind]), *same, *fused, *near]))
    return found[:3]

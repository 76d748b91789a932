"""An adapter against the headers of its base's weights, and ΔW against W where the base is given."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ...facts.stored import LearnedModule, OtherShape
from ..load.checkpoint import Checkpoint, StoredTensor
from .arrays import FLOATS, Arrays
from .names import parse

_ROWS = 64
"""Rows of W from which its norm is taken, evenly spread."""


def held_against_base(
    found: Mapping[str, Any], tensors: Mapping[str, StoredTensor], base: Checkpoint | None, *, weigh: bool
) -> dict[str, Any]:
    """Facts that only the base's weights tell; none where they are not here, or are called otherwise.

    transformers renames what some checkpoints hold when it loads them. Where fewer than nine tenths of the adapter's
    modules are in the checkpoint, that is taken for such a renaming and nothing is said.

    Args:
        found: facts of the adapter by itself.
        weigh: read rows of the weights, for the norms.
    """
    if base is None:
        return {}
    shapes: dict[str, dict[str, StoredTensor]] = {}
    for name, tensor in tensors.items():
        parts = parse(name)
        if parts is not None and parts.part in ("lora_A", "lora_B"):
            shapes.setdefault(parts.module, {})[parts.part] = tensor
    absent = [module for module in shapes if f"{module}.weight" not in base.tensors]
    if not shapes or len(absent) > 0.1 * len(shapes):
        return {}
    known = {(each.tensor, *each.expected) for each in found.get("misfits") or []}
    misfits = [each for each in _misfits(shapes, base) if (each.tensor, *each.expected) not in known]
    absent = [*absent, *(each for each in found.get("modules_not_in_base") or [] if each not in absent)]
    facts: dict[str, Any] = {"modules_not_in_base": absent, "misfits": [*(found.get("misfits") or []), *misfits]}
    without_biases = found.get("bias") in ("all", "lora_only") and not any(name.endswith(".bias") for name in tensors)
    if without_biases and any(f"{module}.bias" in base.tensors for module in shapes):
        facts["parts_missing"] = [*(found.get("parts_missing") or []), "the biases"]
    if weigh and found.get("learned"):
        facts["learned"] = _weighed(found["learned"], base)
    return facts


def _misfits(shapes: Mapping[str, Mapping[str, StoredTensor]], base: Checkpoint) -> list[OtherShape]:
    found = []
    for module, parts in shapes.items():
        weight = base.tensors.get(f"{module}.weight")
        if (
            weight is None
            or weight.dtype not in FLOATS
            or len(weight.shape) != 2
            or not {"lora_A", "lora_B"} <= parts.keys()
        ):
            continue
        a, b = parts["lora_A"], parts["lora_B"]
        if len(a.shape) != 2 or len(b.shape) != 2:
            continue
        made = (b.shape[0], a.shape[1])
        if made not in (weight.shape, weight.shape[::-1]):  # Conv1D and embeddings are stored the other way round
            expected = [a.shape[0], weight.shape[1]] if made[1] != weight.shape[1] else [weight.shape[0], b.shape[1]]
            wrong = a if made[1] != weight.shape[1] else b
            found.append(OtherShape(tensor=wrong.name, stored=list(wrong.shape), expected=expected))
    return found


def _weighed(learned: Sequence[LearnedModule], base: Checkpoint) -> list[LearnedModule]:
    """The modules with the norm of ΔW over that of W."""
    arrays: dict[Any, Arrays] = {}
    weighed = []
    for each in learned:
        weight = base.tensors.get(f"{each.module}.weight")
        if weight is None or weight.dtype not in FLOATS or len(weight.shape) < 2:
            weighed.append(each)
            continue
        if weight.file not in arrays:
            arrays[weight.file] = Arrays(weight.file)
        norm = _norm(arrays[weight.file], weight)
        weighed.append(each.model_copy(update={"relative_norm": each.norm / norm if norm > 0 else None}))
    return weighed


def _norm(arrays: Arrays, weight: StoredTensor) -> float:
    """The Frobenius norm, from some rows."""
    import numpy as np

    rows = np.unique(np.linspace(0, weight.shape[0] - 1, min(weight.shape[0], _ROWS)).astype(int))
    picked = arrays.rows(weight, rows)
    return math.sqrt(float((picked.astype(np.float64) ** 2).sum()) * weight.shape[0] / len(rows))

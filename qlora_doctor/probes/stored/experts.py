"""The weights that an adapter of expert tensors (``target_parameters``) changes, in the form that the checkpoint has.

PEFT adapts a tensor of experts × out × in, or × in × out, with one pair of matrices whose rank is multiplied by the
number of experts (peft 0.21, tuners/lora/layer.py: ParamWrapper.get_delta_weight). Checkpoints hold such tensors whole,
or each expert's projections by themselves, which transformers joins as it loads them.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ..load.checkpoint import StoredTensor

_LAYER = re.compile(r"^.*?\.(?:layers|h|blocks)\.\d+\.")
_SINGLE = re.compile(r"\.experts\.(\d+)\.(\w+)\.weight$")
_JOINED = (
    ("gate_proj", "up_proj"),
    ("w1", "w3"),
    ("gate_proj",),
    ("up_proj",),
    ("down_proj",),
    ("w1",),
    ("w2",),
    ("w3",),
)
"""Projections of one expert that stand one below the other in the joined tensor."""


@dataclass(frozen=True)
class Experts:
    """One tensor of experts.

    Attributes:
        name: of the joined tensor, or of the projections.
        parts: of each expert the checkpoint's tensors, one below the other; of a joined tensor that one alone.
        joined: the experts are in one tensor.
        shape: experts, and the rows and columns of one.
    """

    name: str
    parts: tuple[tuple[str, ...], ...]
    joined: bool
    shape: tuple[int, int, int]


def experts_of(
    owner: str, tensors: Mapping[str, StoredTensor], shape_of: Callable[[str], tuple[int, ...]]
) -> Iterator[Experts]:
    """The tensors of experts of a module.

    Args:
        owner: the module, as the model has it in memory.
        tensors: of the checkpoint.
        shape_of: of a tensor by its name, for a packed one has another in the file.
    """
    for name, tensor in tensors.items():
        if name.startswith(f"{owner}.") and len(tensor.shape) == 3:
            yield Experts(name, ((name,),), True, (tensor.shape[0], tensor.shape[1], tensor.shape[2]))
    layer = _LAYER.match(owner)
    if layer is None:
        return
    single: dict[int, dict[str, str]] = defaultdict(dict)
    for name in tensors:
        match = _SINGLE.search(name) if name.startswith(layer[0]) else None
        if match is not None:
            single[int(match[1])][match[2]] = name
    for names in _JOINED:
        if single and all(set(names) <= held.keys() for held in single.values()):
            parts = tuple(tuple(single[expert][name] for name in names) for expert in sorted(single))
            shapes = [shape_of(name) for name in parts[0]]
            if all(len(shape) == 2 and shape[1] == shapes[0][1] for shape in shapes):
                rows = sum(shape[0] for shape in shapes)
                yield Experts(f"{owner}.{'_'.join(names)}", parts, False, (len(parts), rows, shapes[0][1]))


def change_of(a: Any, b: Any, expert: int, experts: int) -> Any:
    """ΔW of one expert without its scaling, out × in."""
    rank = a.shape[0] // experts
    return b.reshape(b.shape[0], rank, experts)[:, :, expert] @ a.reshape(experts, rank, a.shape[1])[expert]

"""Gates of the base that are exactly zero, and the trainable tensors that they keep from the loss.

Flamingo's kind of model (IDEFICS, Llama 3.2 Vision) adds what its cross-attention layers say of an image multiplied by
tanh of a number that begins as zero (Alayrac et al. 2022, arXiv:2204.14198). A trained checkpoint has it elsewhere; in
one that was never trained the whole branch, and the tower before it, gets gradients of exactly zero.
"""

from __future__ import annotations

import re
from collections.abc import Collection

import torch
from torch import nn

from ..tensors import local_part, modules_of, plain_name

_MULTIPLIES = re.compile(r"gate|alpha|scal|gamma|lambda|factor|multiplier|temp|^A$")
"""Names of what multiplies, Doge's A among them; what is added, such as a class token of zeros, closes nothing."""


def behind_closed_gates(model: nn.Module, zero: Collection[str], reached: Collection[str]) -> dict[str, str]:
    """The gate that keeps each of these tensors from the loss, by the tensor's name; tensors without one are left out.

    Args:
        zero: names of trainable tensors whose gradient is exactly zero.
        reached: names of those with another gradient.
    """
    if not zero:
        return {}
    gates = _closed_gates(model)
    found = {}
    for name in zero:
        holders = name.split(".")
        for end in range(len(holders) - 1, 0, -1):
            gate = gates.get(".".join(holders[:end]))
            if gate is not None:
                found[name] = gate
                break
    if found:  # what feeds the gated layers alone, such as a tower, is a stack of its own that nothing reaches
        first = next(iter(found.values()))
        stacks = {_stack(name) for name in reached}
        found |= {name: first for name in zero if name not in found and _stack(name) not in stacks}
    return found


def _stack(name: str) -> str:
    """The part of a name before the number of its layer."""
    return re.split(r"\.\d+\.", name, maxsplit=1)[0]


def _closed_gates(model: nn.Module) -> dict[str, str]:
    """A frozen number or vector that is zero, by the module whose parts it multiplies.

    The module that holds it, or the one above where it holds nothing else: a LayerScale, ZAYA's norm of the keys.
    """
    found = {}
    for name, module in modules_of(model):
        home = name if next(module.children(), None) is not None else name.rpartition(".")[0]
        for key, parameter in module.named_parameters(recurse=False):
            tensor = local_part(parameter.detach())
            is_gate = sum(size > 1 for size in parameter.shape) <= 1 and _MULTIPLIES.search(key)
            if not is_gate or parameter.requires_grad or tensor.is_meta or not tensor.numel():
                continue
            if tensor.is_floating_point() and not bool(torch.count_nonzero(tensor)):
                found[plain_name(home)] = plain_name(f"{name}.{key}")
    return found

"""Layers whose weight is read past their forward: by a fused kernel, which passes an adapter by, or as packed bytes."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable
from functools import cache
from typing import Any

from .inventory import Inventory
from .sizes import is_4bit

# The kernels that take a layer's weight instead of its output (mamba_ssm, causal_conv1d).
_KERNEL = re.compile(r"\b(?:mamba\w*_(?:inner_fn|split_conv1d_scan_combined)|causal_conv1d_(?:fn|update))\(")
# A weight that is handed on whole; `.weight.dtype` and its like only ask about it.
_READ = re.compile(r"self\.(\w+)\.weight(?!\.(?:dtype|device|shape|size|data_ptr|ndim|requires_grad))\b")
# A weight that is a factor of a product as it is.
_FACTOR = re.compile(r"\bself\.(\w+)\.weight(?:\.T)? @|@ self\.(\w+)\.weight\b")
# Jamba and Falcon-Mamba call the layer where the model is quantized, and read its weight elsewhere.
_PLAIN_BRANCH = re.compile(
    r"(?<=\n)( *)if hasattr\(self\.config, \"_is_quantized\"\):\n(?:\1 .*\n)+\1else:\n(?:\1 .*\n)+"
)


def bypassed_modules(seen: Inventory, names: Iterable[str] | None = None) -> list[str]:
    """Adapted layers whose weight their parent's forward hands to a fused kernel (Mamba's out_proj, conv1d, …).

    Which ones, the source of the parent's class says; where the kernels are not installed, the same layers run as
    modules.

    Args:
        names: layers to look at instead of the adapted ones.
    """
    wanted = [part.name for part in seen.parts if part.lora] if names is None else names
    found = []
    for full in wanted:
        home, _, name = full.rpartition(".")
        parent = seen.by_name.get(home)
        parent_class: Any = type(parent.module) if parent is not None else None
        if parent_class is None:
            continue
        module = seen.by_name[full].module if full in seen.by_name else None
        packed = is_4bit(getattr(module, "weight", None), module)
        if name in _weights_read(parent_class, packed):
            found.append(full)
    return found


@cache
def _weights_read(parent: Any, packed: bool) -> frozenset[str]:
    """Names of the layers whose weight a forward with a kernel in it takes.

    Args:
        packed: the layer is 4-bit; where the model asks ``_is_quantized``, only the branch for such layers counts.
    """
    found: set[str] = set()
    for method in (getattr(parent, "forward", None), getattr(parent, "cuda_kernels_forward", None)):
        try:
            source = inspect.getsource(method) if method is not None else ""
        except (OSError, TypeError):
            continue
        if packed:
            source = _PLAIN_BRANCH.sub("", source)
        if _KERNEL.search(source):
            found.update(_READ.findall(source))
    return frozenset(found)


def packed_factors(seen: Inventory) -> list[str]:
    """4-bit layers of which the model multiplies the weight itself (Mamba's dt_proj): packed bytes are no numbers."""
    found = []
    for linear in seen.layer_linears:
        home, _, name = linear.name.rpartition(".")
        parent = seen.by_name.get(home)
        parent_class: Any = type(parent.module) if parent is not None else None
        if linear.four_bit and name in _factors(parent_class):
            found.append(linear.name)
    return found


@cache
def _factors(parent: Any) -> frozenset[str]:
    """Names of the layers whose weight a class multiplies by, where the model is quantized."""
    try:
        source = _PLAIN_BRANCH.sub("", inspect.getsource(parent))
    except (OSError, TypeError):
        return frozenset()
    return frozenset(name for pair in _FACTOR.findall(source) for name in pair if name)

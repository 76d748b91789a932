"""Layers whose weight is read past their forward: by a fused kernel, which passes an adapter by, or as packed bytes."""

from __future__ import annotations

import importlib.util
import inspect
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
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
_CALL = re.compile(r"self\.(\w+)\(")
_METHOD = re.compile(r"\n    def ")
# Jamba and Falcon-Mamba call the layer where the model is quantized, and read its weight elsewhere.
_PLAIN_BRANCH = re.compile(
    r"(?<=\n)( *)if hasattr\(self\.config, \"_is_quantized\"\):\n(?:\1 .*\n)+\1else:\n(?:\1 .*\n)+"
)


def bypassed_modules(seen: Inventory, names: Iterable[str] | None = None) -> list[str]:
    """Adapted 16-bit layers whose weight their parent's forward takes past them (Mamba's out_proj, conv1d, ...).

    Which ones, the source of the parent's class says. A layer that is called as well is passed by where the fused
    kernel is installed; without it, it runs as a module.

    Args:
        names: layers to look at instead of the adapted ones.
    """
    wanted = _adapted(seen) if names is None else names
    return [full for full, reads in _read(seen, wanted, packed=False) if reads.passes_by]


def kernel_fed_adapters(seen: Inventory) -> list[str]:
    """Adapted 16-bit layers that a fused kernel would pass by where it is installed, which it is not here."""
    return [full for full, reads in _read(seen, _adapted(seen), packed=False) if reads.fed_elsewhere]


def kernel_fed_packed(seen: Inventory) -> list[str]:
    """4-bit layers whose packed weight a fused kernel would take where it is installed, which it is not here."""
    return [full for full, reads in _read(seen, _linears(seen), packed=True) if reads.fed_elsewhere]


def packed_factors(seen: Inventory) -> list[str]:
    """4-bit layers of which the model multiplies the weight (Mamba's dt_proj), or feeds it to a kernel that does."""
    return [full for full, reads in _read(seen, _linears(seen), packed=True) if reads.is_factor or reads.fed_here]


@dataclass(frozen=True)
class _OfLayer:
    """What a parent does with one layer's weight."""

    passes_by: bool
    fed_here: bool
    fed_elsewhere: bool
    is_factor: bool


@dataclass(frozen=True)
class Reads:
    """Names of a class's layers whose weight its methods read.

    Attributes:
        always: read beside a kernel, and the layer is never called.
        in_kernel: read for a kernel; the layer is called where there is none.
        factors: factors of a product as they are.
        kernel_runs: the kernels are installed here.
    """

    always: frozenset[str] = frozenset()
    in_kernel: frozenset[str] = frozenset()
    factors: frozenset[str] = frozenset()
    kernel_runs: bool = False


@cache
def reads(parent: Any, quantized: bool) -> Reads:
    """What a class reads of its layers.

    Args:
        quantized: the model is; where the class asks ``_is_quantized``, only the branch for such models counts.
    """
    try:
        whole = inspect.getsource(parent)
    except (OSError, TypeError):
        return Reads()
    if quantized:
        whole = _PLAIN_BRANCH.sub("", whole)
    called = set(_CALL.findall(whole))
    taken: set[str] = set()
    factors: set[str] = set()
    for method in _METHOD.split(whole):
        multiplied = {name for pair in _FACTOR.findall(method) for name in pair if name}
        if method.startswith(("forward(", "cuda_kernels_forward(")) and _KERNEL.search(method):
            taken.update(_READ.findall(method))
            multiplied -= called  # without the kernel these are layers (transformers 4)
        factors |= multiplied
    return Reads(frozenset(taken - called), frozenset(taken & called), frozenset(factors), _kernel_runs(parent))


def _kernel_runs(parent: Any) -> bool:
    """Whether the kernels are here: before transformers 5 a model says so itself."""
    told = getattr(sys.modules.get(parent.__module__), "is_fast_path_available", None)
    return bool(told) if told is not None else importlib.util.find_spec("mamba_ssm") is not None


def _read(seen: Inventory, names: Iterable[str], *, packed: bool) -> Iterator[tuple[str, _OfLayer]]:
    """What is done with the weights of these layers, as far as they are packed, or are not."""
    quantized = any(linear.four_bit for linear in seen.linears)
    for full in names:
        home, _, name = full.rpartition(".")
        parent = seen.by_name.get(home)
        if parent is None:
            continue
        kind: Any = type(parent.module)
        found = reads(kind, quantized)
        if name not in found.always | found.in_kernel | found.factors:
            continue
        module = seen.by_name[full].module if full in seen.by_name else None
        if is_4bit(getattr(module, "weight", None), module) != packed:
            continue
        fed = name in found.in_kernel
        yield (
            full,
            _OfLayer(
                passes_by=name in found.always or (fed and found.kernel_runs),
                fed_here=fed and found.kernel_runs,
                fed_elsewhere=fed and not found.kernel_runs,
                is_factor=name in found.factors,
            ),
        )


def _adapted(seen: Inventory) -> list[str]:
    return [part.name for part in seen.parts if part.lora]


def _linears(seen: Inventory) -> list[str]:
    return [linear.name for linear in seen.layer_linears]

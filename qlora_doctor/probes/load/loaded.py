"""What a loaded base is made of: classes, dtypes, devices, statistics, values that are no numbers."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import nn

from ...core.errors import StageError
from ...facts import Facts
from ...facts.load import ModuleClass
from ..tensors import (
    BaseTensor,
    base_tensors,
    is_readable,
    local_part,
    modules_of,
    own_class,
    plain_name,
    quant_state_of,
)


def loaded_facts(model: nn.Module) -> dict[str, Any]:
    """Fields of LoadFacts that the model itself shows, also a live one with an adapter on it."""
    devices: Counter[str] = Counter()
    dtypes: Counter[str] = Counter()
    tensors = base_tensors(model).values()
    for found in tensors:
        devices[str(found.tensor.device)] += found.nbytes
        dtypes[found.dtype] += found.nbytes
    named = list(four_bit_layers(model))
    layers = [module for _, module in named]
    nested = [module for module in layers if getattr(_state(module), "nested", False)]
    return {
        "devices": dict(devices),
        "bytes_by_dtype": dict(dtypes),
        "classes": _classes(tensors),
        "missing_quant_state": [name for name, module in named if _state(module) is None],
        "compute_dtypes": sorted({_dtype(m.compute_dtype) for m in layers if m.compute_dtype is not None}),
        "nested_ratio": len(nested) / len(layers) if layers else None,
    }


def four_bit_layers(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """bitsandbytes' 4-bit layers by plain name, also below an adapter."""
    for name, module in modules_of(model):
        is_4bit = any(cls.__name__ == "Linear4bit" for cls in type(module).__mro__)
        if is_4bit and not hasattr(module, "base_layer"):  # PEFT's own Linear4bit wraps the layer
            yield plain_name(name), module


def check_packed_shapes(model: nn.Module) -> None:
    """Hold every packed weight's shape against its layer's: quantizing takes any shape, and says nothing.

    Raises:
        StageError: kind ``wrong-shape``.
    """
    wrong = []
    for name, module in four_bit_layers(model):
        state = _state(module)
        if state is not None and tuple(state.shape) != (module.out_features, module.in_features):
            wrong.append((name, tuple(state.shape), (module.out_features, module.in_features)))
    if wrong:
        name, has, wants = wrong[0]
        others = f", and {len(wrong) - 1} more layers differ" if len(wrong) > 1 else ""
        raise StageError(
            f"{name}.weight is {_shape(has)} in the checkpoint and {_shape(wants)} by its config.json{others}.",
            kind="wrong-shape",
            remedy="Take config.json and weights from the same place.",
        )


def nonfinite_tensors(model: nn.Module) -> list[str]:
    """Parameters and quantization statistics of the base with NaN or infinite values, by name.

    A packed weight is bytes, whose patterns say nothing when they are read as a float that they are stored as: its
    statistics are looked at instead, for a NaN in the weight makes its block's absmax one. Of a sharded tensor it is
    the shard of this process that is looked at.
    """
    return nonfinite_among(
        {
            name: found.tensor
            for name, found in base_tensors(model).items()
            if found.kind in ("parameter", "statistics") and found.tensor.element_size() > 1
        }
    )


def nonfinite_among(tensors: Mapping[str, torch.Tensor]) -> list[str]:
    """Names of the floating-point tensors that hold NaN or inf, as far as they can be read.

    A NaN or inf anywhere makes the sum of a tensor no number; only such a tensor is then looked at closely. Sums of
    all tensors are asked for before the first is waited for, and fetched in one transfer for each device.
    """
    own = {name: local_part(tensor.detach()) for name, tensor in tensors.items() if tensor.is_floating_point()}
    own = {name: tensor for name, tensor in own.items() if tensor.numel() and is_readable(tensor)}
    groups: dict[torch.device, list[str]] = {}
    for name, tensor in own.items():
        groups.setdefault(tensor.device, []).append(name)
    doubtful: set[str] = set()
    for names in groups.values():
        sums = torch.stack([own[name].sum(dtype=torch.float32) for name in names]).tolist()
        doubtful.update(name for name, total in zip(names, sums, strict=True) if not math.isfinite(total))
    return [name for name in own if name in doubtful and has_nonfinite(own[name])]


def has_nonfinite(tensor: torch.Tensor) -> bool:
    """Whether a floating-point tensor holds NaN or inf, a piece at a time."""
    pieces = tensor.detach().reshape(-1).split(1 << 22)
    return any(not bool(torch.isfinite(piece).all()) for piece in pieces)


def tensor_bytes(model: nn.Module) -> int:
    """Bytes of all tensors of the base."""
    return sum(found.nbytes for found in base_tensors(model).values())


def differences(model: nn.Module, facts: Facts) -> list[str]:
    """Where the loaded base is not what structure predicted, one sentence each."""
    predicted = facts.quantization
    if predicted is None:
        return []
    found: list[str] = []
    from ..structure.inventory import Inventory  # structure reads the headers of files through this package

    seen = Inventory(model)
    heads = {part.name for part in seen.heads}
    layers = [(name, module) for name, module in four_bit_layers(model) if name not in heads]
    held = sorted(part.name for part in seen.task_heads if _state(part.module) is not None)
    if predicted.heads_quantized is not None and sorted(predicted.heads_quantized) != held:
        found.append(f"4-bit heads are {_listed(held)}; {_listed(predicted.heads_quantized)} were expected.")
    if predicted.quantized_modules is not None and predicted.quantized_modules != len(layers):
        found.append(f"{len(layers)} layers are 4-bit; {predicted.quantized_modules} were expected.")
    elements = sum(math.prod(state.shape) for _, m in layers if (state := _state(m)) is not None)
    if predicted.quantized_parameters is not None and predicted.quantized_parameters != elements:
        found.append(f"{elements:,} parameters are 4-bit; {predicted.quantized_parameters:,} were expected.")
    bytes_now = tensor_bytes(model)
    if predicted.base_bytes is not None and abs(bytes_now - predicted.base_bytes) > 0.01 * predicted.base_bytes:
        found.append(f"The base takes {bytes_now:,} bytes; {predicted.base_bytes:,} were expected.")
    for label, value, expected in (
        ("quantization type", {s.quant_type for _, m in layers if (s := _state(m))}, predicted.quant_type),
        ("compute dtype", {_dtype(m.compute_dtype) for _, m in layers if m.compute_dtype}, predicted.compute_dtype),
    ):
        if expected is not None and value and value != {expected}:
            found.append(f"The {label} is {', '.join(sorted(map(str, value)))}; {expected} was expected.")
    return found


def _listed(names: list[str]) -> str:
    return ", ".join(names) or "none"


def _classes(tensors: Iterable[BaseTensor]) -> list[ModuleClass]:
    """Modules that hold weights, grouped by class and quantization, largest group first."""
    groups: dict[tuple[Any, ...], list[int]] = {}
    counted: set[int] = set()
    owners: dict[int, list[Any]] = {}
    for found in tensors:
        if found.kind in ("parameter", "packed"):
            owners.setdefault(id(found.owner), [found.owner]).append(found)
    for module, *tensors in owners.values():
        if id(module) in counted:
            continue
        counted.add(id(module))
        state = _state(module)
        weight = tensors[0].tensor
        four_bit = state is not None
        key = (
            own_class(module),
            getattr(state, "quant_type", None),
            _dtype(weight.dtype),
            _dtype(module.compute_dtype) if four_bit and getattr(module, "compute_dtype", None) else None,
            bool(state.nested) if four_bit else None,
        )
        count = groups.setdefault(key, [0, 0])
        count[0] += 1
        count[1] += sum(found.elements for found in tensors)
    classes = [
        ModuleClass(
            module_class=name,
            modules=modules,
            parameters=parameters,
            quant_type=quant_type,
            storage_dtype=storage,
            compute_dtype=compute,
            nested=nested,
        )
        for (name, quant_type, storage, compute, nested), (modules, parameters) in groups.items()
    ]
    return sorted(classes, key=lambda entry: -entry.parameters)


def _state(module: Any) -> Any:
    return quant_state_of(getattr(module, "weight", None), module)


def _shape(shape: tuple[int, ...]) -> str:
    return " × ".join(map(str, shape))


def _dtype(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")

"""Facts about what is 4-bit and what is not."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch

from ...facts.quantization import LinearLeftOut, QuantizationFacts
from ..tensors import is_packed, own_class, quant_state_of
from .bypass import kernel_fed_packed, packed_factors
from .inventory import Inventory, Linear
from .naming import with_wildcards
from .sizes import BLOCK, dtype_name, elements, expected_bits, ideal_bytes, is_4bit, statistics
from .skipping import Skipping


def quantization_facts(
    model: Any,
    *,
    fresh_heads: list[str] | None = None,
    dtype_known: bool = True,
    inventory: Inventory | None = None,
) -> QuantizationFacts:
    """Coverage by 4-bit of a model on any device, with or without adapters.

    Args:
        fresh_heads: names of task heads that no checkpoint holds; None where that is unknown.
        dtype_known: False where the dtype of the weights is a guess; bytes are then left unknown.
    """
    seen = inventory or Inventory(model)
    settings = _settings(seen.base)
    skipping = Skipping(seen, settings)
    four_bit = [linear for linear in seen.layer_linears if linear.four_bit]
    quantizable = sum(linear.parameters for linear in seen.layer_linears)
    stacked = sum(weight.parameter.numel() for weight in seen.experts)
    raw = sum(weight.parameter.numel() for weight in seen.raw_weights)
    quantizable += stacked + raw
    quantized = sum(linear.parameters for linear in four_bit)
    asked = bool(getattr(settings, "load_in_4bit", False))
    return QuantizationFacts(
        enabled=bool(four_bit),
        quantized_parameters=quantized,
        quantizable_parameters=quantizable,
        coverage_ratio=quantized / quantizable if quantizable else None,
        quantized_modules=len(four_bit),
        quantizable_modules=len(seen.layer_linears),
        left_out=_left_out(seen, skipping) if asked or four_bit else None,
        expert_parameters_left_out=stacked,
        raw_parameters_left_out=raw,
        skip_entries=skipping.entries,
        skip_without_match=skipping.without_match,
        skip_overmatch=skipping.overmatch,
        head_quantized=None if seen.head is None else _is_4bit_layer(seen.head.module),
        classifier_quantized=_quantized_heads(seen, fresh_heads),
        heads_quantized=[part.name for part in seen.task_heads if _is_4bit_layer(part.module)],
        packed_factors=packed_factors(seen),
        kernel_fed_packed=kernel_fed_packed(seen),
        routers_quantized=[
            part.name for part in seen.routers if is_4bit(part.module._parameters.get("weight"), part.module)
        ],
        uneven_modules=[linear.name for linear in four_bit if linear.parameters % _block(linear)],
        float32_experts_bytes=float32_experts_bytes(seen),
        **_settings_seen(four_bit, settings, asked),
        bits_per_parameter=_bits(four_bit),
        **(_bytes(seen, four_bit, settings) if dtype_known and not _awaits_8bit(seen) else {}),
    )


def float32_experts_bytes(seen: Inventory) -> int:
    """Bytes of 3-D experts that are held in float32."""
    return sum(weight.parameter.numel() * 4 for weight in seen.experts if weight.parameter.dtype == torch.float32)


def _is_4bit_layer(module: Any) -> bool:
    """By the weight, or by the class: a tied head that was converted is a 4-bit layer over a 16-bit weight."""
    return is_4bit(getattr(module, "weight", None), module) or own_class(module) == "Linear4bit"


def _settings(base: Any) -> Any | None:
    """The BitsAndBytesConfig that the model was loaded with."""
    quantizer = getattr(base, "hf_quantizer", None)
    settings = getattr(quantizer, "quantization_config", None)
    return settings or getattr(getattr(base, "config", None), "quantization_config", None)


def _left_out(seen: Inventory, skipping: Skipping) -> list[LinearLeftOut]:
    """Linear layers that are not 4-bit and weights that are no layers; one kind, class and reason together."""
    groups: dict[tuple[str, str, str], list[int]] = {}
    for linear in seen.layer_linears:
        if not linear.four_bit:
            key = (with_wildcards(linear.name), own_class(linear.part.module), skipping.reason(linear))
            groups.setdefault(key, []).append(linear.parameters)
    for weight in seen.raw_weights:
        owner = seen.by_name[weight.name.rpartition(".")[0]].module
        key = (with_wildcards(weight.name), type(owner).__name__, "raw-parameter")
        groups.setdefault(key, []).append(weight.parameter.numel())
    return [
        LinearLeftOut(name=name, module_class=cls, modules=len(counts), parameters=sum(counts), reason=reason)
        for (name, cls, reason), counts in groups.items()
    ]


def _quantized_heads(seen: Inventory, fresh: list[str] | None) -> list[str] | None:
    quantized = [part.name for part in seen.heads if is_4bit(getattr(part.module, "weight", None), part.module)]
    if not quantized:
        return []
    return None if fresh is None else [name for name in quantized if name in fresh]


def _settings_seen(four_bit: list[Linear], settings: Any, asked: bool) -> dict[str, Any]:
    """Type, nesting and dtypes: of most of the layers, or as asked for where there is no 4-bit layer at all."""
    if four_bit:
        kinds = Counter(
            (
                _said(linear, "quant_type"),
                bool(_nested(linear)),
                getattr(linear.part.module, "compute_dtype", None),
                getattr(linear.weight, "quant_storage", linear.weight.dtype),
            )
            for linear in four_bit
        )
        quant_type, double_quant, compute, storage = kinds.most_common(1)[0][0]
    elif asked:
        quant_type, double_quant = settings.bnb_4bit_quant_type, settings.bnb_4bit_use_double_quant
        compute, storage = settings.bnb_4bit_compute_dtype, settings.bnb_4bit_quant_storage
    else:
        return {}
    return {
        "quant_type": quant_type,
        "double_quant": double_quant,
        "compute_dtype": dtype_name(compute),
        "storage_dtype": dtype_name(storage),
        "expected_bits_per_parameter": expected_bits(double_quant),
    }


def _state(linear: Linear) -> Any | None:
    return quant_state_of(linear.weight, linear.part.module)


def _nested(linear: Linear) -> bool:
    state = _state(linear)
    if state is None:
        return bool(linear.weight.compress_statistics)
    return getattr(state, "state2", None) is not None  # a forward in evaluation mode on a CPU takes it away


def _said(linear: Linear, name: str) -> Any:
    """What the weight says of itself, or its state: a sharded weight has become a plain tensor."""
    return getattr(linear.weight, name, None) or getattr(_state(linear), name, None)


def _block(linear: Linear) -> int:
    return int(_said(linear, "blocksize") or BLOCK)


def _bits(four_bit: list[Linear]) -> float | None:
    """True bits for each weight; a code table that layers share counts once."""
    count = sum(linear.parameters for linear in four_bit)
    if not count or any(_state(linear) is None for linear in four_bit):
        return None
    held = [(linear.weight, *statistics(linear.weight, linear.part.module)) for linear in four_bit]
    tensors = {id(tensor): tensor for each in held for tensor in each}
    return 8 * sum(_nbytes(tensor) for tensor in tensors.values()) / count


def _awaits_8bit(seen: Inventory) -> bool:
    """Whether 8-bit layers still hold floats, as they do on meta; what they will take is then not to be read off."""
    return any(
        type(linear.weight).__name__ == "Int8Params" and linear.weight.is_floating_point() for linear in seen.linears
    )


def _bytes(seen: Inventory, four_bit: list[Linear], settings: Any) -> dict[str, Any]:
    tensors: dict[int, tuple[str | None, int]] = {}
    upcast = 0
    for _, parameter, module in seen.parameters():
        packed = is_packed(parameter, module)  # bytes, whatever dtype they are stored as
        tensors[id(parameter)] = ("uint8" if packed else dtype_name(parameter.dtype)), _nbytes(parameter)
        if is_4bit(parameter, module):
            tensors.update((id(t), (dtype_name(t.dtype), _nbytes(t))) for t in statistics(parameter, module))
        elif parameter.dtype in (torch.float16, torch.bfloat16):
            upcast += parameter.numel() * 2
    tensors.update((id(buffer), (dtype_name(buffer.dtype), _nbytes(buffer))) for _, buffer in seen.buffers())
    by_dtype: Counter[str] = Counter()
    for dtype, size in tensors.values():
        by_dtype[dtype or ""] += size
    total = sum(by_dtype.values())
    double_quant = _nested(four_bit[0]) if four_bit else getattr(settings, "bnb_4bit_use_double_quant", True)
    outside = [(linear.weight, linear.parameters) for linear in seen.layer_linears if not linear.four_bit]
    outside += [(weight.parameter, elements(weight.parameter)) for weight in (*seen.experts, *seen.raw_weights)]
    saved = sum(_nbytes(tensor) - ideal_bytes(count, bool(double_quant)) for tensor, count in outside)
    return {
        "base_bytes": total,
        "base_bytes_ideal": total - saved,
        "bytes_by_dtype": dict(by_dtype),
        "kbit_upcast_bytes": upcast,
        "kbit_upcast_ratio": upcast / total if total else None,
    }


def _nbytes(tensor: torch.Tensor) -> int:
    return int(tensor.numel() * tensor.element_size())

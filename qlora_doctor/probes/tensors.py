"""Which tensors a model holds: base or adapter, by the names that the base itself gives them.

PEFT's wrapping is taken out of the names: ``base_model.model.model.layers.0.self_attn.q_proj.base_layer.weight`` is
``model.layers.0.self_attn.q_proj.weight``, and its nested statistics are ``….weight.state2.absmax``.

A packed weight is bytes whatever dtype it is stored as (``bnb_4bit_quant_storage``): only its statistics are numbers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

Kind = Literal["parameter", "packed", "statistics", "buffer", "transient"]
_PLAIN_TENSORS = (torch.Tensor, nn.Parameter)
_NUMBERS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
_WRAPPERS = ("base_layer", "original_module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")


@dataclass(frozen=True)
class BaseTensor:
    """One tensor of the base.

    Attributes:
        tensor: what this process holds of it: of a DTensor the local shard.
        kind: ``parameter``; ``packed``: the bytes of a quantized weight, which are no numbers; ``statistics`` of a
            quantized weight (absmax, code, offset, nested ones); ``buffer``; ``transient``: a buffer that no checkpoint
            holds, which a model may recompute (rotary frequencies).
        owner: the module that holds it.
        elements: weights that the whole tensor stands for, over all ranks, packed ones unpacked.
    """

    name: str
    tensor: torch.Tensor
    kind: Kind
    owner: nn.Module
    elements: int = 0

    @property
    def nbytes(self) -> int:
        """Bytes that this process holds."""
        return int(self.tensor.numel() * self.tensor.element_size())

    @property
    def dtype(self) -> str:
        """Name of the dtype; that of packed bytes is ``uint8``, whatever they are stored as."""
        return "uint8" if self.kind == "packed" else str(self.tensor.dtype).removeprefix("torch.")


def base_tensors(model: nn.Module) -> dict[str, BaseTensor]:
    """Every tensor of the base, each once, by name: parameters, quantization statistics, buffers.

    What an adapter brought (LoRA matrices, copies of modules_to_save) is left out.
    """
    known = _listed[-1] if _listed and _listed[-1].model is model else None
    if known is not None and known.tensors is not None:
        return known.tensors
    found: dict[str, BaseTensor] = {}
    seen: set[int] = set()
    for tensor in _walk(model):
        if id(tensor.tensor) not in seen:
            seen.add(id(tensor.tensor))
            found.setdefault(tensor.name, tensor)
    if known is not None:
        known.tensors = found
    return found


def trainable_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Parameters that require a gradient, by name, each once."""
    return {plain_name(name): p for name, p in parameters_of(model) if p.requires_grad}


def modules_of(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """What ``named_modules`` gives, in its order, without a generator inside a generator for every level.

    A 7B with an adapter on every layer has 4,000 modules nine levels deep: looked at as often as a watched step wants
    it, that is most of what watching costs.
    """
    if _listed and _listed[-1].model is model:
        return _listed[-1].modules
    found: list[tuple[str, nn.Module]] = []
    seen: set[int] = set()
    waiting: list[tuple[str, nn.Module]] = [("", model)]
    while waiting:
        prefix, module = waiting.pop()
        if id(module) in seen:
            continue
        seen.add(id(module))
        found.append((prefix, module))
        path = f"{prefix}." if prefix else ""
        waiting += [(path + name, child) for name, child in reversed(module._modules.items()) if child is not None]
    return found


def every_module(model: nn.Module) -> list[nn.Module]:
    """What ``model.modules()`` gives, in its order: see ``modules_of``."""
    return [module for _, module in modules_of(model)]


@dataclass
class _Listed:
    model: nn.Module
    modules: list[tuple[str, nn.Module]]
    tensors: dict[str, BaseTensor] | None = None


_listed: list[_Listed] = []


@contextmanager
def listed(model: nn.Module) -> Iterator[None]:
    """Within the block modules and base tensors of this model are looked up once: none may be put in or taken out."""
    same = bool(_listed) and _listed[-1].model is model
    _listed.append(_listed[-1] if same else _Listed(model, modules_of(model)))
    try:
        yield
    finally:
        _listed.pop()


def parameters_of(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """What ``named_parameters`` gives, in its order: each parameter once."""
    seen: set[int] = set()
    for prefix, module in modules_of(model):
        for name, parameter in module._parameters.items():
            if parameter is not None and id(parameter) not in seen:
                seen.add(id(parameter))
                yield f"{prefix}.{name}" if prefix else name, parameter


def quant_state_of(parameter: Any, owner: Any = None) -> Any | None:
    """bitsandbytes' state of a 4-bit weight; None where the weight has none.

    Sharding makes plain tensors of the weights; their layer keeps the state, and its forward takes it from there
    (``fix_4bit_weight_quant_state_from_module`` in bitsandbytes/nn/modules.py).
    """
    state = getattr(parameter, "quant_state", None)
    if state is not None or parameter is None:
        return state
    shape = tuple(getattr(parameter, "shape", ()))
    is_bytes = getattr(owner, "weight", None) is parameter and len(shape) == 2 and shape[1] == 1
    return getattr(owner, "quant_state", None) if is_bytes else None


def is_packed(parameter: Any, owner: Any = None) -> bool:
    """Whether this is a quantized weight of bitsandbytes whose elements are bytes, and not numbers."""
    if quant_state_of(parameter, owner) is not None:
        return True
    name = type(parameter).__name__
    return (name == "Params4bit" and bool(getattr(parameter, "bnb_quantized", False))) or (
        name == "Int8Params" and not parameter.is_floating_point()
    )


def local_part(tensor: torch.Tensor) -> torch.Tensor:
    """What this process holds of a DTensor; any other tensor is itself. No other rank is asked."""
    local = getattr(tensor, "_local_tensor", None) if type(tensor).__name__ == "DTensor" else None
    return tensor if local is None else local


def is_readable(tensor: torch.Tensor) -> bool:
    """Whether all bytes of a tensor lie where it says that they do.

    Not on the meta device, not in a subclass that keeps its data in other tensors, and not where the storage was freed
    beneath it, as sharding does with parameters that it will gather again.
    """
    if tensor.is_meta or tensor.layout is not torch.strided:
        return False
    if type(tensor) not in _PLAIN_TENSORS and hasattr(tensor, "__tensor_flatten__"):
        return False
    try:
        held = tensor.untyped_storage().nbytes()
    except (RuntimeError, NotImplementedError):
        return False
    if tensor.is_contiguous():
        last = tensor.numel() - 1
    else:
        last = sum((size - 1) * step for size, step in zip(tensor.shape, tensor.stride(), strict=True))
    needed = (tensor.storage_offset() + last + 1) * tensor.element_size()
    return tensor.numel() == 0 or bool(needed <= held)


def zero_tensors(tensors: Mapping[str, torch.Tensor]) -> set[str]:
    """Names of tensors that hold nothing but zeros; a few launches and one wait for the device in all."""
    alike: dict[tuple[torch.device, torch.dtype], list[tuple[str, torch.Tensor]]] = {}
    for name, tensor in tensors.items():
        own = local_part(tensor)
        if own.device.type != "meta" and own.numel():
            alike.setdefault((own.device, own.dtype), []).append((name, own))
    zero: set[str] = set()
    for (_, dtype), group in alike.items():
        every = [tensor for _, tensor in group]
        # The largest magnitude: NaN where there is one, and exact.
        sizes = torch._foreach_norm(every, math.inf) if dtype in _NUMBERS else [_count(t) for t in every]
        read = torch.stack(list(sizes)).tolist()
        zero.update(name for (name, _), size in zip(group, read, strict=True) if size == 0)
    return zero


def _count(tensor: torch.Tensor) -> torch.Tensor:
    """Elements that are not zero; of an 8-bit float torch counts none."""
    return torch.count_nonzero(tensor.float() if tensor.is_floating_point() else tensor)


def plain_name(name: str) -> str:
    """A name without what PEFT, torch.compile and wrappers of parallel training put in."""
    for prefix in ("module.", "_orig_mod."):
        name = name.removeprefix(prefix)
    name = name.removeprefix("base_model.model.")
    parts = name.split(".")
    # PEFT nests a wrapper in a wrapper where several parameters of a module are adapted: there are two lora_B then.
    brought = next((at for at, part in enumerate(parts) if part.startswith("lora_")), 0)
    return ".".join(
        part for at, part in enumerate(parts) if part not in _WRAPPERS or (part == "base_layer" and at < brought)
    )


def layer_and_projection(name: str) -> tuple[int | None, str]:
    """``model.layers.3.self_attn.q_proj.lora_A.default.weight`` → ``(3, "self_attn.q_proj")``.

    The layer is None for what stands outside the layers; the projection is then the whole name of the module.
    """
    parts = name.split(".")
    for end, part in enumerate(parts):
        if part.startswith(("lora_", "modules_to_save", "trainable_tokens_")):
            parts = parts[:end]
            break
    else:
        parts = parts[:-1]
    for position, part in enumerate(parts):
        if part.isdecimal():
            return int(part), ".".join(parts[position + 1 :])
    return None, ".".join(parts)


def own_class(module: nn.Module) -> str:
    """Name of a module's class as it was written: FSDP 2 puts a subclass of its own before it."""
    cls: Any = type(module)
    if any(base.__name__ == "FSDPModule" for base in cls.__mro__) and cls.__name__.startswith("FSDP"):
        cls = next((base for base in cls.__mro__[1:] if not base.__name__.startswith("FSDP")), cls)
    return str(cls.__name__)


def decoder_layers(model: nn.Module) -> list[nn.Module]:
    """The model's layers: the longest list of modules of one class; ``[]`` where there is none."""
    best: list[nn.Module] = []
    for module in every_module(model):
        if isinstance(module, nn.ModuleList) and len(module) > len(best):
            # Lists inside the layers (experts) are longer at times: the outermost list that is found first wins a tie,
            # and a list whose members lie inside those of the best so far is no list of layers.
            inside = any(module is inner for layer in best for inner in layer.modules())
            if not inside:
                best = list(module)
    return best


def layer_names(model: nn.Module, layers: list[nn.Module]) -> list[str]:
    """Plain names of some of a model's layers."""
    wanted = {id(layer): place for place, layer in enumerate(layers)}
    names = [""] * len(layers)
    for name, module in modules_of(model):
        if id(module) in wanted:
            names[wanted[id(module)]] = plain_name(name)
    return names


def _walk(model: nn.Module) -> Iterator[BaseTensor]:
    adapter_owned = _adapter_modules(model)
    for prefix, module in modules_of(model):
        if id(module) in adapter_owned:
            continue
        path = f"{prefix}." if prefix else ""
        brought = {*_own(module, "adapter_layer_names"), *_own(module, "other_param_names")}
        for name, parameter in module._parameters.items():
            if parameter is None or name in brought:
                continue
            full = plain_name(path + name)
            state = quant_state_of(parameter, module)
            count = parameter.numel() if state is None else math.prod(state.shape)
            for part, tensor in _held(parameter):
                packed = is_packed(parameter, module) or bool(part)
                yield BaseTensor(full + part, tensor, "packed" if packed else "parameter", module, count)
            for statistic, tensor in _statistics(module, parameter):
                yield BaseTensor(f"{full}.{statistic}", tensor, "statistics", module, tensor.numel())
        for name, buffer in module._buffers.items():
            if buffer is not None and name not in brought:
                kind: Kind = "transient" if name in module._non_persistent_buffers_set else "buffer"
                yield BaseTensor(plain_name(path + name), local_part(buffer), kind, module, buffer.numel())


def _held(parameter: torch.Tensor) -> list[tuple[str, torch.Tensor]]:
    """The tensors that hold a parameter's data here, with what names them beyond the parameter's own name.

    One, as a rule; a subclass that wraps others (torchao's quantized weights) tells them by ``__tensor_flatten__``.
    """
    local = local_part(parameter)
    flatten = getattr(local, "__tensor_flatten__", None)
    if flatten is None:
        return [("", local)]
    return [(f".{name}", local_part(getattr(local, name))) for name in flatten()[0]]


def _adapter_modules(model: nn.Module) -> set[int]:
    """Modules below a PEFT layer that PEFT brought, known by the layer's own ``adapter_layer_names``."""
    owned: set[int] = set()
    seen: set[int] = set()
    waiting = [(model, False)]
    while waiting:
        module, brought = waiting.pop()
        if id(module) in (owned if brought else seen):
            continue
        (owned if brought else seen).add(id(module))
        names = () if brought else (*_own(module, "adapter_layer_names"), *_own(module, "other_param_names"))
        for name, child in module._modules.items():
            if child is not None:
                waiting.append((child, brought or name in names))
    return owned


def _own(module: nn.Module, name: str) -> tuple[str, ...]:
    """An attribute of PEFT's layers; asking a module that lacks it would walk through torch's ``__getattr__``."""
    found = module.__dict__.get(name)
    return tuple(found if found is not None else getattr(type(module), name, ()))


def _statistics(module: nn.Module, parameter: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """Tensors of a bitsandbytes weight's quantization state."""
    state = quant_state_of(parameter, module)
    if state is not None:
        yield from _state_tensors(state, "")
    # An 8-bit layer's first forward hands its scales on to its own state (Linear8bitLt.init_8bit_state);
    # CB is the weight itself.
    for name in ("SCB", "CB"):
        value = getattr(parameter, name, None)
        value = getattr(getattr(module, "state", None), name, None) if value is None else value
        if isinstance(value, torch.Tensor) and value is not parameter and value.data_ptr() != parameter.data_ptr():
            yield name, value


def _state_tensors(state: Any, prefix: str) -> Iterator[tuple[str, torch.Tensor]]:
    for name in ("absmax", "code", "offset"):
        value = getattr(state, name, None)
        if isinstance(value, torch.Tensor):
            yield prefix + name, value
    nested = getattr(state, "state2", None)
    if nested is not None:
        yield from _state_tensors(nested, f"{prefix}state2.")


def adapter_of(name: str, adapters: Mapping[str, Any]) -> str | None:
    """The adapter that a parameter belongs to by its name; None for one of the base.

    It is looked for from the end: an adapter may be called as a layer's number is.
    """
    if "lora_" not in name and "modules_to_save" not in name and "trainable_tokens" not in name:
        return None
    return next((part for part in reversed(name.split(".")) if part in adapters), None)

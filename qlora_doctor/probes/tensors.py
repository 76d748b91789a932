"""Which tensors a model holds: base or adapter, by the names that the base itself gives them.

PEFT's wrapping is taken out of the names: ``base_model.model.model.layers.0.self_attn.q_proj.base_layer.weight`` is
``model.layers.0.self_attn.q_proj.weight``, and its nested statistics are ``….weight.state2.absmax``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

Kind = Literal["parameter", "statistics", "buffer", "transient"]
_WRAPPERS = ("base_layer", "original_module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")


@dataclass(frozen=True)
class BaseTensor:
    """One tensor of the base.

    Attributes:
        kind: ``parameter``; ``statistics`` of a quantized weight (absmax, code, offset, nested ones); ``buffer``;
            ``transient``: a buffer that no checkpoint holds, which a model may recompute (rotary frequencies).
        owner: the module that holds it.
    """

    name: str
    tensor: torch.Tensor
    kind: Kind
    owner: nn.Module


def base_tensors(model: nn.Module) -> dict[str, BaseTensor]:
    """Every tensor of the base, each once, by name: parameters, quantization statistics, buffers.

    What an adapter brought (LoRA matrices, copies of modules_to_save) is left out.
    """
    found: dict[str, BaseTensor] = {}
    seen: set[int] = set()
    for tensor in _walk(model):
        if id(tensor.tensor) not in seen:
            seen.add(id(tensor.tensor))
            found.setdefault(tensor.name, tensor)
    return found


def trainable_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Parameters that require a gradient, by name, each once."""
    return {plain_name(name): p for name, p in model.named_parameters() if p.requires_grad}


def plain_name(name: str) -> str:
    """A name without what PEFT, torch.compile and wrappers of parallel training put in."""
    for prefix in ("module.", "_orig_mod."):
        name = name.removeprefix(prefix)
    name = name.removeprefix("base_model.model.")
    parts = name.split(".")
    # PEFT nests a wrapper in a wrapper where several parameters of a module are adapted: there are two lora_B then.
    brought = next((at for at, part in enumerate(parts) if part.startswith("lora_")), None)
    kept = {"base_layer"} if brought is not None else set()
    return ".".join(part for at, part in enumerate(parts) if part not in _WRAPPERS or (part in kept and at < brought))


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


def decoder_layers(model: nn.Module) -> list[nn.Module]:
    """The model's layers: the longest list of modules of one class; ``[]`` where there is none."""
    best: list[nn.Module] = []
    for module in model.modules():
        if isinstance(module, nn.ModuleList) and len(module) > len(best):
            # Lists inside the layers (experts) are longer at times: the outermost list that is found first wins a tie,
            # and a list whose members lie inside those of the best so far is no list of layers.
            inside = any(module is inner for layer in best for inner in layer.modules())
            if not inside:
                best = list(module)
    return best


def _walk(model: nn.Module) -> Iterator[BaseTensor]:
    adapter_owned = _adapter_modules(model)
    for prefix, module in model.named_modules():
        if id(module) in adapter_owned:
            continue
        path = f"{prefix}." if prefix else ""
        brought = set(getattr(module, "adapter_layer_names", ())) | set(getattr(module, "other_param_names", ()))
        for name, parameter in module._parameters.items():
            if parameter is None or name in brought:
                continue
            full = plain_name(path + name)
            yield BaseTensor(full, parameter, "parameter", module)
            for statistic, tensor in _statistics(module, parameter):
                yield BaseTensor(f"{full}.{statistic}", tensor, "statistics", module)
        for name, buffer in module._buffers.items():
            if buffer is not None and name not in brought:
                kind: Kind = "transient" if name in module._non_persistent_buffers_set else "buffer"
                yield BaseTensor(plain_name(path + name), buffer, kind, module)


def _adapter_modules(model: nn.Module) -> set[int]:
    """Modules below a PEFT layer that PEFT brought, known by the layer's own ``adapter_layer_names``."""
    owned: set[int] = set()
    for module in model.modules():
        names = getattr(module, "adapter_layer_names", None)
        if not names:
            continue
        for name in (*names, *getattr(module, "other_param_names", ())):
            child = module._modules.get(name)
            if child is not None:
                owned.update(id(inner) for inner in child.modules())
    return owned


def _statistics(module: nn.Module, parameter: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """Tensors of a bitsandbytes weight's quantization state."""
    state = getattr(parameter, "quant_state", None)
    if state is not None:
        yield from _state_tensors(state, "")
    for name in ("SCB", "CB"):  # 8-bit weights; CB is the weight itself until its first use
        value = getattr(parameter, name, None)
        if isinstance(value, torch.Tensor) and value.data_ptr() != parameter.data_ptr():
            yield name, value


def _state_tensors(state: Any, prefix: str) -> Iterator[tuple[str, torch.Tensor]]:
    for name in ("absmax", "code", "offset"):
        value = getattr(state, name, None)
        if isinstance(value, torch.Tensor):
            yield prefix + name, value
    nested = getattr(state, "state2", None)
    if nested is not None:
        yield from _state_tensors(nested, f"{prefix}state2.")

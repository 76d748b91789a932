"""What loading a base in 4-bit, preparing it and attaching an adapter do to the allocator, in order.

Nothing is traced here: the model exists on the meta device already, and each parameter's history follows from its
kind. It matters beyond the bytes that stay, because a block cut out of a freed 16-bit weight is cut to size while one
that gets a fresh segment keeps up to 1 MiB that is not split off.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from .tape import Tape
from .trace import Recorder

CODE_8BIT = 1024
"""Bytes of the dynamic 8-bit type's 256 float32 values, kept once per device (``create_dynamic_map``)."""


@dataclass(frozen=True)
class LoadOptions:
    """How the base came to the card.

    Attributes
    ----------
    dtype: the type the weights are loaded in, before quantization.
    prepared: whether prepare_model_for_kbit_training turned what is not 4-bit to float32.
    warm_up: whether transformers' from_pretrained took one large block first (``caching_allocator_warmup``); otherwise
        weights come and are quantized one by one.
    """

    dtype: torch.dtype = torch.bfloat16
    prepared: bool = True
    warm_up: bool = False


def write_load(recorder: Recorder, model: Any, options: LoadOptions) -> None:
    """Write phases ``load``, ``prepare`` and ``adapter``; parameters of ``model`` are counted as live afterwards."""
    tape = recorder.tape
    base, adapter = _split(model)
    tape.phase("load")
    halves: dict[int, int] = {}
    back: dict[int, torch.Tensor] = {}
    recorder.category = None
    if options.warm_up:
        base = _in_checkpoint_order(model, base)
        whole = sum(_warm_up_bytes(tensor, options) for tensor in base)
        tape.free(tape.alloc(whole, "base_16bit"))
    tape.alloc(CODE_8BIT, "quantization_statistics")
    for tensor in base:
        if _is_4bit(tensor):
            _quantize(recorder, tensor, options.dtype)
        elif _was_cast(tensor, options):
            halves[id(tensor)] = tape.alloc(tensor.numel() * options.dtype.itemsize, "base_16bit")
        elif _went_back(tensor, options):
            halves[id(tensor)] = tape.alloc(tensor.numel() * tensor.element_size(), "base_16bit")
            back[id(tensor)] = tensor
        else:
            recorder.adopt(tensor, "base_32bit" if tensor.dtype is torch.float32 else "base_16bit")
    tape.phase("prepare")
    singles = {}
    for tensor in base:
        if id(tensor) in halves:
            if id(tensor) in back:
                singles[id(tensor)] = tape.alloc(4 * tensor.numel(), "base_32bit")
            else:
                recorder.adopt(tensor, "base_32bit")
            tape.free(halves[id(tensor)])
    for tensor in back.values():
        recorder.adopt(tensor, "base_16bit")
        tape.free(singles[id(tensor)])
    tape.empty_cache()
    tape.phase("adapter")
    for tensor in adapter:
        recorder.adopt(tensor, "adapter")
    tape.empty_cache()


def _was_cast(tensor: torch.Tensor, options: LoadOptions) -> bool:
    """Whether a float32 tensor of the base came in 16 bits and was turned to float32 by the preparation."""
    parameter = isinstance(tensor, torch.nn.Parameter)
    return options.prepared and parameter and tensor.dtype is torch.float32 and options.dtype is not torch.float32


def _went_back(tensor: torch.Tensor, options: LoadOptions) -> bool:
    """Whether what the preparation turned to float32 was turned to 16 bits again, as axolotl does."""
    return options.prepared and isinstance(tensor, torch.nn.Parameter) and tensor.dtype in _HALVES


_HALVES = (torch.bfloat16, torch.float16)


def _is_4bit(tensor: torch.Tensor) -> bool:
    return type(tensor).__name__ == "Params4bit"


def _split(model: Any) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Parameters and buffers of the base and parameters of the adapter, each once, in the order of the modules."""
    base: dict[int, torch.Tensor] = {}
    adapter: dict[int, torch.Tensor] = {}
    for module in model.modules():
        for parameter in module._parameters.values():
            if parameter is not None:
                (adapter if parameter.requires_grad else base).setdefault(id(parameter), parameter)
        for buffer in module._buffers.values():
            if buffer is not None:
                base.setdefault(id(buffer), buffer)
    return list(base.values()), list(adapter.values())


def _warm_up_bytes(tensor: torch.Tensor, options: LoadOptions) -> int:
    """What transformers counts for a tensor before it loads: half a byte for an element that is to be quantized.

    Source: ``transformers/modeling_utils.py`` (``get_total_byte_count``).
    """
    if _is_4bit(tensor):
        return int(tensor.quant_state.shape.numel() // 2)
    size = options.dtype.itemsize if isinstance(tensor, torch.nn.Parameter) else tensor.element_size()
    return int(tensor.numel() * size)


def _in_checkpoint_order(model: Any, tensors: list[torch.Tensor]) -> list[torch.Tensor]:
    """Sorted by name as from_pretrained does, numbers as numbers (``core_model_loading.dot_natural_key``)."""
    wanted = {id(tensor) for tensor in tensors}
    named = [*model.named_parameters(), *model.named_buffers()]
    keyed = [(_natural(name), place, tensor) for place, (name, tensor) in enumerate(named) if id(tensor) in wanted]
    return [tensor for _, _, tensor in sorted(keyed, key=lambda entry: entry[:2])]


def _natural(name: str) -> list[tuple[Any, ...]]:
    for part in ("base_model.model.", ".base_layer", ".original_module"):
        name = name.replace(part, "")
    return [(0, int(part)) if part.isdigit() else (1, part) for part in name.split(".")]


def _quantize(recorder: Recorder, weight: Any, dtype: torch.dtype) -> None:
    """``bitsandbytes.functional.quantize_4bit`` of a weight that has just come to the card."""
    tape: Tape = recorder.tape
    state = weight.quant_state
    count = state.shape.numel()
    blocks = -(-count // state.blocksize)
    whole = tape.alloc(count * dtype.itemsize, "base_16bit")
    absmax = tape.alloc(4 * blocks, "quantization_statistics") if state.nested else None
    if absmax is None:
        recorder.adopt(state.absmax, "quantization_statistics")
    recorder.adopt(weight, "base_4bit")
    recorder.adopt(state.code, "quantization_statistics")
    if absmax is not None:
        recorder.adopt(state.offset, "quantization_statistics")
        centred = tape.alloc(4 * blocks, "quantization_statistics")
        recorder.adopt(state.state2.absmax, "quantization_statistics")
        recorder.adopt(state.absmax, "quantization_statistics")
        # quantize_blockwise copies the 8-bit code for each weight (``code.to(A.device, copy=True)``).
        tape.alloc(CODE_8BIT, "quantization_statistics")
        tape.free(centred)
        tape.free(absmax)
    tape.free(whole)

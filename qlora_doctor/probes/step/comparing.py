"""Forwards of the doctor's own: adapter on against off, and the loss of the same batch before and after."""

from __future__ import annotations

import inspect
import math
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import torch
from torch import nn

from ...pipeline.four_bit import never_repacked
from ..tensors import every_module, is_packed, modules_of, parameters_of

_PLAIN_TEXT = {"input_ids", "attention_mask", "labels", "position_ids", "num_items_in_batch", "completion_mask"}
_TOKENS = 64
"""Tokens of one sample that adapter on and off are compared on."""


@dataclass(frozen=True)
class OnOff:
    """Logits of one short sample with the adapter on and off.

    Attributes:
        difference: largest absolute difference; None where one of them is not finite.
        scale: largest absolute logit with the adapter off.
        epsilon: spacing of the coarsest dtype that the comparison went through.
        off: the logits with the adapter off, on the host: while the base is what it was, they are the same again.
    """

    difference: float | None
    scale: float
    epsilon: float
    off: torch.Tensor | None = field(default=None, repr=False, compare=False)

    @property
    def equal(self) -> bool:
        """Equal but for rounding: adding exact zeros changes nothing, DoRA's normalisation the last bits."""
        return self.difference is not None and self.difference <= 8 * self.epsilon * max(self.scale, 1e-6)


@contextmanager
def quiet(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients for a block; every module's mode is then put back.

    bitsandbytes' 4-bit layers stay as they are: see ``never_repacked``. Within the trainer's autocast, weights that are
    cast here would be kept for its own forward, without a gradient and at their values of now (seen with PyTorch 2.6),
    and that step would train nothing: they are forgotten.
    """
    modes = [(module, module.training) for _, module in modules_of(model)]
    torch.clear_autocast_cache()
    try:
        for module, _ in modes:
            vars(module)["training"] = _is_4bit(module)  # past torch's __setattr__, which looks for tensors first
        with torch.no_grad(), never_repacked(model):
            yield
    finally:
        torch.clear_autocast_cache()
        for module, mode in modes:
            vars(module)["training"] = mode


def loss_of(model: nn.Module, inputs: Mapping[str, Any]) -> float | None:
    """Loss of a batch without dropout; None where the model returns none."""
    with quiet(model):
        loss = getattr(model(**_without_cache(model, inputs)), "loss", None)
        return float(loss) if isinstance(loss, torch.Tensor) and loss.numel() == 1 else None


def adapter_on_off(model: nn.Module, inputs: Mapping[str, Any], known_off: torch.Tensor | None = None) -> OnOff | None:
    """Compare the logits of a short sample, adapter on against off; None where it cannot be switched off.

    Args:
        known_off: logits of the same sample with the adapter off, where the base has not changed since.
    """
    if not hasattr(model, "disable_adapter") or _is_merged(model):
        return None
    decoder = bool(getattr(getattr(model, "config", None), "is_encoder_decoder", False))
    sample = _without_cache(model, _short(inputs, decoder))
    with quiet(model):
        on = _logits(model, sample)
        if known_off is not None and on is not None and known_off.shape == on.shape:
            off: torch.Tensor | None = known_off.to(on.device)
        else:
            with switched_off(model):
                off = _logits(model, sample)
    if on is None or off is None:
        return None
    difference = float((on.float() - off.float()).abs().max())
    scale = float(off.float().abs().max())
    finite = math.isfinite(difference) and math.isfinite(scale)
    return OnOff(
        difference if finite else None, scale if finite else 0.0, _coarsest_epsilon(model), off.detach().to("cpu")
    )


def _is_merged(model: Any) -> bool:
    """Whether an adapter is merged: a forward with it off would take it out of the base again."""
    return any(bool(module.__dict__.get("merged_adapters")) for _, module in modules_of(model))


@contextmanager
def switched_off(model: Any) -> Iterator[None]:
    """PEFT's ``disable_adapter`` without what it does besides: it asks for the status of the whole model, unmerges, and
    sets requires_grad. Where the adapter is no layer that can be switched (prompt tuning), it is PEFT's own.
    """
    layers = [module for _, module in modules_of(model) if "_disable_adapters" in module.__dict__]
    if not layers or any(getattr(config, "is_prompt_learning", False) for config in model.peft_config.values()):
        flags = [(parameter, parameter.requires_grad) for _, parameter in parameters_of(model)]
        try:
            with model.disable_adapter():
                yield
        finally:
            for parameter, flag in flags:
                if parameter.requires_grad != flag:
                    parameter.requires_grad_(flag)
        return
    before = [layer._disable_adapters for layer in layers]
    try:
        for layer in layers:
            layer._disable_adapters = True
        yield
    finally:
        for layer, flag in zip(layers, before, strict=True):
            layer._disable_adapters = flag


def adds_products_alone(model: nn.Module, trained: Collection[str]) -> bool:
    """Whether all that trains is LoRA matrices whose product with the input is added to what the base's layer gives.

    Then an adapter whose lora_B is zero changes nothing, and one whose lora_B has a gradient reaches the output: no
    forward has to show it. Not so for DoRA and other variants, other tuners, biases and copies that train, and layers
    whose forward someone else has replaced.
    """
    if not all(".lora_A." in name or ".lora_B." in name for name in trained):
        return False
    layers = [module for module in every_module(model) if "lora_B" in module._modules]
    return bool(layers) and all(_adds_a_product(layer) for layer in layers)


def _adds_a_product(layer: Any) -> bool:
    return (
        type(layer).forward.__module__.startswith("peft.tuners.lora.")
        and "forward" not in vars(layer)
        and not layer._modules.get("lora_embedding_A")
        and not any(getattr(layer, "use_dora", {}).values())
        and not getattr(layer, "lora_variant", None)
        and not any(getattr(layer, "lora_bias", {}).values())
    )


def adapter_reaches_output(model: nn.Module, inputs: Mapping[str, Any]) -> bool | None:
    """Whether a large change of every lora_B shows in the logits; the weights are put back bit for bit."""
    seconds = [p for name, p in model.named_parameters() if ".lora_B." in name or ".lora_embedding_B." in name]
    if not seconds:
        return None
    kept = [parameter.detach().to("cpu", copy=True) for parameter in seconds]
    try:
        with torch.no_grad():
            for parameter in seconds:
                parameter.add_(0.1)
        compared = adapter_on_off(model, inputs)
    finally:
        with torch.no_grad():
            for parameter, copy in zip(seconds, kept, strict=True):
                parameter.copy_(copy)
    return None if compared is None or compared.difference is None else compared.difference > 0


def _logits(model: nn.Module, inputs: Mapping[str, Any]) -> torch.Tensor | None:
    logits = getattr(model(**inputs), "logits", None)
    return logits if isinstance(logits, torch.Tensor) else None


def _short(inputs: Mapping[str, Any], decoder: bool = False) -> dict[str, Any]:
    """The first sample's first tokens (its last ones where it is padded on the left), and its mask.

    What is not text alone stays whole: images, sound, labels that a decoder is given or that are no tokens.

    Args:
        decoder: the model makes its decoder's tokens of the labels.
    """
    tensors = {name: value for name, value in inputs.items() if isinstance(value, torch.Tensor)}
    if decoder or set(tensors) - _PLAIN_TEXT or inputs["input_ids"].dim() != 2:
        tensors.pop("num_items_in_batch", None)
        return tensors
    ids = inputs["input_ids"][:1]
    mask = inputs.get("attention_mask")
    mask = mask[:1] if isinstance(mask, torch.Tensor) and mask.shape == inputs["input_ids"].shape else None
    window = slice(0, _TOKENS)
    if mask is not None and not bool(mask[0, 0]):
        window = slice(-_TOKENS, None)
    short = {"input_ids": ids[:, window]}
    if mask is not None:
        short["attention_mask"] = mask[:, window]
    return short


def _without_cache(model: nn.Module, inputs: Mapping[str, Any]) -> dict[str, Any]:
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    accepted = inspect.signature(type(base).forward).parameters
    return {**inputs, "use_cache": False} if "use_cache" in accepted else dict(inputs)


def _is_4bit(module: nn.Module) -> bool:
    kind: Any = type(module)
    return _is_4bit_class(kind)


@lru_cache(maxsize=256)
def _is_4bit_class(kind: type) -> bool:
    return any(cls.__name__ == "Linear4bit" for cls in kind.__mro__)


def _coarsest_epsilon(model: nn.Module) -> float:
    dtypes: set[torch.dtype] = set()
    for _, module in modules_of(model):
        held = [p for p in module._parameters.values() if p is not None and p.is_floating_point()]
        dtypes.update(p.dtype for p in held if not is_packed(p, module))
        compute = module.__dict__.get("compute_dtype")
        if isinstance(compute, torch.dtype):
            dtypes.add(compute)
    return max((torch.finfo(dtype).eps for dtype in dtypes), default=1e-7)

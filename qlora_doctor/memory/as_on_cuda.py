"""Run Python-level PyTorch as it would run on a CUDA card, on the meta device.

Composite operators choose their parts by device, and on meta they would choose those of the CPU: dropout keeps a mask
in the input's type there, attention takes the math path. Here each is steered to what the named card does.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
import torch.utils.checkpoint
from torch.overrides import TorchFunctionMode

from . import attention, autocast
from .machine import Machine
from .values import Values


class CudaPlay(TorchFunctionMode):  # type: ignore[misc]
    """Autocast's casts, fused dropout and the card's choice of attention kernel."""

    def __init__(self, machine: Machine, flash: bool = False) -> None:
        super().__init__()
        self.flash = flash
        self.machine = machine

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        rule = autocast.RULES.get(func)
        if rule is not None:
            return rule(func, args, kwargs)
        if func is F.dropout:
            return _dropout(*args, **kwargs)
        if func is torch.tensor and Values.current is not None:
            return Values.current.made(args, kwargs)
        if func is F.scaled_dot_product_attention:
            return autocast.to_lower(self._attention, args, kwargs)
        return func(*args, **kwargs)

    def _attention(self, *args: Any, **kwargs: Any) -> Any:
        kwargs["flash"] = self.flash
        return attention.scaled_dot_product_attention(self.machine, *args, **kwargs)


def _dropout(input: torch.Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> torch.Tensor:
    """CUDA's dropout: one kernel and a mask of bytes (``ATen/native/Dropout.cpp``: ``is_fused_kernel_acceptable``)."""
    if training and 0 < p < 1 and input.numel() and not inplace:
        return torch.ops.aten.native_dropout(input, p, True)[0]
    return F.dropout(input, p, training, inplace)


@contextmanager
def as_on_cuda(machine: Machine, flash: bool = False) -> Iterator[None]:
    """Within, meta tensors are treated as tensors on the machine's card."""
    with ExitStack() as stack:
        for target, name in (
            (torch, "autocast"), (torch.amp, "autocast"), (torch.amp.autocast_mode, "autocast"),
        ):  # fmt: skip
            stack.enter_context(patch.object(target, name, autocast.Autocast))
        for name in ("is_autocast_enabled", "get_autocast_dtype"):
            stack.enter_context(patch.object(torch, name, _as_cuda(getattr(torch, name))))
        # Recomputation restores the autocast state of the device it thinks its inputs are on.
        stack.enter_context(patch.object(torch.utils.checkpoint, "_infer_device_type", lambda *_: "cuda"))
        _play_maybe_autocast(stack)
        mode = CudaPlay(machine, flash)
        stack.enter_context(patch.object(autocast.Autocast, "mode", mode))
        stack.enter_context(mode)
        try:
            yield
        finally:
            autocast.Autocast.cache.copies.clear()


def _as_cuda(query: Callable[..., Any]) -> Callable[..., Any]:
    """Autocast's state for the meta device is that of the card."""
    return lambda device_type="cuda": query("cuda" if device_type == "meta" else device_type)


def _play_maybe_autocast(stack: ExitStack) -> None:
    """transformers' helper does nothing for meta tensors; modeling modules hold it by name."""
    original = getattr(sys.modules.get("transformers.utils.generic"), "maybe_autocast", None)
    if original is None:
        return

    def maybe_autocast(
        device_type: str, dtype: torch.dtype | None = None, enabled: bool = True, cache_enabled: bool | None = None
    ) -> autocast.Autocast:
        return autocast.Autocast(device_type, dtype=dtype, enabled=enabled, cache_enabled=cache_enabled)

    for name, module in list(sys.modules.items()):
        if name.startswith("transformers.") and module.__dict__.get("maybe_autocast") is original:
            stack.enter_context(patch.object(module, "maybe_autocast", maybe_autocast))

"""Activations that wait in host memory: trl's own ``OffloadActivations``, run on tensors without storage.

Its hooks decide what goes to the host, what is kept for a while, and when it comes back; here a copy on the host is a
note of its shape, and what comes back is asked for on the stream that copies.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch

from .trace import Recorder

COPYING = 1
"""The stream that copies to the host and back."""


class _Stream:
    """A stream that is never behind."""

    def record_event(self) -> None:
        """Nothing to wait for."""

    wait_event = wait_stream = synchronize = lambda self, other=None: None


class _Device:
    """What ``torch.cuda`` is to a card, for one without storage."""

    Stream = _Stream

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder
        self.main = _Stream()
        self.current = self.main

    def current_stream(self) -> _Stream:
        """The stream that kernels go to."""
        return self.current

    @contextmanager
    def stream(self, stream: _Stream) -> Iterator[None]:
        """Within, kernels go to ``stream``."""
        before, self.current = self.current, stream
        try:
            yield
        finally:
            self.current = before

    def empty_cache(self) -> None:
        """As ``torch.cuda.empty_cache``."""
        self.recorder.tape.empty_cache()


class _OnHost:
    """A tensor in host memory, of which nothing is on the card."""

    def __init__(self, like: torch.Tensor, device: _Device) -> None:
        self.like = torch.Size(like.shape), like.stride(), like.dtype
        self.device = device

    def copy_(self, source: torch.Tensor, non_blocking: bool = False) -> _OnHost:
        """What is copied is no matter."""
        return self

    def to(self, device: str, non_blocking: bool = False) -> torch.Tensor:
        """Back on the card, in memory that the copying stream asks for."""
        shape, stride, dtype = self.like
        out = torch.empty_strided(shape, stride, dtype=dtype, device="meta")
        recorder = self.device.recorder
        recorder.see(out)
        index = recorder.index_of(out)
        if index is not None and self.device.current is not self.device.main:
            recorder.tape.streams[index] = COPYING
        return out


class _Torch:
    """``torch`` as trl's module sees it, with the meta device for its accelerator."""

    def __init__(self, device: _Device) -> None:
        self.device = device
        self.accelerator = SimpleNamespace(current_accelerator=lambda: SimpleNamespace(type="meta"))

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)

    def get_device_module(self, name: str) -> _Device:
        """The module of the accelerator."""
        return self.device

    def empty_like(self, like: torch.Tensor, **options: Any) -> _OnHost:
        """Room for a copy on the host."""
        return _OnHost(like, self.device)

    def empty(self, count: int, *, dtype: torch.dtype, **options: Any) -> _OnHost:
        """Room for a whole storage on the host."""
        return _OnHost(SimpleNamespace(shape=(count,), stride=lambda: (1,), dtype=dtype), self.device)


class Offloading:
    """trl's context for a model that is traced; made once, entered for each micro-batch.

    Args:
        model: after the trainer has changed it.
    """

    def __init__(self, recorder: Recorder, model: Any) -> None:
        from trl.models import activation_offloading as module

        self.module, self.torch = module, _Torch(_Device(recorder))
        parameters = frozenset(parameter.untyped_storage()._cdata for parameter in model.parameters())
        with self._played():
            self.context = module.get_act_offloading_ctx_manager(model=model)
        pack = self.context.pack_hook

        def packed(activation: torch.Tensor) -> Any:
            # What shares a parameter's memory is known by its address there, which is the same for all here.
            if activation.untyped_storage()._cdata in parameters:
                activation = torch.nn.Parameter(activation.detach(), requires_grad=False)
            return pack(activation)

        self.context.pack_hook = packed

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Within, what a forward pass saves goes to the host as trl decides."""
        with self._played(), self.context:
            yield

    @contextmanager
    def _played(self) -> Iterator[None]:
        def key(tensor: torch.Tensor) -> tuple[int, torch.dtype]:
            return tensor.untyped_storage()._cdata + int(tensor.storage_offset()), tensor.dtype

        with ExitStack() as stack:
            stack.enter_context(patch.object(self.module, "torch", self.torch))
            stack.enter_context(patch.object(self.module, "_get_unique_tensor_key", key))
            stack.enter_context(patch.object(torch.Tensor, "record_stream", lambda tensor, stream: None))
            yield

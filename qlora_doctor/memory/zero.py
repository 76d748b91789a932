"""What DeepSpeed's ZeRO-2 does to a rank's memory: the optimizer's state and the gradients divided over the ranks.

Played after ``DeepSpeedZeroOptimizer`` (``deepspeed/runtime/zero/stage_1_and_2.py``, 0.19) under transformers' Trainer:
the engine casts the whole model to the type it trains in, and there is no autocast; the trained parameters lie in one
flat tensor, of which each rank keeps a float32 copy of its part with the optimizer's state; gradients are collected in
a bucket as large as ``reduce_bucket_size``, which is taken as a whole.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from .engine_options import ZeroOptions
from .optimizers import Optimizer
from .sharding import Sharding
from .trace import Recorder


class Zero2(Sharding):
    """ZeRO-2."""

    def __init__(self, recorder: Recorder, model: Any, world: int, dtype: torch.dtype, options: ZeroOptions) -> None:
        """``dtype``: what the engine trains in."""
        super().__init__(recorder, world)
        self._dtype = dtype
        self._trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._count = -(-sum(p.numel() for p in self._trained) // world) * world
        hidden = int(getattr(model.config.get_text_config(), "hidden_size", 0))
        self._bucket_size = (options.bucket or hidden**2) * dtype.itemsize * (2 if options.overlaps else 1)
        self._bucket: int | None = None
        self._reduced: list[torch.Tensor] = []
        cast(model, dtype)
        self._flatten()
        part = torch.empty(self._count // world, dtype=dtype, device="meta")
        self._part = nn.Parameter(part.float())
        self._book(self._part, "optimizer")
        for parameter in self._trained:
            parameter.register_post_accumulate_grad_hook(self._collect)

    def start(self, optimizer: Optimizer) -> None:
        """The optimizer's state exists before the first step: it is made by a step of zeros."""
        self._part.grad = torch.empty_like(self._part)
        optimizer.step([self._part])
        self._part.grad = None

    def after_backward(self) -> None:
        if self._bucket is None:
            return
        whole = torch.empty(
            min(self._count, self._bucket_size // self._dtype.itemsize), dtype=self._dtype, device="meta"
        )
        self._book(whole, "gradients")
        # Those of later batches are added to the first and go with the next.
        self._reduced = [*self._reduced[:1], self._of_this_rank(self._dtype)]
        del whole
        self._free("_bucket")

    def trained(self) -> list[nn.Parameter]:
        """This rank's part of all trained parameters, with its gradient in float32."""
        if not self._reduced:
            return []
        flat = self._of_this_rank(self._dtype)
        self._part.grad = self._of_this_rank(torch.float32)
        del flat
        self._reduced.clear()
        return [self._part]

    def _flatten(self) -> None:
        """The trained parameters leave for the host and come back as one tensor, each a view of it."""
        shapes = [parameter.shape for parameter in self._trained]
        for parameter in self._trained:
            parameter.data = torch.empty(0, dtype=self._dtype, device="meta")
        self.tape.empty_cache()
        flat = torch.empty(self._count, dtype=self._dtype, device="meta")
        self._book(flat, "adapter")
        place = 0
        for parameter, shape in zip(self._trained, shapes, strict=True):
            parameter.data = flat.narrow(0, place, shape.numel()).view(shape)
            place += shape.numel()

    def _collect(self, parameter: nn.Parameter) -> None:
        """A gradient moves into the bucket."""
        if self._bucket is None:
            self._bucket = self.tape.alloc(self._bucket_size, "gradients")
        parameter.grad = None

    def _of_this_rank(self, dtype: torch.dtype) -> torch.Tensor:
        part = torch.empty(self._count // self.world, dtype=dtype, device="meta")
        self._book(part, "gradients")
        return part

    def _book(self, tensor: torch.Tensor, category: str) -> None:
        self.recorder.recategorise(tensor, category)


def cast(model: Any, dtype: torch.dtype) -> None:
    """``Module.to(dtype)``: all floats but packed weights, which keep the type that they are stored in."""
    for parameter in model.parameters():
        packed = type(parameter).__name__ == "Params4bit"
        if parameter.is_floating_point() and parameter.dtype != dtype and not packed:
            parameter.data = parameter.data.to(dtype)
    for module in model.modules():
        for name, buffer in module.named_buffers(recurse=False):
            if buffer.is_floating_point() and buffer.dtype != dtype:
                module._buffers[name] = buffer.to(dtype)

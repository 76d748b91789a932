"""What FSDP 1 does to a rank's memory: a flat tensor for each unit, whole while the unit runs, else this rank's part.

Played after torch's ``FlatParamHandle`` and ``_runtime_utils`` (``torch/distributed/fsdp``) as transformers' Trainer
sets them up for a LoRA adapter (PEFT's ``fsdp_auto_wrap_policy``): a unit for each decoder layer, one for each matrix
of the adapter, and the root with all the rest, which stays whole from the forward pass to the end of the backward one.
accelerate keeps the parts that are trained in float32; they are gathered in the type that is trained in.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from .engine_options import FlatOptions
from .sharding import GATHERING, Sharding, decoder_layers
from .trace import Recorder


class ShardedFlat(Sharding):
    """FSDP 1."""

    def __init__(
        self, recorder: Recorder, model: Any, world: int, dtype: torch.dtype | None, options: FlatOptions
    ) -> None:
        """``dtype``: what mixed precision gathers trained parameters in; None where there is none."""
        super().__init__(recorder, world)
        self._dtype, self._options = dtype, options
        self._taken: set[int] = set()
        base = model.get_base_model()
        layers = decoder_layers(base)
        self._trained: list[list[nn.Parameter]] = []
        self._sizes: list[int] = []
        for layer in layers:
            self._trained.append(self._wrap_adapter(layer))
            self._sizes.append(self._flatten(self._rest(layer)))
        self._trained_in_root = self._wrap_adapter(base)
        self._root_size = self._flatten(self._rest(base))
        self._layers: dict[int, int] = {}
        self._root: int | None = None
        self._leaving: int | None = None
        base.register_forward_pre_hook(lambda *_: self._gather_root())
        self._hook(layers)

    def before_backward(self) -> None:
        if self._options.prefetches and self._sizes:
            self._gather(len(self._sizes) - 1)

    def after_backward(self) -> None:
        self._finish_layer()
        self._in_backward = None
        self._scatter(self._trained_in_root)
        self._free("_root")

    def _wrap_adapter(self, module: nn.Module) -> list[nn.Parameter]:
        """A unit for each trained parameter; from here on they are of the type that they are gathered in."""
        found = []
        for parameter in self._rest(module, trained=True):
            kept = torch.float32 if self._dtype is not None else parameter.dtype
            whole = self._keep_shard(parameter, (-(-parameter.numel() // self.world),), kept)
            if self._dtype is not None and parameter.dtype != self._dtype:
                parameter.data = torch.empty(parameter.shape, dtype=self._dtype, device="meta")
                whole = self.recorder.index_of(parameter)
            if whole is not None:
                self.tape.free(whole)
            found.append(parameter)
        return found

    def _rest(self, module: nn.Module, trained: bool = False) -> list[nn.Parameter]:
        """The module's parameters that no unit before took."""
        found = []
        for parameter in module.parameters():
            if id(parameter) not in self._taken and parameter.requires_grad == trained:
                self._taken.add(id(parameter))
                found.append(parameter)
        return found

    def _flatten(self, parameters: list[nn.Parameter]) -> int:
        """Copy a unit's parameters into one tensor, keep this rank's part; returns the bytes of the whole."""
        size: int = sum(parameter.numel() * parameter.element_size() for parameter in parameters)
        if not size:
            return 0
        flat, part = self._alloc(size), self._alloc(-(-size // self.world))
        self.tape.free(flat)
        # The originals live for as long as the caller's list of them (``_init_param_handle_from_module``).
        for parameter in parameters:
            index = self.recorder.index_of(parameter)
            if index is not None:
                if self.tape.categories[index] == "base_4bit":
                    self.tape.categories[part] = "base_4bit"
                self.tape.free(index)
        return size

    def _gather_root(self) -> None:
        if self._root is None and self._root_size and not self.recorder.in_backward:
            self._root = self._alloc(self._root_size, GATHERING)

    def _gather(self, place: int) -> None:
        """A layer's parts into one tensor; the block of the one before is given back only then, for another stream
        than the one that asked for it has to come to its end first."""
        if place not in self._layers and self._sizes[place]:
            self._layers[place] = self._alloc(self._sizes[place], GATHERING)
        self._free("_leaving")

    def _before_layer(self, place: int) -> None:
        if not self.recorder.in_backward:
            self._gather(place)

    def _after_layer(self, place: int) -> None:
        self._leaving = self._layers.pop(place, None)
        if place == len(self._sizes) - 1:
            self._free("_leaving")

    def _before_backward_of(self, place: int) -> None:
        self._gather(place)
        self._finish_layer()
        self._in_backward = place

    def _finish_layer(self) -> None:
        """The layer whose backward pass is over."""
        if self._in_backward is not None:
            self._scatter(self._trained[self._in_backward])
            index = self._layers.pop(self._in_backward, None)
            if index is not None:
                self.tape.free(index)

    def _scatter(self, parameters: list[nn.Parameter]) -> None:
        for parameter in parameters:
            if self.syncs and parameter.grad is not None:
                self._scatter_gradient(parameter)

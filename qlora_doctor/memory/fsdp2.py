"""What FSDP 2 does to a rank's memory: shards that stay, whole layers that come and go, gradients that are scattered.

Played after torch's ``FSDPParamGroup`` (``torch/distributed/fsdp/_fully_shard``) and accelerate's
``fsdp2_prepare_model``: a unit for each decoder layer, one for the embeddings, one that stays gathered for the last
norm and the head, one for the rest.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from .sharding import GATHERING, Sharding, decoder_layers
from .trace import Recorder

_NORMS = ("norm", "ln_f", "final_layernorm", "final_layer_norm")


@dataclass
class _Unit:
    """Parameters that are gathered together.

    Attributes
    ----------
    stays: it is not released after its forward pass.
    read: it is gathered where its weight is read (``DTensor.full_tensor``), without a buffer on a stream of its own.
    gathered: the tape's indices of its whole parameters while they are there.
    arriving: the tape's index of the buffer that its shards are gathered into.
    """

    parameters: list[nn.Parameter]
    stays: bool = False
    read: bool = False
    gathered: list[int] = field(default_factory=list)
    arriving: int | None = None

    @property
    def whole_bytes(self) -> int:
        """Bytes of all parameters unsharded."""
        return sum(parameter.numel() * parameter.element_size() for parameter in self.parameters)


class ShardedByTensor(Sharding):
    """FSDP 2."""

    def __init__(self, recorder: Recorder, model: Any, world: int, reads_head: bool = False) -> None:
        """``reads_head``: the trainer reads the head's weight and never calls it, as trl's fused head does."""
        super().__init__(recorder, world)
        base = model.get_base_model()
        self._taken: set[int] = set()
        layers = decoder_layers(base)
        self.layers = [self._unit(layer) for layer in layers]
        embeddings, head = base.get_input_embeddings(), base.get_output_embeddings()
        tied = head is not None and embeddings.weight is head.weight
        body = getattr(base, base.base_model_prefix, base)
        norm = next((m for name in _NORMS if (m := getattr(body, name, None)) is not None), None)
        self.first = None if tied else self._unit(embeddings)
        self.tail = self._unit(*(m for m in (norm, embeddings if tied else None, head) if m is not None), stays=True)
        self.tail.read = reads_head and not tied
        self._embedded_with_gradient = False
        self.rest = self._unit(base, stays=True)
        self._held: int | None = None
        self._scattering: int | None = None
        # accelerate holds the whole state dict until all is sharded (``fsdp2_prepare_model``: ``original_sd``).
        wholes = [index for unit in self._units() for index in self._shard(unit)]
        for index in wholes:
            self.tape.free(index)
        self._hook(layers)
        # The last buffer of the forward pass goes when the root's forward is over (``FSDPState._post_forward``).
        base.register_forward_hook(lambda *_: self._free("_held"))
        first = embeddings if tied else None
        if self.first is not None:
            embeddings.register_forward_pre_hook(lambda *_: self._gather(self.first))
            embeddings.register_forward_hook(self._after_embeddings)
        for module in (first, norm):
            if module is not None:
                module.register_forward_pre_hook(lambda *_: self._gather(self.tail))

    def after_backward(self) -> None:
        """What is left to scatter and to release once the backward pass has come to its end."""
        if self._in_backward is not None:
            self._scatter(self.layers[self._in_backward])
            self._release(self.layers[self._in_backward])
        if self.first is not None and self._embedded_with_gradient:
            self._gather(self.first)
        for unit in self._units():
            self._scatter(unit)
            self._release(unit)
        self._free("_held")
        self._free("_scattering")
        self._in_backward = None

    def _after_embeddings(self, module: nn.Module, args: Any, out: Any) -> None:
        """A gradient of the embedded tokens makes FSDP gather their unit again in the backward pass."""
        self._embedded_with_gradient = isinstance(out, torch.Tensor) and out.requires_grad
        self._release(self.first)

    def _units(self) -> Iterator[_Unit]:
        yield from self.layers
        yield from (unit for unit in (self.first, self.tail, self.rest) if unit is not None)

    def _unit(self, *modules: nn.Module, stays: bool = False) -> _Unit:
        """The modules' parameters that no unit before took; 4-bit weights stored as integers stay whole."""
        found = []
        for parameter in (p for module in modules for p in module.parameters()):
            if id(parameter) not in self._taken and parameter.is_floating_point():
                self._taken.add(id(parameter))
                found.append(parameter)
        return _Unit(found, stays)

    def _shard(self, unit: _Unit) -> Iterator[int]:
        """Make the shards of a unit; yields the tape's indices of the whole parameters, which go later."""
        for parameter in unit.parameters:
            rows = -(-parameter.shape[0] // self.world) if parameter.dim() else 1
            whole = self._keep_shard(parameter, (rows, *parameter.shape[1:]), parameter.dtype)
            if whole is not None:
                yield whole

    def _arrive(self, unit: _Unit) -> None:
        if unit.arriving is None and not unit.gathered and unit.whole_bytes and not unit.read:
            unit.arriving = self._alloc(unit.whole_bytes, GATHERING)

    def _gather(self, unit: _Unit | None) -> None:
        """Shards into one buffer, the buffer into whole parameters; in forward the buffer stays until the next one."""
        if unit is None or unit.gathered or not unit.whole_bytes:
            return
        self._arrive(unit)
        self._free("_held")
        unit.gathered = [self._alloc(p.numel() * p.element_size()) for p in unit.parameters]
        if self._in_backward is None:
            self._held, unit.arriving = unit.arriving, None
        elif unit.arriving is not None:
            self.tape.free(unit.arriving)
            unit.arriving = None

    def _release(self, unit: _Unit | None) -> None:
        if unit is not None:
            if unit.arriving is not None and self._in_backward is not None:
                self.tape.free(unit.arriving)
                unit.arriving = None
            for index in unit.gathered:
                self.tape.free(index)
            unit.gathered = []

    def _before_layer(self, place: int) -> None:
        if not self.recorder.in_backward:
            self._gather(self.layers[place])

    def _after_layer(self, place: int) -> None:
        self._release(self.layers[place])

    def _before_backward_of(self, place: int) -> None:
        if self._in_backward is None:
            self._free("_held")
            self._scatter(self.tail)
            self._release(self.tail)
        else:
            self._scatter(self.layers[self._in_backward])
            self._release(self.layers[self._in_backward])
        self._in_backward = place
        self._gather(self.layers[place])
        before = self.layers[place - 1] if place else self.first
        if before is not None:
            self._arrive(before)

    def _scatter(self, unit: _Unit) -> None:
        """Whole gradients into a buffer, reduced into each rank's shard; the buffer stays until the next one."""
        with_gradient = [parameter for parameter in unit.parameters if parameter.grad is not None]
        if not with_gradient or not self.syncs:
            return
        buffer = self._alloc(sum(p.grad.numel() * p.grad.element_size() for p in with_gradient))
        self.tape.categories[buffer] = "gradients"
        for parameter in with_gradient:
            self._scatter_gradient(parameter)
        self._free("_scattering")
        self._scattering = buffer

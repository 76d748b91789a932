"""What FSDP does to a rank's memory: shards that stay, whole layers that come and go, gradients that are scattered.

One process stands for each rank, as all hold the same amounts. FSDP 2 is played after torch's ``FSDPParamGroup``
(``torch/distributed/fsdp/_fully_shard``) and accelerate's ``fsdp2_prepare_model``: a unit for each decoder layer, one
for the embeddings, one that stays gathered for the last norm and the head, one for the rest.
FSDP 1: :mod:`.flat_sharded`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from .trace import Recorder

_NORMS = ("norm", "ln_f", "final_layernorm", "final_layer_norm")


GATHERING, SCATTERING = 1, 2
"""The streams that ask for what shards are gathered into, and for the shards of gradients."""


class Sharding:
    """A model whose parameters are sharded over ``world`` ranks while its step is traced: what both FSDPs share.

    Attributes
    ----------
    shards: what this rank keeps of a parameter, by the parameter's id.
    syncs: whether gradients are scattered, which they are in the last of several accumulated batches alone.
    """

    def __init__(self, recorder: Recorder, world: int) -> None:
        self.recorder, self.tape, self.world = recorder, recorder.tape, world
        self.shards: dict[int, nn.Parameter] = {}
        self.syncs = True
        self._in_backward: int | None = None

    def trained(self) -> list[nn.Parameter]:
        """The shards that have a gradient; the whole gradients are gone."""
        return [shard for shard in self.shards.values() if shard.grad is not None]

    def after_backward(self) -> None:
        """What is left to scatter and to release once the backward pass has come to its end."""
        raise NotImplementedError

    def _before_layer(self, place: int) -> None:
        """Layer ``place`` is about to run, forward or anew in the backward pass."""
        raise NotImplementedError

    def _after_layer(self, place: int) -> None:
        """Layer ``place`` has run, forward."""
        raise NotImplementedError

    def _before_backward_of(self, place: int) -> None:
        """The gradient has come as far as layer ``place``'s output, so what lies behind it is done."""
        raise NotImplementedError

    def _hook(self, layers: list[nn.Module]) -> None:
        """Have the three told of each layer."""
        for place, layer in enumerate(layers):
            layer.register_forward_pre_hook(lambda *_, place=place: self._before_layer(place))
            layer.register_forward_hook(lambda module, args, out, place=place: self._forwarded(place, out))

    def _forwarded(self, place: int, out: Any) -> None:
        if self.recorder.in_backward:
            return
        self._after_layer(place)
        states = out[0] if isinstance(out, tuple) else out
        if isinstance(states, torch.Tensor) and states.requires_grad:
            states.register_hook(lambda gradient: self._before_backward_of(place))

    def _keep_shard(self, parameter: nn.Parameter, shape: tuple[int, ...], dtype: torch.dtype) -> int | None:
        """Make this rank's shard of a parameter; returns the tape's index of the whole one, which goes later."""
        whole = self.recorder.index_of(parameter)
        category = self.tape.categories[whole] if whole is not None else "base_16bit"
        shard = torch.empty(shape, dtype=dtype, device="meta")
        self.recorder.recategorise(shard, category)
        self.shards[id(parameter)] = nn.Parameter(shard, requires_grad=parameter.requires_grad)
        return whole

    def _scatter_gradient(self, parameter: nn.Parameter) -> None:
        """The whole gradient goes, its shard appears."""
        parameter.grad = None
        shard = self.shards[id(parameter)]
        gradient = torch.empty_like(shard)
        self.recorder.recategorise(gradient, "gradients")
        index = self.recorder.index_of(gradient)
        if index is not None:
            self.tape.streams[index] = SCATTERING
        shard.grad = gradient if shard.grad is None else shard.grad

    def _alloc(self, size: int, stream: int = 0) -> int:
        return self.tape.alloc(size, "base_16bit", stream)

    def _free(self, name: str) -> None:
        index = getattr(self, name)
        if index is not None:
            self.tape.free(index)
            setattr(self, name, None)


def decoder_layers(model: Any) -> list[nn.Module]:
    """The modules that FSDP takes as a unit each: those that a device map must not split either."""
    names = set(getattr(model, "_no_split_modules", None) or ())
    return [module for module in model.modules() if type(module).__name__ in names]


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


class Sharded(Sharding):
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

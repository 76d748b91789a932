"""What all ways to divide a model over ranks have in common while a step is traced.

One process stands for each rank, as all hold the same amounts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

from .trace import Recorder

if TYPE_CHECKING:
    from .optimizers import Optimizer

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

    def play_on(self, recorder: Recorder) -> None:
        """From here on another tape is written, of an evaluation after the step."""
        self.recorder, self.tape = recorder, recorder.tape

    def trained(self) -> list[nn.Parameter]:
        """What the optimizer steps: this rank's shards that have a gradient; the whole gradients are gone."""
        return [shard for shard in self.shards.values() if shard.grad is not None]

    def start(self, optimizer: Optimizer) -> None:
        """What the engine does with the optimizer before the first step."""

    def before_backward(self) -> None:
        """What is gathered before the loss's own backward pass."""

    def after_backward(self) -> None:
        """What is left to scatter and to release once the backward pass has come to its end."""
        raise NotImplementedError

    def _before_layer(self, place: int) -> None:
        """Layer ``place`` is about to run, forward or again in the backward pass."""
        raise NotImplementedError

    def _after_layer(self, place: int) -> None:
        """Layer ``place`` has run, forward."""
        raise NotImplementedError

    def _before_backward_of(self, place: int) -> None:
        """The gradient has come as far as layer ``place``'s output, so what lies behind it is done."""
        raise NotImplementedError

    def _hook(self, layers: list[nn.Module]) -> None:
        """Have the three called for each layer."""
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


DIVIDED: WeakKeyDictionary[nn.Module, Sharding] = WeakKeyDictionary()
"""What divides a model whose step was traced: its hooks stay, and an evaluation of the model goes through them."""

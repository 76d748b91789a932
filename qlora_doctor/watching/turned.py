"""Whether the optimizer steps with the gradients that backward made, or something turned them on their way."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import nn

from .guarding import Guard

_LOOKED_AT = 4
"""Tensors that tell for all."""
_LARGEST = 2**24
"""Elements of a tensor that is looked at: 64 MiB of float32."""


class Turned:
    """Adds up what autograd gives to a few tensors, before any other hook sees it.

    Args:
        parameters: what trains, by name.
        guard: wraps every hook.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], guard: Guard) -> None:
        # A copy of each is kept for a step: of an embedding that would be gigabytes.
        small = {name: parameter for name, parameter in parameters.items() if parameter.numel() <= _LARGEST}
        hooked = [name for name, parameter in small.items() if parameter._backward_hooks]
        begun = [name for name in small if ".lora_B." in name] or list(small)  # lora_A's is zero at first
        spread = begun[:: max(1, len(begun) // (_LOOKED_AT // 2))]
        chosen = dict.fromkeys([*hooked[: _LOOKED_AT // 2], *spread][:_LOOKED_AT])
        self._parameters = {name: parameters[name] for name in chosen}
        self._made: dict[str, torch.Tensor] = {}
        self._handles = [_first(each, guard(partial(self._came, name))) for name, each in self._parameters.items()]

    def _came(self, name: str, gradient: torch.Tensor) -> None:
        with torch.no_grad():
            before = self._made.get(name)
            if before is None:
                self._made[name] = gradient.detach().to(torch.float32, copy=True)
            else:
                before.add_(gradient.detach())

    def take(self, came: Mapping[str, float]) -> dict[str, float]:
        """Fields of ``RunFacts`` as the optimizer is about to step; forgets what came. Waits for the device.

        Args:
            came: norm of each tensor's gradient when all hooks on it were through.
        """
        made, self._made = self._made, {}
        hooked = math.sqrt(sum(came.get(name, 0.0) ** 2 for name in made))
        sums = []
        with torch.no_grad():
            for name, before in made.items():
                now = self._parameters[name].grad
                if now is None or now.shape != before.shape or now.is_sparse:
                    return {}
                now = now.float()
                before = before * (now != 0)  # rows that a mask leaves out are not turned
                sums.append(torch.stack([(before * now).sum(), (before * before).sum(), (now * now).sum()]))
        if not sums:
            return {}
        along, before_, now_ = torch.stack([each.cpu() for each in sums]).double().sum(0).tolist()
        if not all(map(math.isfinite, (along, before_, now_))) or not before_ or not now_:
            return {}
        return {
            "gradient_cosine": along / math.sqrt(before_ * now_),
            "gradient_growth": max(hooked, math.sqrt(now_)) / math.sqrt(before_),
        }

    def close(self) -> None:
        """Take the hooks off."""
        for handle in self._handles:
            handle.remove()
        self._made.clear()


def _first(parameter: nn.Parameter, hook: Any) -> Any:
    """Put a hook before those that are there: autograd calls them in the order of their dictionary."""
    handle = parameter.register_hook(hook)
    hooks: Any = parameter._backward_hooks
    others = [(key, value) for key, value in hooks.items() if key != handle.id]
    if others:
        own = hooks[handle.id]
        hooks.clear()
        hooks.update([(handle.id, own), *others])
    return handle

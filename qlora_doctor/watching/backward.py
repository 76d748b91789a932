"""The losses that a training goes backward with, seen at ``torch.autograd.backward`` while its steps are watched."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from .guarding import Guard


class BackwardWatch:
    """Wraps ``torch.autograd.backward``; reentrant checkpointing calls it again within, which does not count.

    Args:
        before: called before each backward.
        guard: wraps what runs within the backward.
    """

    def __init__(self, before: Callable[[], None], guard: Guard) -> None:
        import wrapt

        self._before, self._note = guard(before), guard(self._noted)
        self._depth = 0
        self._losses: list[torch.Tensor] = []
        self._plain = torch.autograd.backward
        wrapt.wrap_function_wrapper(torch.autograd, "backward", self._backward)
        self._wrapped = torch.autograd.backward

    def close(self) -> None:
        """Take the wrapper off."""
        if torch.autograd.backward is self._wrapped:
            torch.autograd.backward = self._plain
        self._losses.clear()

    def take(self) -> list[float]:
        """The losses since the last call; waits for the device."""
        losses, self._losses = self._losses, []
        return [float(loss) for loss in losses]

    def _backward(self, wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
        if self._depth == 0:
            self._before()
            self._note(args[0] if args else kwargs.get("tensors"))
        self._depth += 1
        try:
            return wrapped(*args, **kwargs)
        finally:
            self._depth -= 1

    def _noted(self, tensors: Any) -> None:
        given = tensors if isinstance(tensors, torch.Tensor) else None
        if given is None and isinstance(tensors, (tuple, list)) and len(tensors) == 1:
            given = tensors[0]
        if isinstance(given, torch.Tensor) and given.numel() == 1:
            self._losses.append(given.detach())

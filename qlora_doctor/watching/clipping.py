"""When a watched step clips its gradients: between its last backward and the optimizer's step, or to no use."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.nn.utils import clip_grad

from .guarding import Guard

_NAME = "_clip_grads_with_norm_"
"""What ``clip_grad_norm_`` calls in its own module, by whatever name a program has imported it (torch 2.6 on)."""


class Clipping:
    """Sees each call of ``torch.nn.utils.clip_grad_norm_``, with or without accelerate around it.

    Args:
        ours: gives the tensors that train.
        guard: wraps what runs within the call.
    """

    def __init__(self, ours: Callable[[], Iterable[torch.Tensor]], guard: Guard) -> None:
        self._ours = ours
        self._events: list[str] = []
        self._steps: list[str | None] = []
        self.limit: float | None = None
        self._norm: Any = None
        self._plain = plain = getattr(clip_grad, _NAME, None)
        self._wrapped: Any = None
        if plain is None:
            return
        look = guard(self._called)

        def called(parameters: Any, max_norm: Any, total_norm: Any, *args: Any, **kwargs: Any) -> Any:
            look(parameters, max_norm, total_norm)
            return plain(parameters, max_norm, total_norm, *args, **kwargs)

        self._wrapped = called
        setattr(clip_grad, _NAME, called)

    def close(self) -> None:
        """Take it off."""
        if self._wrapped is not None and getattr(clip_grad, _NAME, None) is self._wrapped:
            setattr(clip_grad, _NAME, self._plain)

    def note(self, event: str) -> None:
        """``forward``: a step begins; ``backward``; ``step``: the optimizer steps."""
        if event == "forward":
            if "late" in self._events and self._steps and self._steps[-1] is None:
                self._steps[-1] = "after the optimizer's step"
            self._events = []
        elif event == "step":
            self._steps.append(self._where())
            self._events = ["over"]
            return
        self._events.append(event)

    def norm_before(self) -> float | None:
        """The norm that the step under way was clipped from last; None where nothing was. Waits for the device."""
        norm, self._norm = self._norm, None
        return float(norm) if norm is not None else None

    def where(self) -> str | None:
        """As ``RunFacts.clipping`` has it, where every step does the same; else None."""
        every = set(self._steps)
        return every.pop() if len(every) == 1 else None

    def _called(self, parameters: Any, max_norm: Any, norm: Any) -> None:
        if isinstance(max_norm, torch.Tensor) and max_norm.is_cuda:  # its value would have to be waited for
            return
        limit = float(max_norm)
        if not math.isfinite(limit):  # the norm is measured, nothing clipped
            return
        given = [parameters] if isinstance(parameters, torch.Tensor) else list(parameters)
        self.limit, self._norm = limit, norm
        own = {id(each) for each in self._ours()}
        if self._events[:1] == ["over"]:
            self._events.append("late")
        else:
            self._events.append("clip" if any(id(p) in own and p.grad is not None for p in given) else "nothing")

    def _where(self) -> str | None:
        events = self._events
        after = events[len(events) - events[::-1].index("backward") :] if "backward" in events else []
        if "clip" in after:
            return "in place"
        if "nothing" in after:
            return "of tensors that do not train"
        return "before its last backward" if {"clip", "nothing"} & set(events) else None

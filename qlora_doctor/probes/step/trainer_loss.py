"""The loss as the trainer computes it: of a pair, of a label, of a generation. The model's own answer has none."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch


class TrainerLoss:
    """Listens to a trainer's ``compute_loss``, and asks it for the first batch's loss again.

    Args:
        trainer: its method is wrapped on this one object.
        set_aside: a block in which a forward disturbs nothing.
        compares: whether the loss of the same batch, before and after, says anything.
    """

    def __init__(self, trainer: Any, set_aside: Callable[[], AbstractContextManager[None]], compares: bool) -> None:
        self.before: float | None = None
        self.after: float | None = None
        self._set_aside, self._compares = set_aside, compares
        self._losses: list[torch.Tensor] = []
        self._original = trainer.compute_loss
        self._first: tuple[Any, Any] | None = None
        trainer.compute_loss = self._compute

    def take(self) -> list[float]:
        """Losses of the batches since the last call."""
        values = [float(loss) for loss in self._losses]
        self._losses.clear()
        return values

    def compare_again(self) -> None:
        """Compute the first batch's loss once more, without dropout; called when training is over."""
        if self._first is not None:
            self.after = self._quiet_loss(*self._first)

    def _compute(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        if self._first is None and self._compares:
            self._first = model, copy.copy(inputs)
            self.before = self._quiet_loss(*self._first)
        found = self._original(model, inputs, *args, **kwargs)
        loss = found[0] if isinstance(found, tuple) else found
        self._losses.append(loss.detach().mean())
        return found

    def _quiet_loss(self, model: Any, inputs: Any) -> float:
        with self._set_aside():
            return float(self._original(model, copy.copy(inputs)))

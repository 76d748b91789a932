"""What a trainer hands to its ``compute_loss``, seen there while the steps are watched."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Mapping
from typing import Any


class LossWatch:
    """Stands before one trainer's ``compute_loss``; the class stays as it is.

    Args:
        given: called with the inputs, and whether the division by num_items_in_batch is left to ``compute_loss``.
    """

    def __init__(
        self,
        trainer: Any,
        given: Callable[[Mapping[str, Any], bool | None], None],
        guard: Callable[[Callable[..., Any]], Callable[..., Any]],
    ) -> None:
        self._trainer = weakref.ref(trainer)
        self._own = vars(trainer).get("compute_loss")
        inner = trainer.compute_loss
        look = guard(self._look)
        self._given = given

        @functools.wraps(inner)
        def compute_loss(model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            look(inputs, args, kwargs)
            return inner(model, inputs, *args, **kwargs)

        trainer.compute_loss = compute_loss

    def close(self) -> None:
        """Take it off."""
        trainer = self._trainer()
        if trainer is None or "compute_loss" not in vars(trainer):
            return
        if self._own is not None:
            trainer.compute_loss = self._own
        else:
            del trainer.compute_loss

    def _look(self, inputs: Any, args: Any, kwargs: Any) -> None:
        if not isinstance(inputs, Mapping):
            return
        trainer = self._trainer()
        count = kwargs.get("num_items_in_batch", args[1] if len(args) > 1 else None)
        leaves = bool(getattr(trainer, "model_accepts_loss_kwargs", False)) and count is not None
        self._given(inputs, leaves)

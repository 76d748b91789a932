"""The end of a training that was asked to end early."""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from .guarding import StopTraining
from .training import Training


class Stopping:
    """Ends a loop of one's own by an exception that is no failure; a trainer is asked, and ends by itself."""

    def __init__(self, training: Training) -> None:
        self._training = training
        self._handles: list[Any] = []

    def wanted(self) -> bool:
        """Whether the training is to end now."""
        file = self._training.options.stop_file
        return self._steps_are_done() or (file is not None and os.path.exists(file))  # noqa: PTH110

    def stop_loop(self) -> None:
        """End a loop where that is wanted, or look again before each later step.

        With a code other than 0 where findings end it: a launcher then ends the other ranks.

        Raises:
            StopTraining: it ends here.
        """
        if not self._training.is_loop:
            return
        if self.wanted():
            raise StopTraining(0 if self._steps_are_done() else 1)
        options = self._training.options
        if options.stop_after is not None or options.stop_file is not None:
            self._count_on()

    def take_off(self) -> None:
        """Take its hooks off."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _steps_are_done(self) -> bool:
        wanted = self._training.options.stop_after
        return wanted is not None and self._training.counted >= wanted

    def _count_on(self) -> None:
        """Who asked for the training's end pays for it: two hooks stay until then."""
        model = self._training.model()
        if model is None or self._handles:
            return

        def stepped(optimizer: Any, args: Any, kwargs: Any) -> None:
            self._training.counted += 1

        def before(module: nn.Module, args: Any) -> None:
            if torch.is_grad_enabled():
                self.stop_loop()

        guard = self._training.guard
        self._handles = [
            register_optimizer_step_post_hook(guard(stepped)),
            model.register_forward_pre_hook(guard(before)),
        ]

"""transformers' Trainer tells where it is: the callback that ``run`` adds, and that ``DoctorCallback`` is."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

from transformers import TrainerCallback


class RunCallback(TrainerCallback):  # type: ignore[misc]
    """Passes on what the Trainer tells.

    Args:
        begin: called as the training begins with model, trainer and what is known; returns its watch, or None.
        trainer: the trainer; None where only the callback's own arguments are at hand.
        end: called when the training is over.
        report: gives the report as it stands.
    """

    def __init__(
        self,
        begin: Callable[..., Any],
        trainer: Any = None,
        *,
        end: Callable[[], None] = lambda: None,
        report: Callable[[], Any] = lambda: None,
    ) -> None:
        self.begin, self._end, self._report = begin, end, report
        self._trainer = weakref.ref(trainer) if trainer is not None else lambda: None
        self.watch: Any = None

    @property
    def report(self) -> Any:
        """The report as it stands; None before the training began, and where another process makes it."""
        return self._report()

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Begin to watch."""
        try:
            self.watch = self.begin(
                kwargs.get("model"),
                trainer=self._trainer(),
                optimizer=kwargs.get("optimizer"),
                tokenizer=kwargs.get("processing_class") or kwargs.get("tokenizer"),
                loader=kwargs.get("train_dataloader"),
                arguments=args,
                state=state,
            )
        except Exception as error:
            from .guarding import say, told

            self.watch = None
            say(f"Not watching: {told(error)}")

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Gradients are complete."""
        if self.watch is not None:
            self.watch.before_step(state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """An optimizer step is over, its gradients are gone."""
        if self.watch is not None and self.watch.step_ended(state.global_step):
            control.should_training_stop = True

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """The trainer logs."""
        if self.watch is not None and state.is_local_process_zero and logs:
            self.watch.logged(state.global_step, state.epoch, logs)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """A checkpoint was written."""
        if self.watch is not None and state.is_world_process_zero:
            self.watch.saved(args.output_dir, state)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The training is over."""
        if self.watch is not None:
            self.watch.trained(state)
            try:
                self._end()
            except Exception as error:
                from .guarding import say, told

                say(f"No report: {told(error)}")

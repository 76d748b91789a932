"""A step of trl's own trainers beyond supervised fine-tuning: built for real, run on tensors without storage.

The trainer makes the model ready, its collator makes the batch, its ``compute_loss`` runs the policy, the reference and
the loss. Nothing of it is imitated; what it reads off the device is answered with values that a batch could have.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import MethodType
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import torch

from ..pipeline.methods import METHODS, classes_of_method, made_up_rewards, word_tokenizer
from ..pipeline.trainer import arguments_of
from .autocast import Autocast
from .generation import short_answers
from .trace import Recorder

if TYPE_CHECKING:
    from ..setup.setup import Setup
    from .step import StepOptions


class TrlMethod:
    """The step of a method.

    Args:
        setup: for the trainer's own arguments.
        method: a key of ``pipeline.methods.METHODS``.
    """

    def __init__(self, setup: Setup, method: str) -> None:
        self.setup = setup
        self.method = METHODS[method]
        self.trainer: Any = None

    @property
    def generates(self) -> bool:
        """Whether the model writes the answers itself in a step."""
        return self.method.generates

    def prepare(self, recorder: Recorder, model: Any, options: StepOptions) -> None:
        """Build the trainer: it changes the adapter's type, adds a reference adapter, replaces the head's forward."""
        from datasets import Dataset

        self.recorder, self.options = recorder, options
        tokenizer, words = word_tokenizer()
        rows = [self.method.row(options.sequence, place, words) for place in range(max(2, options.batch))]
        trainer_class, arguments_class = classes_of_method(self.method, self.setup)
        arguments = arguments_of(self.setup, arguments_class, torch.device("cpu"), [])
        arguments |= dict(self.method.fixed)
        arguments.pop("activation_offloading", None)  # the step does it; the trainer asks for a card
        if not self.method.generates:
            arguments["max_length"] = options.sequence
        more: dict[str, Any] = {"reward_funcs": made_up_rewards} if self.method.generates else {}
        with _adapters_on_meta(model), _quietly():
            self.trainer = trainer_class(
                model=model,
                args=arguments_class(**arguments, output_dir="unused"),
                train_dataset=Dataset.from_list(rows),
                processing_class=tokenizer,
                **more,
            )
        # The training loop counts these.
        self.trainer.current_gradient_accumulation_steps = self.trainer.args.gradient_accumulation_steps
        for name, parameter in model.named_parameters():
            if "lora_" in name or parameter.requires_grad:
                recorder.recategorise(parameter, "adapter")

    def batch(self, recorder: Recorder, options: StepOptions) -> Any:
        """A batch as the trainer's collator makes it, its values known; prompts alone where the answers are written in
        the step."""
        rows = list(self.trainer.train_dataset)
        count = options.batch
        if self.method.generates and self.trainer.model.training:
            count *= int(self.trainer.args.steps_per_generation)
        made = self.trainer.data_collator([dict(rows[place % len(rows)]) for place in range(count)])
        if self.method.generates:
            return made
        metas: dict[str, Any] = {}
        for name, value in made.items():
            metas[name] = value
            if isinstance(value, torch.Tensor):
                metas[name] = torch.empty(value.shape, dtype=value.dtype, device="meta")
                recorder.values.know(metas[name], value)
        return metas

    def loss(self, model: Any, forward: Callable[..., Any], inputs: Any, items: torch.Tensor) -> torch.Tensor:
        """The trainer's own loss, with the model's forward as accelerate would have wrapped it."""
        trainer = self.trainer
        with self._on_meta(), patch.object(model, "forward", forward):
            if self.method.generates:
                inputs = self._answered(model, inputs)
            else:
                inputs = copy.copy(inputs)
            loss: torch.Tensor = trainer.compute_loss(model, inputs, num_items_in_batch=items)
        return loss

    def _answered(self, model: Any, rows: Any) -> Any:
        """The part of the generated batch that comes next, written where none is left (``_prepare_inputs``)."""
        trainer, tape = self.trainer, self.recorder.tape
        tokens = int(trainer.args.max_completion_length)
        before = tape.phases[-1][1]
        tape.phase("generation")
        with short_answers(model, self.recorder, tokens):
            inputs = trainer._prepare_inputs(rows)
        if model.training:
            trainer._step += 1
        tape.phase(before)
        return inputs

    @contextmanager
    def _on_meta(self) -> Iterator[None]:
        """Within, the trainer takes the meta device for its card."""
        trainer, precision = self.trainer, self.options.precision
        meta = torch.device("meta")
        dtype = torch.float16 if precision == "fp16" else torch.bfloat16
        with (
            patch.object(type(trainer.accelerator), "device", meta),
            patch.object(type(trainer.args), "device", meta),
            patch.object(
                trainer.accelerator, "autocast", lambda *_: Autocast("cuda", dtype=dtype, enabled=precision != "no")
            ),
        ):
            yield


@contextmanager
def _adapters_on_meta(model: Any) -> Iterator[None]:
    """Within, an adapter that is added has no storage either."""
    original = type(model).add_adapter

    def add_adapter(self: Any, *args: Any, **kwargs: Any) -> Any:
        with torch.device("meta"):
            return original(self, *args, **kwargs)

    model.add_adapter = MethodType(add_adapter, model)
    try:
        yield
    finally:
        del model.add_adapter


@contextmanager
def _quietly() -> Iterator[None]:
    """Within, no progress bars."""
    import datasets

    shown = datasets.is_progress_bar_enabled() if hasattr(datasets, "is_progress_bar_enabled") else True
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            datasets.enable_progress_bars()

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

from ..pipeline.methods import METHODS, classes_of_method, word_tokenizer
from ..pipeline.trainer import arguments_of
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

    def prepare(self, recorder: Recorder, model: Any, options: StepOptions) -> None:
        """Build the trainer: it changes the adapter's type, adds a reference adapter, replaces the head's forward."""
        from datasets import Dataset

        tokenizer, words = word_tokenizer()
        rows = [self.method.row(options.sequence, place, words) for place in range(max(2, options.batch))]
        trainer_class, arguments_class = classes_of_method(self.method, self.setup)
        arguments = arguments_of(self.setup, arguments_class, torch.device("cpu"), [])
        arguments["max_length"] = options.sequence
        with _adapters_on_meta(model), _quietly():
            self.trainer = trainer_class(
                model=model,
                args=arguments_class(**arguments, output_dir="unused"),
                train_dataset=Dataset.from_list(rows),
                processing_class=tokenizer,
            )
        for name, parameter in model.named_parameters():
            if "lora_" in name or parameter.requires_grad:
                recorder.recategorise(parameter, "adapter")

    def batch(self, recorder: Recorder, options: StepOptions) -> dict[str, torch.Tensor]:
        """A batch as the trainer's collator makes it, its values known."""
        rows = list(self.trainer.train_dataset)
        made = self.trainer.data_collator([dict(rows[place % len(rows)]) for place in range(options.batch)])
        metas = {}
        for name, value in made.items():
            metas[name] = torch.empty(value.shape, dtype=value.dtype, device="meta")
            recorder.values.know(metas[name], value)
        return metas

    def loss(
        self, model: Any, forward: Callable[..., Any], inputs: dict[str, torch.Tensor], items: torch.Tensor
    ) -> torch.Tensor:
        """The trainer's own loss, with the model's forward as accelerate would have wrapped it."""
        trainer = self.trainer
        on_meta = patch.object(type(trainer.accelerator), "device", torch.device("meta"))
        with on_meta, patch.object(model, "forward", forward):
            loss: torch.Tensor = trainer.compute_loss(model, copy.copy(inputs), num_items_in_batch=items)
        return loss


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

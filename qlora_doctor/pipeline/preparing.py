"""prepare_model_for_kbit_training, as the setup asks for it."""

from __future__ import annotations

from typing import Any

from ..setup.setup import Setup
from .base import Base
from .batches import load_tokenizer
from .changes import asks_tokenizer, change_model
from .failures import as_stage_error


def prepare(base: Base, setup: Setup) -> Any:
    """The model made ready for training on a k-bit base, and what a script does to it before and after.

    Returns ``base.model``.

    A silent setup prepares a base that is loaded in 4 or 8 bits, with the function's own defaults (gradient
    checkpointing on); ``training.prepare_for_kbit_training`` true or false decides for any base.

    Raises:
        StageError: the model cannot be prepared, for example because it has no gradient checkpointing, or what the
            script does with it fails.
    """
    change_model(base.model, setup, "loaded", _tokenizer(base, setup), base.notes)
    if is_prepared(setup, base.model):
        base.model = _prepared(base, setup)
    change_model(base.model, setup, "prepared", None, base.notes)
    return base.model


def _tokenizer(base: Base, setup: Setup) -> Any | None:
    """The tokenizer, where what the script does with the model asks it something."""
    return load_tokenizer(setup, base.architecture) if asks_tokenizer(setup) else None


def _prepared(base: Base, setup: Setup) -> Any:
    from peft import prepare_model_for_kbit_training

    training = setup.training
    arguments: dict[str, Any] = {}
    if training.gradient_checkpointing is not None:
        arguments["use_gradient_checkpointing"] = training.gradient_checkpointing
    if training.gradient_checkpointing_kwargs is not None:
        arguments["gradient_checkpointing_kwargs"] = dict(training.gradient_checkpointing_kwargs)
    try:
        return prepare_model_for_kbit_training(base.model, **arguments)
    except Exception as error:
        raise as_stage_error(error, "preparing the model for training") from error


def is_prepared(setup: Setup, model: Any) -> bool:
    """Whether the user's script calls prepare_model_for_kbit_training."""
    said = setup.training.prepare_for_kbit_training
    if said is not None:
        return said
    return bool(getattr(model, "is_loaded_in_4bit", False) or getattr(model, "is_loaded_in_8bit", False))

"""Optimizers and schedules that other trainers call by their classes, under the names of transformers."""

from __future__ import annotations

from typing import Any

from ..tables.trainer_names import OPTIMIZERS, REMOVED_NAMES, SCHEDULERS
from .setup import Origin, Setup

_CLASSES = {
    "adamw": "adamw_torch",
    "adamw8bit": "adamw_bnb_8bit",
    "pagedadamw": "paged_adamw_32bit",
    "pagedadamw32bit": "paged_adamw_32bit",
    "pagedadamw8bit": "paged_adamw_8bit",
    "adafactor": "adafactor",
    "sgd": "sgd",
    "rmsprop": "rmsprop",
    "adagrad": "adagrad",
}


def in_hf_terms(setup: Setup) -> Setup:
    """The setup as transformers says it: its names, and one warm-up; what it has no name for becomes unknown."""
    training = setup.training
    changes: dict[str, Any] = {}
    if training.warmup_ratio is not None and training.warmup_steps is not None:
        # TrainingArguments: a number of steps above 0 overrides the share.
        changes["warmup_steps" if training.warmup_steps == 0 else "warmup_ratio"] = None
    if not setup.traits.hf_names:
        known = (OPTIMIZERS | SCHEDULERS) - REMOVED_NAMES
        optimizer, schedule = training.optim, training.lr_scheduler_type
        if optimizer is not None and optimizer not in known:
            changes["optim"] = _CLASSES.get(optimizer.lower().replace("_", ""))
        if schedule is not None and schedule not in known:
            changes["lr_scheduler_type"] = schedule.lower() if schedule.lower() in known else None
    if not changes:
        return setup
    origins = dict(setup.origins)
    for field, value in changes.items():
        if value is None:
            why = f"transformers has nothing that is called {getattr(training, field)}."
            why = "The other way to set the warm-up overrides it." if field.startswith("warmup") else why
            origins[f"training.{field}"] = Origin(source="unknown", note=why)
    return setup.model_copy(update={"training": training.model_copy(update=changes), "origins": origins})

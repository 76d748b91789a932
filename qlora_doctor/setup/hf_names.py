"""Optimizers and schedules that other trainers call by their classes, under the names of transformers.

Names are those of transformers 5.23 (training_args.py, OptimizerNames; trainer_utils.py, SchedulerType).
"""

from __future__ import annotations

from typing import Any

from .setup import Origin, Setup

_OPTIMIZERS = """
    adamw_torch adamw_torch_fused adamw_torch_xla adamw_torch_npu_fused adafactor adamw_anyprecision adamw_torch_4bit
    adamw_torch_8bit ademamix sgd adagrad adamw_bnb_8bit adamw_8bit ademamix_8bit lion_8bit lion_32bit paged_adamw
    paged_adamw_32bit paged_adamw_8bit paged_ademamix_32bit paged_ademamix_8bit paged_lion_32bit paged_lion_8bit rmsprop
    rmsprop_bnb rmsprop_bnb_8bit rmsprop_bnb_32bit galore_adamw galore_adamw_8bit galore_adafactor
    galore_adamw_layerwise galore_adamw_8bit_layerwise galore_adafactor_layerwise lomo adalomo grokadamw
    schedule_free_radam schedule_free_adamw schedule_free_sgd apollo_adamw apollo_adamw_layerwise stable_adamw
"""
_SCHEDULES = """
    linear cosine cosine_with_restarts polynomial constant constant_with_warmup inverse_sqrt reduce_lr_on_plateau
    cosine_with_min_lr cosine_warmup_with_min_lr warmup_stable_decay greedy
"""
OPTIMIZERS = frozenset(_OPTIMIZERS.split())
SCHEDULES = frozenset(_SCHEDULES.split())
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
OWN = {"axolotl", "llamafactory", "trl", "alignment-handbook", "ms-swift", "firefly", "native", "python"}
"""Dialects whose trainers take transformers' names, and may know more of them than are listed here."""


def in_hf_terms(setup: Setup) -> Setup:
    """The setup as transformers says it: its names, and one warm-up; what it has no name for becomes unknown."""
    training = setup.training
    changes: dict[str, Any] = {}
    if training.warmup_ratio is not None and training.warmup_steps is not None:
        # TrainingArguments: a number of steps above 0 overrides the share.
        changes["warmup_steps" if training.warmup_steps == 0 else "warmup_ratio"] = None
    if setup.dialect not in OWN:
        optimizer, schedule = training.optim, training.lr_scheduler_type
        if optimizer is not None and optimizer not in OPTIMIZERS:
            changes["optim"] = _CLASSES.get(optimizer.lower().replace("_", ""))
        if schedule is not None and schedule not in SCHEDULES:
            changes["lr_scheduler_type"] = schedule.lower() if schedule.lower() in SCHEDULES else None
    if not changes:
        return setup
    origins = dict(setup.origins)
    for field, value in changes.items():
        if value is None:
            why = f"transformers has nothing that is called {getattr(training, field)}."
            why = "The other way to set the warm-up overrides it." if field.startswith("warmup") else why
            origins[f"training.{field}"] = Origin(source="unknown", note=why)
    return setup.model_copy(update={"training": training.model_copy(update=changes), "origins": origins})

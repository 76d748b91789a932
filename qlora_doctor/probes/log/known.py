"""What else is known of a run, and what judging its log needs of that."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from ...facts import Facts

_WITH_RESTARTS = ("cosine_with_restarts", "restarts", "cyclic", "warmup_stable_decay", "schedulefree")
_PREFERENCE = ("dpo", "orpo", "kto", "simpo", "cpo", "ipo")


@dataclass(frozen=True)
class Known:
    """What the config, or a report, says of the run that wrote a log; None is unknown.

    Attributes:
        learning_rate: that was asked for.
        restarts: the schedule rises again by intention.
        evaluates: evaluation was asked for.
        keeps_best: the trainer was set to load the best model at the end.
        accumulation: gradient_accumulation_steps.
        vocabulary: rows of the output head.
        labels: classes of a classifier.
        method: ``sft``, ``dpo``, …
        loss_before, gradient_norm: of the step that ``check`` took with a new adapter.
    """

    learning_rate: float | None = None
    restarts: bool | None = None
    evaluates: bool | None = None
    keeps_best: bool | None = None
    accumulation: int | None = None
    vocabulary: int | None = None
    labels: int | None = None
    method: str | None = None
    loss_before: float | None = None
    gradient_norm: float | None = None
    planned_steps: float | None = None
    planned_epochs: float | None = None


def known_from(facts: Facts | None, setup: Any = None) -> Known:
    """What judging a log needs, out of facts and the setup as it was understood (a ``Setup``, or its JSON).

    The vocabulary that no fact tells is read from the model's config.json, or from the bundled table.
    """
    config = facts.config if facts else None
    training, model = _section(setup, "training"), _section(setup, "model")
    schedule = training.get("lr_scheduler_type")
    steps = training.get("max_steps")
    rows = [facts.step.vocab_rows if facts.step else None, facts.model.vocab_size if facts.model else None,
            facts.data.vocab_rows if facts.data else None] if facts else []  # fmt: skip
    classifies = model.get("task") == "sequence-classification"
    return Known(
        learning_rate=config.learning_rate if config else None,
        restarts=None if schedule is None else any(word in str(schedule) for word in _WITH_RESTARTS),
        evaluates=config.evaluates if config else None,
        keeps_best=_truth(training.get("load_best_model_at_end")),
        accumulation=config.gradient_accumulation if config else None,
        vocabulary=None if classifies else next((each for each in rows if each), None) or _vocabulary(setup),
        labels=model.get("num_labels") if classifies else None,
        method=config.method if config else None,
        loss_before=facts.step.loss_before if facts and facts.step else None,
        gradient_norm=facts.step.gradient_norm if facts and facts.step else None,
        planned_steps=float(steps) if isinstance(steps, int | float) and steps > 0 else None,
        planned_epochs=training.get("num_train_epochs"),
    )


def is_preference(method: str | None) -> bool:
    """Whether a method learns from pairs."""
    return method is not None and any(word in method.lower() for word in _PREFERENCE)


def _section(setup: Any, name: str) -> dict[str, Any]:
    section = setup.get(name) if isinstance(setup, dict) else getattr(setup, name, None)
    if section is None:
        return {}
    values: dict[str, Any] = section if isinstance(section, dict) else section.model_dump(mode="json")
    extra = values.get("extra")
    return {**(extra if isinstance(extra, dict) else {}), **values}


def _vocabulary(setup: Any) -> int | None:
    """``vocab_size`` of the model that a ``Setup`` names."""
    from ...setup.setup import Setup

    if not isinstance(setup, Setup) or setup.model.name_or_path is None:
        return None
    from ...setup.paths import resolve
    from ...tables.architectures import find_architecture

    folder = resolve(setup, setup.model.name_or_path)
    try:
        config = json.loads((folder / "config.json").read_text("utf-8")) if folder is not None else None
    except (OSError, ValueError):
        config = None
    if config is None:
        known = find_architecture(setup.model.name_or_path)
        config = known.config if known is not None else {}
    size = config.get("vocab_size") if isinstance(config, dict) else None
    return size if isinstance(size, int) else None


def _truth(value: Any) -> bool | None:
    return value if isinstance(value, bool) else None

"""What changes of a setup would save, by predicting the changed setup.

A change is traced at two small depths, not at full depth: a stack of equal layers takes memory in proportion to its
depth at each moment of a step (the end of the forward pass, the loss, the last and the first layer's backward pass, the
optimizer), so two depths give each moment at the full one. The setup as it is goes the same way, and where that does
not come out at its own full prediction, changes are traced in full.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from ..setup.resolved import Taken
from .machine import Machine
from .moments import moments
from .predict import Prediction, PredictionError, traced
from .shipped import ATTENTION
from .subject import subject_of_setup
from .traced_once import TracedOnce

if TYPE_CHECKING:
    from ..setup.setup import Setup

TOLERANCE = 0.02
"""Share by which the peak worked out from small depths may differ from the full prediction."""
LOGITS_SHARE = 0.1
"""Share of the peak from which a fused loss is worth predicting."""
ALSO_SAVES_LOADING = ("/training/prepare_for_kbit_training", "/training/trainer")
"""Changes with which loading takes less, too: what is not 4-bit is not cast to float32."""


@dataclass(frozen=True)
class Saving:
    """A change, where it is made, and the peak with it; bytes.

    ``pointer`` is the JSON pointer of the key in native names, ``value`` what to set there.
    """

    change: str
    pointer: str
    value: Any
    peak_allocated_bytes: int
    saved_bytes: int


def savings(
    setup: Setup,
    machine: Machine,
    prediction: Prediction,
    evaluation_batch: int | None = None,
    *,
    architecture: Any = None,
    offline: bool = True,
    known: TracedOnce | None = None,
) -> list[Saving]:
    """Every change that would lower the peak of ``prediction``'s run, the largest saving first.

    ``known`` holds what was traced before, and takes what is traced in full here.

    A change that cannot be predicted is left out, as is one of the step where something else is the run's peak.
    """
    from ..pipeline import load_config

    architecture = architecture or load_config(setup, offline=offline)
    known = known or TracedOnce(setup, architecture, offline=offline)
    peak = peak_by_depth(architecture, machine, offline, known)
    step = prediction.step_allocated_bytes
    others = max((peak for part, (peak, _) in prediction.run.items() if part != "step"), default=0)
    try:
        here = peak(setup)
        exact = abs(here - step) <= TOLERANCE * step
    except (PredictionError, LookupError, ValueError, ArithmeticError, AttributeError):
        exact = False
    if not exact:
        here = step
        peak = _peak_in_full(known, machine)
    found = []
    for change, pointer, value in changes(setup, prediction, architecture.config):
        try:
            there = peak(changed(setup, pointer, value))
        except Exception:  # whatever the libraries raise for a combination they do not take
            continue
        then = max(step - (here - there), others)
        if pointer in ALSO_SAVES_LOADING and then == others:
            then = known.prediction(changed(setup, pointer, value), machine, evaluation_batch).peak_allocated_bytes
        if then < prediction.peak_allocated_bytes:
            found.append(Saving(change, pointer, value, then, prediction.peak_allocated_bytes - then))
    found += _of_evaluation(setup, machine, prediction, evaluation_batch, known)
    return sorted(found, key=lambda saving: -saving.saved_bytes)


def _of_evaluation(
    setup: Setup, machine: Machine, prediction: Prediction, batch: int | None, known: TracedOnce
) -> Iterator[Saving]:
    """What an evaluation with the batch of training would save, where evaluation is the peak of the run."""
    peak = prediction.peak_allocated_bytes
    if batch is None or batch <= prediction.batch or prediction.run["evaluation"][0] < peak:
        return
    then = known.prediction(setup, machine, prediction.batch).peak_allocated_bytes
    if then < peak:
        change = f"evaluation batch {prediction.batch} instead of {batch}"
        yield Saving(change, "/training/per_device_eval_batch_size", prediction.batch, then, peak - then)


def changes(setup: Setup, prediction: Prediction, config: Any) -> Iterator[tuple[str, str, Any]]:
    """What could be changed: a sentence's beginning, the JSON pointer, the value."""
    training = setup.training
    if prediction.batch > 1:
        half = prediction.batch // 2
        yield f"batch {half} instead of {prediction.batch}", "/training/per_device_train_batch_size", half
    if prediction.sequence >= 256:
        half = prediction.sequence // 2
        yield f"at most {half} tokens instead of {prediction.sequence}", "/training/max_length", half
    values = Taken(setup)
    if not values.trainer_checkpoints:
        yield "gradient checkpointing", "/training/gradient_checkpointing", True
    if not any(kind in str(values["training.optim"]) for kind in ("paged", "8bit")):
        yield "a paged 8-bit optimizer", "/training/optim", "paged_adamw_8bit"
    if training.prepare_for_kbit_training is not False and values.trainer != "trl":
        yield "embeddings and norms not cast to float32", "/training/prepare_for_kbit_training", False
    share = prediction.step_breakdown.get("logits_and_loss", 0) / prediction.step_allocated_bytes
    if values.trainer != "trl" and share > LOGITS_SHARE and find_spec("trl") is not None:
        yield "TRL's loss, which never holds all logits", "/training/trainer", "trl"
    if setup.lora.target_modules == "all-linear":
        yield "adapters on the attention projections alone", "/lora/target_modules", ATTENTION
    wanted = setup.model.attn_implementation or getattr(config, "_attn_implementation", None)
    if wanted == "eager":
        yield "fused attention", "/model/attn_implementation", "sdpa"


def changed(setup: Setup, pointer: str, value: Any) -> Setup:
    """A copy of the setup with one value replaced."""
    section, name = pointer.strip("/").split("/")
    part = getattr(setup, section).model_copy(update={name: value})
    return setup.model_copy(update={section: part})


def _peak_in_full(known: TracedOnce, machine: Machine) -> Callable[[Setup], int]:
    def peak(setup: Setup) -> int:
        return known.prediction(setup, machine).step_allocated_bytes

    return peak


def peak_by_depth(architecture: Any, machine: Machine, offline: bool, known: TracedOnce) -> Callable[[Setup], int]:
    """The peak at full depth, from two traces of a stack of few layers."""
    depth = int(architecture.config.get_text_config().num_hidden_layers)
    period = layer_period(architecture.config.get_text_config())
    few, more = 2 * period, 4 * period

    def peak(setup: Setup) -> int:
        if depth <= more:
            return _peak_in_full(known, machine)(setup)
        low, high = (
            moments(traced(subject_of_setup(setup, architecture=shallow, offline=offline), machine), machine)
            for shallow in (of_depth(architecture, few), of_depth(architecture, more))
        )
        return max(low[name] + (high[name] - low[name]) * (depth - few) // (more - few) for name in low)

    return peak


def layer_period(config: Any) -> int:
    """Layers after which the kinds of layers repeat."""
    kinds = list(getattr(config, "layer_types", None) or [])
    for period in range(1, len(kinds) // 2 + 1):
        if all(kind == kinds[place % period] for place, kind in enumerate(kinds)):
            return period
    return 1


def of_depth(architecture: Any, depth: int) -> Any:
    """An architecture with so many layers."""
    config = copy.deepcopy(architecture.config)
    text = config.get_text_config()
    text.num_hidden_layers = depth
    if getattr(text, "layer_types", None):
        text.layer_types = list(text.layer_types)[:depth]
    return replace(architecture, config=config)

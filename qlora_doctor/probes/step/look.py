"""Stage ``step``: the user's own trainer takes two steps on the loaded base, and the observer looks on."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from transformers import TrainerCallback

from ...core.errors import StageError
from ...facts import BatchFacts, StepFacts
from ...facts.memory import MemoryPicture
from ...pipeline import attach, load_tokenizer, make_batches, make_trainer, refuse_to_train_on_nothing
from ...pipeline.base import Base
from ...pipeline.forms import NotFollowedForm
from ...pipeline.four_bit import never_repacked
from ...pipeline.methods import METHODS, method_batches, method_of, start_of_loss
from ...setup.resolved import Taken
from ...setup.setup import Setup
from ..failures import NO_FAILURE, adapted_module, explain, failure_fact, of_other_indices
from ..observing.overheard import overheard
from ..observing.timeline import Timeline
from ..structure.inventory import Inventory
from .observer import Observer
from .picture import measured_picture

Progress = Callable[..., None]
STEPS = 2
_DOING = {
    "attach": "attaching the adapter",
    "batch": "preparing the batch",
    "trainer": "building the trainer",
    "forward": "the forward of a training step",
    "backward": "the backward of a training step",
    "optimizer": "the optimizer's step",
}


@dataclass
class StepSeen:
    """What the stage gives: facts of the steps and of their batches, the memory that they took (None without CUDA), and
    why it ended early, if it did."""

    facts: StepFacts
    batch: BatchFacts | None
    measured: MemoryPicture | None
    error: StageError | None = None


class Callback(TrainerCallback):  # type: ignore[misc]
    """Tells the observer where the trainer is."""

    def __init__(self, observer: Observer, learn: Callable[[StepFacts], None]) -> None:
        self.observer = observer
        self.learn = learn
        self.trainer: Any = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.observer.train_begin(kwargs.get("optimizer"))
        self.learn(self.observer.facts())

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.observer.step_begin(last=state.global_step + 1 >= state.max_steps)

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.observer.before_optimizer()
        self._scale = self._gradient_scale()

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        accelerator = getattr(self.trainer, "accelerator", None)
        skipped = bool(getattr(accelerator, "optimizer_step_was_skipped", False))
        self.observer.after_optimizer(scale=self._scale, skipped=skipped)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.observer.step_end()
        self.learn(self.observer.facts())

    def _gradient_scale(self) -> float:
        scaler = getattr(getattr(self.trainer, "accelerator", None), "scaler", None)
        return float(scaler.get_scale()) if scaler is not None and scaler.is_enabled() else 1.0


def look_at_step(
    setup: Setup,
    base: Base,
    timeline: Timeline,
    progress: Progress,
    *,
    offline: bool = True,
    learn: Callable[[StepFacts], None] = lambda facts: None,
) -> StepSeen:
    """Attach the adapter to a loaded, prepared base and train :data:`STEPS` optimizer steps.

    Args:
        base: as ``look_at_load`` left it; its layers are wrapped in place.
        timeline: the one that watched the load.
        learn: given what is known before the first step and after each, should the process not live to return it.

    Never raises for what the setup does wrong: a failure is a fact, together with all that was seen before it.
    """
    known: dict[str, Any] = {"trainer": Taken(setup).trainer, "device": str(base.device)}
    observer: Observer | None = None
    error: StageError | None = None
    with overheard() as warned, never_repacked(base.model):
        try:
            timeline.begin("attach")
            progress("Attaching the adapter")
            model = attach(base, setup)
            timeline.end()
            observer = Observer(model, timeline, progress)
            callback = Callback(observer, learn)
            known.update(_train(setup, base, model, callback, timeline, offline=offline))
        except (Exception, KeyboardInterrupt) as raised:
            error = explain(raised, _DOING.get(timeline.phase, "the step"))
            if error.kind == "token-out-of-range" and observer is not None and observer.tokens_in_range:
                error = of_other_indices(error)
            module = adapted_module(raised, observer.model) if observer is not None else None
            if error.kind == "other" and module in {part.name for part in Inventory(base.model).routers}:
                error.kind = "adapted-router"
            known["failure"] = failure_fact(error, timeline.phase, module)
            if isinstance(raised, KeyboardInterrupt):
                raise
        else:
            known["failure"] = NO_FAILURE
        finally:
            if observer is not None:
                observer.close()
    known["warnings"] = warned
    measured = measured_picture(observer, base) if observer else None
    return StepSeen(_facts(observer, known), _batch(observer, known), measured, error)


def _train(
    setup: Setup,
    base: Base,
    model: Any,
    callback: Callback,
    timeline: Timeline,
    *,
    offline: bool,
) -> dict[str, Any]:
    """Build batches and trainer and train; returns what the facts say of the data."""
    timeline.phase = "batch"
    batches = _batches(setup, base, model, offline)
    timeline.phase = "trainer"
    observer = callback.observer
    trainer = make_trainer(setup, model, batches, base.device, steps=STEPS, callbacks=[callback], notes=base.notes)
    refuse_to_train_on_nothing(trainer, batches, setup)
    callback.trainer = trainer
    observer.optimizer_stands_in = trainer.optimizer_stands_in
    observer.known["data"] = batches.source
    observer.batches.tokenizer = batches.tokenizer
    observer.batches.config = getattr(model, "config", None)
    # With trl the trainer may wrap the model itself; what it trains is what counts.
    observer.model = trainer.model
    method = METHODS.get(str(batches.method))
    if method is not None:
        observer.follow_loss(trainer, compares=not method.generates)
        observer.known.update(method=batches.method, loss_expected=start_of_loss(trainer, method))
    try:
        trainer.train()
    finally:
        with contextlib.suppress(AttributeError):
            trainer.temporary_folder.cleanup()
    observer.train_end()
    return {"trainer": type(trainer).__module__.split(".")[0], "data": batches.source}


def _batches(setup: Setup, base: Base, model: Any, offline: bool) -> Any:
    """The config's samples, or random tokens where there are none; where the data cannot be read, random tokens too.

    Why the data cannot be read is what stage ``data`` tells; the step is worth seeing all the same.
    """
    tokenizer = None
    try:
        tokenizer = load_tokenizer(setup, base.architecture, offline=offline)
        return _made(setup, model, tokenizer)
    except (StageError, NotFollowedForm):
        if not setup.data.train and not setup.named_data:
            raise
        return _made(setup, model, tokenizer, synthetic=True)


def _made(setup: Setup, model: Any, tokenizer: Any, synthetic: bool = False) -> Any:
    """Batches of the setup's method; those of supervised fine-tuning where its trainer is not stepped."""
    method = method_of(setup)
    if method is None:
        return make_batches(setup, model, tokenizer, steps=STEPS, synthetic=synthetic)
    return method_batches(setup, method, model, tokenizer, steps=STEPS, synthetic=synthetic)


def _batch(observer: Observer | None, known: dict[str, Any]) -> BatchFacts | None:
    """What the batches teach; random tokens teach nothing that could be judged, and pairs are judged in stage data."""
    if observer is None or observer.known.get("method") or known.get("data") != "file":
        return None
    return observer.batches.facts()


def _facts(observer: Observer | None, known: dict[str, Any]) -> StepFacts:
    seen = observer.facts() if observer is not None else StepFacts()
    return seen.model_copy(update=known)

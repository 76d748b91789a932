"""One update of a training that is watched: its losses on the way back, its gradients on the way to the optimizer."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from . import accumulating, stepping
from .backward import BackwardWatch
from .clipping import Clipping
from .losses import LossWatch
from .optimizers import Together
from .scaler import Scaler
from .scaling import constant_factor, negated, scale_facts, scaler_facts
from .training import Training, finite
from .turned import Turned

_OF_ITS_LOSS = (
    "loss_scale", "sums_over_accumulation", "divides_twice", "unshifted_loss", "sums_over_tokens", "divided_by",
)  # fmt: skip
"""Facts of a run that the loss of one update shows."""

_MULTIPLIES = ("sums_over_accumulation", "sums_over_tokens", "unshifted_loss", "scaled_twice")
"""Those that say why a loss is many times the mean."""

_DIVIDED = 0.02
"""How near a share of the gradients' norm has to be to one over the micro-batches to be a division by them."""
_ABOVE = 1.05
"""Times the limit that a clipped norm may be by rounding."""


class Update:
    """Watches the backward passes of each update.

    Args:
        training: that is watched.
        scaler: its gradient scaler.
    """

    def __init__(self, training: Training, scaler: Scaler) -> None:
        self._training, self._scaler = training, scaler
        self._accumulation: list[int | None] = []
        self._cleared: list[bool] = []
        self._losses: list[tuple[float, float]] = []
        self._backward: BackwardWatch | None = None
        self._loss: LossWatch | None = None
        self._clipping: Clipping | None = None
        self._turned: Turned | None = None
        self._began = False
        self._share: float | None = None
        """Of the gradients' norm, what is left when the step clips them, or begins."""

    def put_on(self, backward_begins: Callable[[], None]) -> None:
        """Watch backward, and what a trainer gives to its loss.

        Args:
            backward_begins: called before each backward.
        """
        training = self._training
        self._backward = BackwardWatch(backward_begins, training.guard)
        if training.whole:  # sharded gradients are clipped by other functions
            self._clipping = Clipping(self._trained, training.guard)
        if training.world == 1 and training.whole and training.onlooker is not None:
            self._turned = Turned(training.onlooker.parameters, training.guard)
        trainer = training.trainer()
        if trainer is not None:
            self._loss = LossWatch(trainer, self._inputs_given, training.guard)

    def take_off(self) -> None:
        """Take both off."""
        for each in (self._backward, self._loss, self._clipping, self._turned):
            if each is not None:
                each.close()

    def _trained(self) -> list[Any]:
        onlooker = self._training.onlooker
        return list(onlooker.parameters.values()) if onlooker is not None else []

    def _note(self, event: str) -> None:
        if self._clipping is not None:
            self._clipping.note(event)

    def begin(self) -> None:
        """A step begins with its first forward."""
        self._note("forward")
        self.know_clipping()

    def know_clipping(self) -> None:
        """Where the steps so far clipped their gradients, and whether a trainer that is to do so did."""
        run = self._training.run
        if self._clipping is None:
            return
        asked = getattr(self._training.arguments, "max_grad_norm", None)
        run["clipping"], run["clip_limit"] = self._clipping.where(), self._clipping.limit or asked
        norm = run.get("gradient_norm_step")
        if run["clipping"] is None and asked and norm and self._scaler.scale == 1 and norm > _ABOVE * asked:
            run["clipping"] = "never"

    def _inputs_given(self, inputs: Mapping[str, Any], counted: bool | None) -> None:
        """The trainer is about to compute a loss."""
        training = self._training
        assert training.onlooker is not None
        training.onlooker.trainer_inputs = dict(inputs)
        if counted is not None:
            training.run["loss_takes_count"] = counted

    def backward_begins(self) -> None:
        """The first backward of a step finds the gradients as the step before left them, the others as the first."""
        training, run = self._training, self._training.run
        onlooker = training.onlooker
        assert onlooker is not None
        self._note("backward")
        self._accumulation.append(accumulating.asked_for() if training.is_loop else None)
        first, self._began = not self._began, True
        if not training.whole:
            return
        held = Together(training.optimizers).tensors
        if not first:
            held = held or {id(parameter) for parameter in onlooker.parameters.values()}
            gradients, scale = onlooker.gradients, self._scaler.scale
            self._cleared.append(
                stepping.cleared(onlooker.parameters, gradients.fired, held, lambda: gradients.norms_now(scale))
            )
            # Once is a step that a loop left out, for a loss that was none as an example.
            # The same batch again is a second pass (sharpness-aware steps), and no accumulation.
            batches = onlooker.batches.digests
            again = len(batches) > 1 and batches[-1] == batches[-2]
            run["cleared_within"] = len(self._cleared) > 1 and all(self._cleared) and not again
        elif training.steps:
            left = stepping.left_over(onlooker.parameters, held)
            run["gradients_left"] = max(left, run.get("gradients_left") or 0.0)

    def before_optimizer(self) -> None:
        """Gradients between backward and the step; of sharded ones a process sees its part alone."""
        training = self._training
        onlooker, scale = training.onlooker, self._scaler.scale
        assert onlooker is not None
        self._note("step")
        if not training.whole:
            return
        came = onlooker.gradients.norms_now(scale)
        run = training.run
        run["gradient_scale"] = scale
        held = Together(training.optimizers).tensors
        run |= stepping.on_the_way(came, onlooker.parameters, held, scale)
        clipped_from = self._clipping.norm_before() if self._clipping is not None else None
        made, used = run.get("gradient_norm_backward"), clipped_from or run.get("gradient_norm_step")
        self._share = used / made if made and used and scale == 1 else None
        if self._turned is not None:
            turned = self._turned.take({name: norm * scale for name, norm in came.items()})
            if not run.get("gradients_left") and not run.get("cleared_within"):
                run |= turned

    def end(self) -> None:
        """The step is over: its loss against what its batches have as their mean."""
        training, run = self._training, self._training.run
        onlooker, scale = training.onlooker, self._scaler.scale
        assert onlooker is not None and self._backward is not None
        self._began = False
        losses = self._backward.take()
        backward = sum(losses) if losses else None
        onlooker.read_labels(backward)
        mean = onlooker.mean_loss()
        if not onlooker.micro_batches[-1]:  # no gradient passed a hook
            onlooker.micro_batches[-1] = len(losses)
        run["micro_batches"] = list(onlooker.micro_batches)
        raw = backward
        if backward is not None and scale:
            backward /= scale
        plain, count = onlooker.mean_of_means(), onlooker.micro_batches[-1]
        for parts in (count, onlooker.counted_tokens):
            if backward is not None and self._share and parts and abs(self._share * parts - 1) < _DIVIDED:
                backward /= parts  # the gradients are divided in the loss's place
                break
        run.update(dict.fromkeys(_OF_ITS_LOSS), backward_loss=finite(backward), mean_loss=finite(mean))
        training.rank_loss = {
            "backward_loss": finite(backward),
            "mean_loss": finite(mean),
            "mean_of_means": finite(plain),
        }
        if (
            backward is not None
            and mean
            and plain
            and onlooker.parts == count
            and training.world == 1
            and not all(self._cleared or [False])
        ):
            # Of several ranks only all together can tell.
            run |= scale_facts(
                backward, mean, plain, count, unshifted=onlooker.unshifted_loss(), tokens=onlooker.counted_tokens,
                whole=onlooker.whole,
            )  # fmt: skip
        self.know_accumulation()
        self.know_clipping()
        if raw is not None and mean:
            run |= scaler_facts(raw / mean, scale, count)
        self._know_factor(backward, plain if onlooker.whole and onlooker.parts == count else None)
        training.rank_loss |= {"trained_tokens": onlooker.counted_tokens or None}
        if onlooker.counted_tokens:
            run["tokens_per_update"] = onlooker.counted_tokens * training.world
        training.losses = [*training.losses, backward]
        finite_so_far = all(finite(loss) is not None for loss in training.losses)
        if finite_so_far and scale == 1 and onlooker.gradients.steps:
            norms = onlooker.gradients.steps[-1].norms.values()
            run["gradient_broke_first"] = bool(run.get("gradient_broke_first")) or not all(map(math.isfinite, norms))

    def _know_factor(self, backward: float | None, by_logits: float | None) -> None:
        """Whether the loss is a multiple of the mean loss in every step, for no reason that is known otherwise.

        Args:
            by_logits: mean over the micro-batches of this step of their mean losses, where that is exact.
        """
        training, run = self._training, self._training.run
        assert training.onlooker is not None
        answered = training.onlooker.answered_loss()
        mean = answered if answered is not None else by_logits
        self._losses.append((backward or 0.0, mean or 0.0))
        run["loss_negated"] = training.world == 1 and negated(self._losses)
        factor = constant_factor(*zip(*self._losses, strict=True)) if training.world == 1 else None
        if factor is not None and (factor < 0.99 or any(run.get(name) for name in _MULTIPLIES)):
            factor = None  # reported under its own name; a share of the loss may be a weight that is meant
        run["loss_factor"] = factor

    def know_accumulation(self) -> None:
        """How many micro-batches a loop's update is to take, by its own names, and whether it steps with each."""
        training, run = self._training, self._training.run
        if training.is_loop:
            meant = set(self._accumulation)
            run["accumulation_asked"] = next(iter(meant)) if len(meant) == 1 else None
        asked, onlooker = run.get("accumulation_asked"), training.onlooker
        assert onlooker is not None
        if run.get("divided_by") not in (None, 1, asked):  # a weight of the loss that nothing names
            run["divided_by"] = 1
        alone = all(count == 1 for count in onlooker.micro_batches)
        run["accumulation_ignored"] = (
            bool(asked and asked > 1)
            and alone
            and (run.get("divided_by") == asked or (training.is_loop and len(onlooker.micro_batches) > 1))
        )

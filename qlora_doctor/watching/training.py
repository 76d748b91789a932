"""What one training is, and what is known of it by now: shared by the parts of a watch."""

from __future__ import annotations

import time
import weakref
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from ..facts import Facts
from ..facts.load import LoadFailure
from ..probes.failures import NO_FAILURE
from ..probes.observing.overheard import Overhearing
from ..probes.step.optimizer import unwrapped as unwrapped_optimizer
from ..probes.tensors import parameters_of
from . import adapters
from .guarding import Guard
from .onlooker import Onlooker
from .records import Options
from .working import Work

WHOLE = ("none", "ddp")
"""Kinds of parallel training in which each rank holds the whole model."""


class Training:
    """One training of one process.

    Args:
        model: the (PEFT) model, without what parallel training put around it; only referred to, never held.
        options: how long to look, and when to stop the training.
        called: what the loop calls, where that is known and is not the model.
        trainer: transformers' trainer, or None; only referred to.
        ranks: rank, world size and local rank.
        heard: listens to the libraries' warnings.
        guard: wraps every hook.
        number: of this training in its process, from 1.

    Attributes:
        run: fields of ``RunFacts`` that are known.
        facts: all that is known, as last written.
        steps: watched steps that ended; ``skipped`` those that a gradient scaler left out.
        counted: all optimizer steps.
        losses: of each watched step, as it was made.
        found: the objects of this process by the name of their class.
        stepping: the optimizers, once the watched steps are over.
        hidden: sharding has put the tensors of many modules into one.
    """

    def __init__(
        self,
        model: nn.Module,
        options: Options,
        *,
        called: nn.Module | None,
        trainer: Any,
        ranks: tuple[int, int, int],
        heard: Overhearing,
        guard: Guard,
        number: int,
    ) -> None:
        self.options, self.called, self.heard, self.guard, self.number = options, called, heard, guard, number
        self.rank, self.world, _ = ranks
        self._model = weakref.ref(model)
        self.trainer = weakref.ref(trainer) if trainer is not None else lambda: None
        self.started = time.time()
        self.work = Work()
        self.facts = Facts()
        self.run: dict[str, Any] = {}
        self.arguments: Any = None
        self.tokenizer: Any = None
        self.parallel = "none"
        self.hidden = False
        self.found: dict[str, list[Any]] = {}
        self.optimizers: list[Any] = []
        self.stepping: Sequence[weakref.ref[Any]] = ()
        self.onlooker: Onlooker | None = None
        self.steps = self.counted = self.skipped = 0
        self.ended = "running"
        self.failure: LoadFailure = NO_FAILURE
        self.losses: Sequence[float | None] = ()
        self.rank_loss: dict[str, Any] = {}
        self.rates_now: Sequence[float | None] = ()
        self.breakdown: dict[str, int] | None = None
        self.digests: list[str] | None = None
        self.trainable_digest: str | None = None
        self.loads: Sequence[adapters.Loaded] = ()

    def model(self) -> nn.Module | None:
        """The model, while it is there."""
        return self._model()

    @property
    def is_loop(self) -> bool:
        """A loop of the user's own, not a trainer."""
        return self.run.get("kind") == "loop"

    @property
    def whole(self) -> bool:
        """This process holds the whole model."""
        return self.parallel in WHOLE

    def held(self) -> set[int]:
        """Ids of the optimizers that are known, without what was put around them."""
        return {id(unwrapped_optimizer(each)) for each in self.optimizers}


def device_of(model: nn.Module) -> torch.device:
    """The device that the model computes on."""
    for _, parameter in parameters_of(model):
        if parameter.device.type not in ("cpu", "meta"):
            return parameter.device
    return torch.device("cpu")


def finite(value: Any) -> float | None:
    """A number, or None for what is none or not finite."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if abs(number) < float("inf") else None

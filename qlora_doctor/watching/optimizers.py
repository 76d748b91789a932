"""The optimizers of a training that is watched: what they hold, and how far they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from ..facts.run import ParameterGroup
from ..probes.live.config import optimizer_config
from ..probes.step.optimizer import optimizer_facts
from ..probes.step.optimizer import unwrapped as unwrapped_optimizer
from ..probes.tensors import parameters_of
from . import adapters, stepping
from .arguments import against_arguments
from .training import Training, finite


class Together:
    """Several optimizers as one, for what is asked of one."""

    def __init__(self, optimizers: Sequence[Any]) -> None:
        self.inner = [unwrapped_optimizer(each) for each in optimizers]

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The groups of all."""
        return [group for each in self.inner for group in each.param_groups]

    @property
    def state(self) -> dict[Any, Any]:
        """The state of all."""
        return {key: value for each in self.inner for key, value in each.state.items()}

    @property
    def tensors(self) -> set[int]:
        """Ids of the tensors in the groups of all."""
        return {id(p) for group in self.param_groups for p in group["params"]}

    @property
    def rates(self) -> list[float | None]:
        """The learning rate of each group."""
        return [finite(group.get("lr")) for group in self.param_groups]


def belongs(training: Training, optimizer: Any) -> bool:
    """Whether an optimizer is of this training: an optimizer of something else may step in the same process.

    One that holds no trainable tensor of the model counts where no other has stepped: it may be a stale one.
    """
    if id(optimizer) in training.held():
        return True
    assert training.onlooker is not None
    own = {id(p) for p in training.onlooker.parameters.values()}
    return not training.optimizers or any(id(p) in own for g in optimizer.param_groups for p in g["params"])


def know_optimizer(training: Training) -> None:
    """What the optimizers hold, against the model and against the trainer's arguments."""
    onlooker, run = training.onlooker, training.run
    assert onlooker is not None
    together = Together(training.optimizers)
    onlooker.optimizer = together
    found = optimizer_facts(together, onlooker.model)
    found = found.model_copy(update={"name": type(together.inner[0]).__name__})
    if training.parallel in ("fsdp", "deepspeed"):  # these hold flat tensors of their own
        unknown = ("frozen_parameters", "missing_parameters", "stale_parameters")
        found = found.model_copy(update=dict.fromkeys(unknown))
    onlooker.known["optimizer"] = found
    run.update(_groups(together, onlooker.model), **_settings(together.param_groups))
    if training.facts.config is not None:  # a loop makes its optimizer before its first forward, or after
        asked = {name: value for name, value in optimizer_config(together.inner[0], together.param_groups).items()
                 if getattr(training.facts.config, name) is None}  # fmt: skip
        if asked:
            config = training.facts.config.model_copy(update=asked)
            training.facts = training.facts.model_copy(update={"config": config})
    run["idle_groups"] = stepping.idle_groups(run["groups"])
    run |= adapters.roles(onlooker.model, together.tensors)
    run |= against_arguments(training.arguments, together.param_groups, run["groups"])


def steps_taken(optimizers: Sequence[Any]) -> int | None:
    """The most steps that an optimizer of these has counted in its state; 0 without a state, None where it counts
    none, or where the device would have to be waited for."""
    found = 0
    for each in optimizers:
        for state in list(unwrapped_optimizer(each).state.values()):
            step = state.get("step") if isinstance(state, Mapping) else None
            if step is None or (isinstance(step, torch.Tensor) and step.device.type != "cpu"):
                return None
            found = max(found, int(step))
    return found


def _groups(optimizer: Together, model: nn.Module) -> dict[str, Any]:
    names = {id(p): name for name, p in parameters_of(model)}
    groups, decayed, total = [], 0, 0
    for group in optimizer.param_groups:
        elements = sum(p.numel() for p in group["params"] if p.requires_grad)
        decay = group.get("weight_decay")
        total += elements
        decayed += elements if decay else 0
        kinds = {_kind(names[id(p)]) for p in group["params"] if id(p) in names}
        groups.append(
            ParameterGroup(
                parameters=len(group["params"]),
                elements=elements,
                learning_rate=finite(group.get("lr")),
                weight_decay=finite(decay),
                kinds=sorted(kinds)[:6],
            )
        )
    return {"groups": groups, "decayed_ratio": decayed / total if total else None}


def _settings(groups: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What a step takes away of the weights, and what is added beneath Adam's root; of the groups the largest."""
    # torch's Adam adds its decay to the gradient, which it then divides: nothing is taken of the weights themselves.
    taking = [group for group in groups if group.get("decoupled_weight_decay", True)]
    rates = [(float(group.get("initial_lr", group.get("lr", 0.0))), group.get("weight_decay")) for group in taking]
    decays = [(rate * float(decay), float(decay)) for rate, decay in rates if isinstance(decay, (int, float))]
    beneath = [float(group["eps"]) for group in groups if "betas" in group and isinstance(group.get("eps"), float)]
    most, decay = max(decays, default=(None, None))
    return {"decay_per_step": most, "weight_decay_real": decay, "epsilon_real": max(beneath, default=None)}


def _kind(name: str) -> str:
    """``….q_proj.lora_A.default.weight`` → ``lora_A``; else the last part of the name."""
    parts = name.split(".")
    return next((part for part in parts if part.startswith("lora_")), parts[-1])

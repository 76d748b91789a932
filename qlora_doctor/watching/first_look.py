"""The first look at a training, before its first step: its trainer, how its processes share the work, the model."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ..facts import Facts, LoadFacts
from ..probes.environment import look_at_environment
from ..probes.failures import NO_FAILURE
from ..probes.live.config import live_config
from ..probes.live.sharding import sharding_of
from ..probes.load.loaded import loaded_facts, nonfinite_among, nonfinite_tensors
from ..probes.step.optimizer import unwrapped as unwrapped_optimizer
from ..probes.structure.adapter import adapter_facts
from ..probes.structure.model import model_facts
from ..probes.structure.quantization import quantization_facts
from ..probes.tensors import every_module, parameters_of, trainable_parameters
from . import adapters
from .arguments import arguments_config, asked
from .training import Training, device_of


def know_model(training: Training, model: nn.Module) -> None:
    """Structure, quantization, and what is loaded."""
    optimizer = training.optimizers[0] if training.optimizers else None
    config = live_config(model, unwrapped_optimizer(optimizer) if optimizer is not None else None)
    config = config.model_copy(update=arguments_config(training.arguments))
    training.hidden = sharding_of(model).look is not None
    device = str(device_of(model))
    known: dict[str, Any] = {"config": config, "environment": look_at_environment(), "model": model_facts(model)}
    if training.hidden:  # tensors of many modules in one: nothing of them can be told apart
        training.facts = Facts(**known, load=LoadFacts(device=device, failure=NO_FAILURE))
        return
    load = LoadFacts(
        device=device, **loaded_facts(model), nonfinite_tensors=nonfinite_tensors(model), failure=NO_FAILURE
    )
    training.facts = Facts(
        **known, adapter=adapter_facts(model), quantization=quantization_facts(model), load=load
    )  # fmt: skip


def know_trainer(training: Training, state: Any) -> None:
    """What runs the training, and where it begins.

    Args:
        state: the trainer's own, or None.
    """
    trainer, run = training.trainer(), training.run
    kind = type(trainer) if trainer is not None else None
    run.update(
        kind="trainer" if training.arguments is not None else "loop",
        trainer=f"{kind.__module__.partition('.')[0]}.{kind.__name__}" if kind is not None else None,
        world_size=training.world,
        parallel=training.parallel,
        training=training.number,
        nonfinite_step=0,
        nonfinite_tensors=[],
        **asked(training.arguments),
    )
    if state is not None:
        run.update(max_steps=state.max_steps, resumed_step=state.global_step)
        run["resumed_done"] = bool(state.global_step) and state.global_step >= state.max_steps
    if trainer is not None:
        own = getattr(kind, "compute_loss", None)
        run["own_compute_loss"] = not str(getattr(own, "__module__", "")).startswith(("transformers.", "trl."))


def know_adapters(training: Training, model: nn.Module) -> None:
    """Whether what trains is sound, and the adapter that was loaded the one that is there."""
    training.run["nonfinite_trainable"] = nonfinite_among(trainable_parameters(model))
    training.run |= adapters.roles(model, set())
    if training.whole:
        training.run |= adapters.overwritten(model, training.loads)


def one_tokenizer(training: Training, model: nn.Module) -> Any:
    """The tokenizer of a loop of one's own: the only one that there is, or the one of the model's name."""
    every = training.found["PreTrainedTokenizerBase"]
    if len(every) == 1:
        return every[0]
    name = getattr(getattr(model, "config", None), "name_or_path", None)
    named = [each for each in every if getattr(each, "name_or_path", "") == name]
    return named[-1] if named else None


def parallel_of(trainer: Any, called: nn.Module | None, model: nn.Module) -> str:
    """How the processes of a training share its work."""
    names = {type(each).__name__ for each in (called, getattr(trainer, "model_wrapped", None)) if each is not None}
    if "DeepSpeedEngine" in names or getattr(trainer, "is_deepspeed_enabled", False):
        return "deepspeed"
    if any(type(part).__name__ == "FullyShardedDataParallel" for part in every_module(model)):
        return "fsdp"
    if any(type(p).__name__ == "DTensor" or hasattr(p, "_local_tensor") for _, p in parameters_of(model)):
        return "fsdp2"
    if "FullyShardedDataParallel" in names or getattr(trainer, "is_fsdp_enabled", False):
        return "fsdp"
    if "DistributedDataParallel" in names:
        return "ddp"
    if (
        torch.distributed.is_available()
        and torch.distributed.is_initialized()
        and torch.distributed.get_world_size() > 1
    ):
        return "ddp"
    return "none"

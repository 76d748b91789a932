"""The same probes on live objects: a model, an optimizer and a batch that a training script has already built."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from ...facts import Facts, LoadFacts, MemoryFacts, StepFacts
from ..batch import BatchLook
from ..failures import NO_FAILURE, explain, failure_fact, of_other_indices
from ..load.loaded import loaded_facts, nonfinite_tensors
from ..observing.overheard import overheard
from ..observing.timeline import Timeline
from ..step.observer import Observer
from ..step.optimizer import optimizer_facts, step_of
from ..step.picture import measured_picture
from ..structure.adapter import adapter_facts
from ..structure.model import model_facts
from ..structure.quantization import quantization_facts
from ..tensors import trainable_parameters
from .restoring import as_found
from .sharding import sharding_of

STEPS = 2
"""Forwards, backwards and optimizer steps that are taken; lora_A has its first gradient in the second."""
_DOING = {"forward": "the forward", "backward": "the backward", "optimizer": "the optimizer's step"}


def examine_objects(
    model: nn.Module,
    optimizer: Any | None = None,
    batch: Any | None = None,
    *,
    step: bool = True,
    autocast: torch.dtype | str | None = None,
) -> Facts:
    """Look at live objects; model, optimizer, gradients, modes and random state are left bit for bit as they were.

    A sharded model is looked at through the shards of this process, and no step of it is taken: see ``sharding_of``.

    Args:
        model: a (PEFT) model as it is about to train.
        optimizer: torch's, or accelerate's around one; without it gradients are looked at and updates are not.
        batch: what the model is called with: a mapping of tensors with ``input_ids``, or the ids alone. Without
            ``labels`` the ids are the labels, padding left out. Without a batch nothing is run.
        step: False looks without running anything, whatever else is given.
        autocast: dtype of the autocast that the training script runs its forward in.
    """
    sharding = sharding_of(model)
    if sharding.look is not None:
        return Facts()
    found = loaded_facts(model)
    bad = nonfinite_tensors(model)
    load = LoadFacts(device=str(_device(model)), **found, nonfinite_tensors=bad, failure=NO_FAILURE)
    facts: dict[str, Any] = {
        "model": model_facts(model),
        "adapter": adapter_facts(model),
        "quantization": quantization_facts(model),
        "load": load,
    }
    if batch is None or not step or sharding.step is not None:
        facts["step"] = _static(model, optimizer)
        return Facts(**facts)
    inputs = _as_inputs(batch, model)
    look = BatchLook(config=getattr(model, "config", None))
    look.look(inputs if isinstance(batch, Mapping) and "labels" in batch else {**inputs, "labels": None})
    facts["batch"] = look.facts()
    facts["step"], measured = _steps(model, optimizer, inputs, autocast)
    if measured is not None:
        facts["memory"] = MemoryFacts(measured=measured)
    return Facts(**facts)


def _static(model: nn.Module, optimizer: Any | None) -> StepFacts | None:
    """What an optimizer shows before it has stepped; None without one."""
    if optimizer is None:
        return None
    parameters = trainable_parameters(model)
    return StepFacts(
        device=str(_device(model)),
        trainable_tensors=len(parameters),
        trainable_dtypes=sorted({str(p.dtype).removeprefix("torch.") for p in parameters.values()}),
        optimizer=optimizer_facts(optimizer, model),
    )


def _steps(
    model: nn.Module,
    optimizer: Any | None,
    inputs: dict[str, Any],
    autocast: torch.dtype | str | None,
) -> tuple[StepFacts, Any]:
    timeline = Timeline(_device(model))
    known: dict[str, Any] = {"device": str(timeline.device), "data": "given", "failure": NO_FAILURE}
    observer = Observer(model, timeline, lambda text: None)
    step = step_of(optimizer) if optimizer is not None else None
    if step is not None and _wants_closure(step):
        # It would run the forward itself, as often as it likes: gradients are looked at, updates are not.
        optimizer, step = None, None
    with as_found(model, optimizer) as kept, overheard() as warned:
        try:
            model.train()
            observer.train_begin(optimizer, step)
            for number in range(STEPS):
                _one_step(model, step, inputs, observer, _context(timeline.device, autocast), number + 1 == STEPS)
            timeline.phase = "idle"
            observer.train_end()
        except Exception as raised:
            error = explain(raised, _DOING.get(timeline.phase, "the step"))
            if error.kind == "token-out-of-range" and observer.tokens_in_range:
                error = of_other_indices(error)
            known["failure"] = failure_fact(error, timeline.phase)
        finally:
            observer.close()
            seen, measured = observer.facts(), measured_picture(observer)
    if not kept.complete and seen.changed_base_tensors:
        warned.append("Base tensors that the step changed could not be put back: there was no room for a copy of them.")
    return seen.model_copy(update={**known, "warnings": warned}), measured


def _one_step(
    model: nn.Module,
    step: Callable[[], Any] | None,
    inputs: dict[str, Any],
    observer: Observer,
    context: Callable[[], contextlib.AbstractContextManager[Any]],
    last: bool,
) -> None:
    observer.step_begin(last=last)
    with context():
        output = model(**inputs)
    loss = output["loss"] if isinstance(output, Mapping) else output[0]
    loss.backward()
    observer.before_optimizer()
    if step is not None:
        step()
    observer.after_optimizer()
    observer.forget_gradients()
    observer.step_end()


def _wants_closure(step: Callable[..., Any]) -> bool:
    """Whether a step cannot be called alone, as LBFGS' cannot."""
    try:
        inspect.signature(step).bind()
    except TypeError:
        return True
    except ValueError:  # it does not tell
        return False
    return False


def _context(
    device: torch.device, dtype: torch.dtype | str | None
) -> Callable[[], contextlib.AbstractContextManager[Any]]:
    if dtype is None:
        return contextlib.nullcontext
    wanted = getattr(torch, dtype.removeprefix("torch.")) if isinstance(dtype, str) else dtype
    return lambda: torch.autocast(device.type, dtype=wanted)


def _as_inputs(batch: Any, model: nn.Module) -> dict[str, Any]:
    """The batch as keyword arguments on the model's device, with labels."""
    if isinstance(batch, torch.Tensor):
        batch = {"input_ids": batch}
    if not isinstance(batch, Mapping):
        raise TypeError(f"a batch is a mapping of tensors or a tensor of token ids, not {type(batch).__name__}")
    device = _device(model)
    inputs = {name: value.to(device) if isinstance(value, torch.Tensor) else value for name, value in batch.items()}
    if "labels" not in inputs and "input_ids" in inputs:
        labels = inputs["input_ids"].clone()
        mask = inputs.get("attention_mask")
        if isinstance(mask, torch.Tensor) and mask.shape == labels.shape:
            labels[mask == 0] = -100
        inputs["labels"] = labels
    return inputs


def _device(model: nn.Module) -> torch.device:
    devices = [p.device for p in model.parameters() if p.device.type != "meta"]
    accelerators = [device for device in devices if device.type != "cpu"]
    return (accelerators or devices or [torch.device("cpu")])[0]

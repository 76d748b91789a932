"""The tape of an evaluation batch: a forward pass without gradients, beside all that training leaves on the card."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch

from .as_on_cuda import as_on_cuda
from .kept_outputs import keep
from .liger import rotating
from .load import write_load
from .machine import Machine
from .operators import register_bitsandbytes
from .step import (
    StepOptions,
    batch_of,
    divided_over_ranks,
    loss_of,
    make_ready,
    prepared_forward,
    takes_loss_arguments,
    vocabulary_of,
)
from .subject import Subject
from .tape import Tape
from .trace import Recorder
from .trl_step import without_triton


def trace_evaluation(subject: Subject, machine: Machine, batch: int, *, made_ready: bool = True) -> Tape:
    """The tape of one evaluation batch of ``batch`` samples, to be played after training steps of the same subject.

    The samples are as long as in training. Where outputs are kept, it is the tape of all batches that are there at
    once, else only the loss is. Leaves the subject's model in evaluation mode.

    Args:
        made_ready: the subject's step was traced, so its trainer has changed the model already.
    """
    model, options = subject.model, replace(subject.step, batch=batch, packing=False)
    tape = Tape()
    register_bitsandbytes()
    recorder = Recorder(tape, vocabulary=vocabulary_of(model))
    model.eval()
    write_load(recorder, model, subject.load)
    with (
        as_on_cuda(machine, options.flash),
        without_triton() if options.trainer == "trl" else nullcontext(),
        rotating(model, options.liger),
        recorder,
        torch.no_grad(),
    ):
        if not made_ready:
            make_ready(recorder, model, options, subject.program)
        divided_over_ranks(recorder, model, options)
        tape.step_start = len(tape.events)
        forward = prepared_forward(model, options)
        items = torch.zeros((), dtype=torch.int64, device="meta")
        inputs = batch_of(recorder, model, options, subject.program)
        tape.phase("evaluation")
        if options.kept is None:
            loss_of(model, forward, inputs, items, options, subject.program)
        else:
            outputs = _outputs(model, forward, inputs, items, options)
            storages = [recorder.index_of(tensor) for tensor in outputs]
            kept = list(dict.fromkeys(index for index in storages if index is not None))
            batches = options.kept.batches(batch)
            keep(tape, tape.step_start, kept, batches, to_host=options.kept.accumulated is not None)
    tape.phase("end")
    recorder.close()
    return tape


def _outputs(
    model: Any, forward: Callable[..., Any], inputs: dict[str, Any], items: torch.Tensor, options: StepOptions
) -> list[torch.Tensor]:
    """What ``Trainer.prediction_step`` hands to the loop beside the loss: all outputs that the model's config does not
    leave out. trl's fused head makes no logits, so its trainer runs the model once more for them."""
    if options.trainer == "trl":
        loss_of(model, forward, dict(inputs), items, options, None)
        given = {name: value for name, value in inputs.items() if name != "labels"}
        logits: torch.Tensor = forward(**given, use_cache=False)["logits"]
        return [logits]
    more = {"num_items_in_batch": items} if takes_loss_arguments(model) else {}
    outputs = forward(**inputs, **more)
    left_out = getattr(model.config, "keys_to_ignore_at_inference", None) or ["past_key_values"]
    return [
        value for name, value in outputs.items() if name not in (*left_out, "loss") and isinstance(value, torch.Tensor)
    ]

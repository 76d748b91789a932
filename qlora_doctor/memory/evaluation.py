"""The tape of an evaluation batch: a forward pass without gradients, beside all that training leaves on the card."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace

import torch

from .as_on_cuda import as_on_cuda
from .liger import rotating
from .load import write_load
from .machine import Machine
from .operators import register_bitsandbytes
from .step import batch_of, divided_over_ranks, loss_of, make_ready, prepared_forward, vocabulary_of
from .subject import Subject
from .tape import Tape
from .trace import Recorder
from .trl_step import without_triton


def trace_evaluation(subject: Subject, machine: Machine, batch: int, *, made_ready: bool = True) -> Tape:
    """The tape of one evaluation batch of ``batch`` samples, to be played after training steps of the same subject.

    The samples are as long as in training, and only the loss is kept. Leaves the subject's model in evaluation mode.

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
        loss_of(model, forward, inputs, items, options, subject.program)
    tape.phase("end")
    recorder.close()
    return tape

"""The peak of an evaluation step: a forward pass without gradients, beside all that training leaves on the card."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace

import torch

from .kernels import register_bitsandbytes
from .load import write_load
from .machine import Machine
from .play import playing_cuda
from .predict import Prediction, PredictionError
from .replay import replay
from .step import _batch, _loss, _prepared_forward, _vocabulary
from .subject import Subject
from .tape import Tape
from .trace import Recorder
from .trl_step import without_triton


def evaluation_peak(subject: Subject, machine: Machine, after: Prediction, batch: int) -> int:
    """Peak allocated in bytes of one evaluation step of ``batch`` samples after training steps.

    The samples are as long as in training, and only the loss is kept. The optimizer's state and what else a training
    step leaves (``after``) stays beside it. Leaves the subject's model in evaluation mode.

    Raises:
        PredictionError: the step cannot be traced.
    """
    tape = Tape()
    try:
        _trace(tape, subject, machine, batch)
    except Exception as error:
        first = (str(error).strip().splitlines() or [""])[0][:200]
        raise PredictionError(f"{type(error).__name__}: {first}.") from error
    run = replay(tape, machine, steps=1)
    # The workspaces of this trace are among what training left.
    taken = run.steps[0][0] - run.loaded - machine.blas_workspace_bytes * len(tape.workspaces)
    return after.after_bytes + max(0, taken)


def _trace(tape: Tape, subject: Subject, machine: Machine, batch: int) -> None:
    model, options = subject.model, replace(subject.step, batch=batch, packing=False)
    register_bitsandbytes()
    recorder = Recorder(tape, vocabulary=_vocabulary(model))
    model.eval()
    write_load(recorder, model, subject.load)
    with (
        playing_cuda(machine, options.flash),
        without_triton() if options.trainer == "trl" else nullcontext(),
        recorder,
        torch.no_grad(),
    ):
        tape.step_start = len(tape.events)
        forward = _prepared_forward(model, options.precision)
        items = torch.zeros((), dtype=torch.int64, device="meta")
        inputs = _batch(recorder, options)
        tape.phase("forward")
        _loss(forward, inputs, items, options)
    tape.phase("end")
    recorder.close()

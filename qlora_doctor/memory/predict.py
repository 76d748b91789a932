"""Predict the memory peak of a training step on a card, from a model that has no weights."""

from __future__ import annotations

import linecache
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..core.versions import PACKAGES, installed_versions
from ..facts.memory import HeldTensors, MemoryPicture, PhasePeak, TimelinePoint
from .kept import Outline
from .machine import Machine
from .replay import Held, Replayed, replay
from .tape import Tape

if TYPE_CHECKING:
    from .subject import Subject

MARGIN = 0.035
"""Error band of a prediction, as a share of it: no recorded measurement of a plain run lies further above its
prediction (2.4% at most, 3.3% where a batch has a mask)."""
MARGINS = {
    "evaluation": 0.12,
    "liger": 0.045,
    "generation": 0.085,
    "data parallel": 0.075,
    "sharded": 0.085,
    "offloading": 0.09,
    "expandable segments": 0.12,
}
"""The same where a run is of such a kind, the widest of those it is of: what was measured above the predictions of
what is reserved (benchmarks/memory/bands.py). Most of it comes of models that reached the card in another way than by
from_pretrained: 11.3% after an evaluation, 4.2% with Liger's kernels, 8.0% where answers are generated, 6.0% under
DistributedDataParallel, 8.7% where activations go to the host. Of the way that is predicted it is 8.1% under FSDP 2 and
0.8% in seven runs of other kinds. Of 36 measured runs with expandable segments 35 lie within 3%, where rotary
embeddings are computed as in the version that ran; one, with padding, took 11.5% more, and none by from_pretrained."""


@dataclass(frozen=True)
class Saving:
    """How a run saves.

    Attributes:
        loads_best: at its end it loads the best checkpoint (``load_best_model_at_end``).
    """

    loads_best: bool = False


class PredictionError(RuntimeError):
    """A step that cannot be traced; what is certain all the same comes with it.

    Attributes:
        message: why, one sentence.
        certain_bytes: the base in 4-bit, what is left in 16 and 32 bits, and the adapter, as loaded; None where even
            that is not known.
        refusal: the exception, where it is one that a run on a GPU meets as well.
    """

    def __init__(self, message: str, certain_bytes: int | None = None, refusal: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.certain_bytes = certain_bytes
        self.refusal = refusal


@dataclass
class Prediction:
    """What ``torch.cuda``'s counters will show; bytes.

    Attributes
    ----------
    peak_allocated_bytes, peak_reserved_bytes: ``max_memory_allocated`` and ``max_memory_reserved`` over the whole run.
    loaded_bytes: allocated once base and adapter are on the card.
    breakdown: bytes in use at the moment of the highest allocation by part (``facts.memory.MemoryPicture.breakdown``).
    step_breakdown: the same at the highest allocation of a step.
    peak_phase: the part of the run that decides how much is reserved: load, step, evaluation, generation.
    run: (peak allocated, peak reserved) of each part of the run.
    phases: (peak allocated, peak reserved) by phase: load, prepare, adapter, forward, backward, optimizer.
    timeline: (allocated, phase) in order, at most 300 points.
    versions: the package versions the prediction is for.
    assumptions: what was taken as given; one sentence each.
    kinds: of run beyond plain fine-tuning on one card; see :data:`MARGINS`.
    held: what is in use at the highest moment of each phase (``replay.Replayed.held``).
    """

    peak_allocated_bytes: int
    peak_reserved_bytes: int
    loaded_bytes: int
    breakdown: dict[str, int]
    step_breakdown: dict[str, int]
    peak_phase: str
    run: dict[str, tuple[int, int]]
    phases: dict[str, tuple[int, int]]
    timeline: list[tuple[int, str]]
    steps: list[tuple[int, int]]
    device: str
    batch: int
    sequence: int
    versions: dict[str, str]
    assumptions: list[str] = field(default_factory=list)
    after_bytes: int = 0
    kinds: tuple[str, ...] = ()
    held: list[Held] = field(default_factory=list)

    @property
    def step_allocated_bytes(self) -> int:
        """Peak allocated of the optimizer steps alone."""
        return self.run["step"][0]

    @property
    def step_reserved_bytes(self) -> int:
        """Peak reserved of the optimizer steps, before an evaluation."""
        return self.run["step"][1]

    @property
    def margin(self) -> float:
        """Error band as a share of the prediction, by what decides it."""
        kinds = [*self.kinds, *(["evaluation"] if self.peak_phase == "evaluation" else [])]
        return max((MARGINS.get(kind, MARGIN) for kind in kinds), default=MARGIN)

    def picture(self) -> MemoryPicture:
        """The prediction as a fact."""
        return MemoryPicture(
            peak_allocated_bytes=self.peak_allocated_bytes,
            peak_reserved_bytes=self.peak_reserved_bytes,
            breakdown=self.breakdown,
            phases=_peaks(self.run),
            step_phases=_peaks(self.phases),
            timeline=[
                TimelinePoint(at=place / max(1, len(self.timeline) - 1), allocated_bytes=allocated, phase=phase)
                for place, (allocated, phase) in enumerate(self.timeline)
            ],
            tensors=[_tensors(each) for each in self.held] or None,
            device=self.device,
            batch=self.batch,
            sequence=self.sequence,
            versions=self.versions,
            assumptions=self.assumptions,
        )


def _tensors(held: Held) -> HeldTensors:
    owner = held.owner
    return HeldTensors(
        phase=held.phase,
        part=held.part,
        module=owner.module or None if owner else None,
        operator=owner.operator or None if owner else None,
        shape=list(owner.shape) if owner else None,
        dtype=owner.dtype if owner else None,
        count=held.number,
        bytes=held.bytes,
    )


def _peaks(named: dict[str, tuple[int, int]]) -> list[PhasePeak]:
    return [
        PhasePeak(phase=phase, peak_allocated_bytes=allocated, peak_reserved_bytes=reserved)
        for phase, (allocated, reserved) in named.items()
    ]


def predict(
    subject: Subject, machine: Machine, *, evaluation_batch: int | None = None, saving: Saving | None = None
) -> Prediction:
    """The peak of ``subject``'s run on ``machine``. The subject's model is spent afterwards.

    Args:
        evaluation_batch: samples of an evaluation batch; None where the run evaluates nothing.
        saving: None where the run saves nothing, or it is not asked about.

    Raises:
        PredictionError: the step cannot be traced, or the optimizer is not known.
    """
    tape = traced(subject, machine)
    evaluation = None if evaluation_batch is None else traced_evaluation(subject, machine, evaluation_batch)
    saved = None if saving is None else saved_bytes(subject, saving)
    return prediction_of(subject.outline, machine, replay(tape, machine, evaluation=evaluation, saved=saved))


def saved_bytes(subject: Subject, saving: Saving) -> list[int]:
    """Bytes of each tensor that saving brings to the card.

    A checkpoint of an adapter and of its optimizer is copied to the host tensor by tensor, which takes nothing on the
    card (``PeftModel.save_pretrained``, ``torch.save``); shards are gathered there one tensor at a time
    (``accelerate.utils.save_fsdp_model`` with ``adapter_only``); the best checkpoint is read onto the card as a whole
    beside the adapter that it replaces (``PeftModel.load_adapter``).
    """
    from .engine_options import ZeroOptions

    sizes = [p.numel() * p.element_size() for p in subject.model.parameters() if p.requires_grad]
    if saving.loads_best:
        return sizes
    gathers = subject.step.engine is not None and not isinstance(subject.step.engine, ZeroOptions)
    return [max(sizes, default=0)] if sizes and gathers else []


def traced(subject: Subject, machine: Machine) -> Tape:
    """The tape of a subject's step.

    Raises:
        PredictionError: it cannot be traced.
    """
    from .step import trace_steps

    return _told(
        subject, "step", lambda: trace_steps(subject.model, subject.step, machine, subject.load, subject.program)
    )


def traced_evaluation(subject: Subject, machine: Machine, batch: int, *, made_ready: bool = True) -> Tape:
    """The tape of an evaluation batch; ``made_ready`` where the subject's step was traced before.

    Raises:
        PredictionError: it cannot be traced.
    """
    from .evaluation import trace_evaluation

    return _told(subject, "evaluation", lambda: trace_evaluation(subject, machine, batch, made_ready=made_ready))


def _told(subject: Subject, what: str, trace: Callable[[], Tape]) -> Tape:
    """A trace, or why there is none in one sentence."""
    from .values import UnknownValue

    certain = certain_bytes(subject.model)
    try:
        return trace()
    except UnknownValue as error:
        raise PredictionError(f"The {what} cannot be predicted: {error}.", certain) from error
    except NotImplementedError as error:
        raise PredictionError(
            f"The {what} cannot be traced without a GPU: an operator has no meta kernel ({_first_line(error)}).",
            certain,
        ) from error
    except Exception as error:
        if is_refused(error):
            told = f"{type(error).__name__}: {_first_line(error)}"
            raise PredictionError(f"The {what} stops with {told}", certain, told) from error
        raise PredictionError(
            f"The {what} cannot be traced without a GPU: {type(error).__name__}: {_first_line(error)}", certain
        ) from error


_LIBRARIES = re.compile(r"[/\\](transformers|peft|trl|transformers_modules)[/\\]")


def is_refused(error: BaseException) -> bool:
    """Whether a library's own ``raise`` refuses the batch, which does not depend on the device.

    What torch raises may come of the meta device; a ``raise`` in a model's or a trainer's code is a check of what it
    was given. Where that is our own stand-in for a batch (an image that is not there, a missing argument) the check
    says nothing of the user's run: only refusals of a batch of the right form count.
    """
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    if place is None or not isinstance(error, ValueError):
        return False
    code = place.tb_frame.f_code
    line = linecache.getline(code.co_filename, place.tb_lineno).strip()
    return line.startswith("raise ") and _LIBRARIES.search(code.co_filename) is not None


def certain_bytes(model: object) -> int:
    """Bytes of a model as loaded: packed weights and their statistics, everything else, the adapter."""
    seen: dict[int, int] = {}
    tensors = [*model.parameters(), *model.buffers()]  # type: ignore[attr-defined]
    for tensor in tensors:
        state = getattr(tensor, "quant_state", None) if type(tensor).__name__ == "Params4bit" else None
        extra = [] if state is None else [state.absmax, *([state.state2.absmax] if state.nested else [])]
        for part in (tensor, *extra):
            storage = part.untyped_storage()
            seen[storage._cdata] = storage.nbytes()
    return sum(seen.values())


def lasting_bytes(model: object) -> int:
    """Bytes of the frozen base that no change of the training takes away, at the least: packed weights without their
    statistics, and what is in float32 as if it were in 16 bits, since a preparation may have cast it."""
    seen: dict[int, int] = {}
    for tensor in model.parameters():  # type: ignore[attr-defined]
        if not tensor.requires_grad:
            storage = tensor.untyped_storage()
            seen[storage._cdata] = storage.nbytes() // (2 if tensor.element_size() == 4 else 1)
    return sum(seen.values())


def prediction_of(outline: Outline, machine: Machine, run: Replayed) -> Prediction:
    """The prediction that a replay of a subject's tape comes to; the outline's batch and sequence are the tape's."""
    versions = dict(outline.versions or installed_versions())
    assumptions = list(outline.assumptions)
    wanted = ".".join(str(part) for part in machine.torch)
    if not versions.get("torch", "").startswith(f"{wanted}."):
        assumptions.append(
            f"Kernels and workspaces are those of torch {wanted}; all else follows the packages installed here."
        )
        versions["torch"] = wanted
    if outline.optim.startswith("paged"):
        assumptions.append("The paged optimizer's state is in managed memory, which torch's counters do not show.")
    return Prediction(
        peak_allocated_bytes=run.peak_allocated,
        peak_reserved_bytes=run.peak_reserved,
        loaded_bytes=run.loaded,
        breakdown=run.breakdown,
        step_breakdown=run.step_breakdown,
        peak_phase=run.peak_phase,
        run=run.run,
        phases=run.phases,
        timeline=run.timeline,
        steps=run.steps,
        device=machine.card.name,
        batch=outline.batch,
        sequence=outline.sequence,
        versions={name: versions[name] for name in PACKAGES if name in versions},
        assumptions=assumptions,
        after_bytes=run.after,
        kinds=(*outline.kinds, *(["expandable segments"] if machine.expandable_segments else [])),
        held=run.held,
    )


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__

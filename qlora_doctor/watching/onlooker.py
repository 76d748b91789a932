"""The observer of the step stage, in a training of the user's own.

It calls the model by itself with one short sample only, where no other process trains with this one and where what the
adapter does cannot be known without; it resets no counter of CUDA's, waits for no device, copies no batch and stops
nothing.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from ..core.labels import IGNORED
from ..probes.observing.aside import random_state_kept
from ..probes.observing.timeline import Timeline
from ..probes.step import comparing, gradients
from ..probes.step.forward import ForwardWatch, Inputs
from ..probes.step.observer import Compared, Observer
from ..probes.step.reach import HeldBack, what_holds_back
from ..probes.tensors import listed
from .guarding import Guard
from .unlabelled import AT_ONCE, POSITIONS, Unlabelled
from .working import Work

_AS_SAID = 0.25
"""Share by which a loss may differ from what its gradient at a sample of the places says it is."""


class Clock(Timeline):
    """Phases and seconds without CUDA's counters: those belong to the training, which may read them itself."""

    @property
    def on_cuda(self) -> bool:
        """Never: nothing is read, reset or waited for."""
        return False


@dataclass(frozen=True)
class Places:
    """Some places of a batch, on the host: the logits of a row at a column are held against a label."""

    rows: torch.Tensor
    columns: torch.Tensor
    labels: torch.Tensor


@dataclass(frozen=True)
class Counted:
    """Some of the labels of a batch that count.

    Attributes:
        shape: rows and length of the batch.
        next: each label against the logits of the place before it, as a causal model is trained.
        own: each label against the logits of its own place.
        count: labels that count in all.
        whole: nothing was left out.
    """

    shape: tuple[int, int]
    next: Places
    own: Places
    count: int
    whole: bool


@dataclass
class Onlooker(Observer):
    """Facts of the first steps of a run; the calls are those of ``Observer``.

    Args:
        guard: wraps every hook.
        on_forward: called before each training forward with the inputs.
        called: what the loop calls, where that is not the model itself.
        compiled: the model is compiled: no hook is put inside of it.
        alone: no other process trains with this one, so that a forward of the doctor's own waits for nobody.
    """

    guard: Guard = field(default_factory=Guard)
    on_forward: Callable[[], None] = lambda: None
    called: nn.Module | None = None
    compiled: bool = False
    alone: bool = True
    work: Work = field(default_factory=Work)
    """Where its own seconds are counted."""
    sharded: bool = False
    """Gradients and parameters are spread over processes by FSDP: each sees its own part."""
    micro_batches: list[int] = field(default_factory=list)
    """Backwards of each step; the last entry is that of the step under way."""
    trainer_inputs: Inputs | None = None
    """What the trainer hands to its compute_loss, which may take labels out before the model is called."""
    step_of_evaluation: int = 0
    """The watched step, from 1, whose forward ran in evaluation mode first, after one that did not; else 0."""
    reads_labels: bool = False
    """Where the model is given no labels, they are read from the gradient of its logits."""
    whole: bool = True
    """Every label of the step under way was looked at, so that its mean loss is exact."""
    _trained: bool = False
    _counted: Counted | None = None
    _labelled: bool = False
    _losses_by_logits: list[tuple[torch.Tensor, int]] = field(default_factory=list)
    _unshifted: list[tuple[torch.Tensor, int]] = field(default_factory=list)
    _awaiting: bool = False
    _ids: Callable[[], Any] = lambda: None

    def __post_init__(self) -> None:
        self._unlabelled = Unlabelled(self.guard)

    def _gradient_watch(self) -> gradients.GradientWatch:
        return gradients.GradientWatch(self.parameters, self._gradient_came, self.guard)

    def _forward_watch(self) -> ForwardWatch:
        return ForwardWatch(
            self.model,
            called=self.called,
            with_layers=not self.compiled,
            guard=self.guard,
            before=self._before_forward,
            after=self._after_forward,
            on_phase=self.timeline.enter,
        )

    @property
    def _takes_a_pool(self) -> bool:
        """Before the first backward alone: later the run's own allocator has the room, and a pool beside it would add
        to what is reserved at its highest."""
        return sum(self.micro_batches) == 0 and len(self.micro_batches) < 2

    def step_begin(self, *, last: bool) -> None:
        """A step begins with its first forward."""
        self._summed = False
        self.micro_batches.append(0)
        self._losses_by_logits.clear()
        self._unshifted.clear()
        self._unlabelled.drop()
        self.whole = True
        super().step_begin(last=last)

    def before_optimizer(self) -> None:
        """Gradients are complete; the optimizer is about to step."""
        if self.sharded:
            self.gradients.catch_up()
        super().before_optimizer()

    def _gradient_came(self) -> None:
        if self._awaiting:
            self._awaiting = False
            self.micro_batches[-1] += 1

    def _before_forward(self, inputs: Inputs) -> None:
        self.on_forward()
        if not self.micro_batches:
            return
        again, self._awaiting = self._awaiting, True
        self._summed = inputs.get("num_items_in_batch") is not None
        given = self.trainer_inputs if self.trainer_inputs is not None else inputs
        ids = given.get("input_ids")
        with self.work.on("batches"):
            if not (again and ids is not None and ids is self._ids()):  # the last batch once more, before its backward
                self.batches.look(given)
            self._ids = weakref.ref(ids) if isinstance(ids, torch.Tensor) else lambda: None
            self._counted, self._labelled = _counted(given.get("labels")), given.get("labels") is not None
        if self.forwards.trains():
            self._trained = True
        elif self._trained and not self.step_of_evaluation:
            self.step_of_evaluation = len(self.micro_batches)
        if self._first is None:
            with self.work.on("forwards of its own"), listed(self.model):
                self._first = _sample(inputs)
                if not comparing.adds_products_alone(self.model, self.parameters):
                    self._compared_before = self._compare(self._first)
                elif self._starts_as_identity:
                    self.known["adapter_identity"] = True  # B is exactly zero, and B·A·x is all that it adds

    def _compare(self, inputs: dict[str, Any]) -> Compared:
        """Adapter on against off, on a short sample; nothing where that could hold up another process."""
        compared = Compared()
        if not self.alone or self.compiled or "input_ids" not in inputs:
            return compared
        device = next(p.device for p in self.model.parameters() if p.device.type != "meta")
        with random_state_kept(self.model), self._apart():
            batch = {name: value.to(device) for name, value in inputs.items()}
            with contextlib.suppress(RuntimeError, ValueError, TypeError, IndexError, KeyError, AttributeError):
                compared.on_off = comparing.adapter_on_off(self.model, batch, self._off())
        return compared

    def _off(self) -> torch.Tensor | None:
        """Logits of the sample with the adapter off, once they are known of a base that is still the same."""
        before = self._compared_before.on_off
        same = self.known.get("changed_base_tensors") == [] and not self.known.get("cast_base_tensors")
        return before.off if before is not None and same else None

    def _effect_is_known(self) -> bool:
        """A lora_B that a gradient reached and that the steps moved changes the loss: two forwards are saved."""
        steps = self.gradients.steps
        norms = steps[-1].norms if steps else {}
        known = comparing.adds_products_alone(self.model, self.parameters) and any(
            ".lora_B." in name and 0 < norm < float("inf") and name in self._moved for name, norm in norms.items()
        )
        if known:
            self.known["adapter_effective"] = True
        return known

    def _judge_effect(self) -> None:
        if self.alone and not self.compiled:
            super()._judge_effect()

    def _judge_unmoved(self) -> None:
        """What holds back tensors that no step changed, tried on copies: the training's own optimizer is left alone."""
        steps = self.gradients.steps
        if self.optimizer is None or not steps or self._idle(steps) or self.sharded:
            return
        groups = self.optimizer.param_groups
        held = {id(parameter) for group in groups if group.get("lr") != 0 for parameter in group["params"]}
        still = {
            name: self._unmoved.get(
                name, torch.full_like(self.parameters[name], norm / self.parameters[name].numel() ** 0.5)
            )
            for name, norm in steps[-1].norms.items()  # by now the gradients may be gone, and one of its size does
            if name not in self._moved and id(self.parameters[name]) in held and 0 < norm < float("inf")
        }
        found = HeldBack()
        if still:
            copies = {name: nn.Parameter(self.parameters[name].detach().clone()) for name in still}
            with random_state_kept(self.model), self._apart():
                second = _second(self.optimizer, {id(self.parameters[name]): copies[name] for name in still})
                if second is None:
                    return
                found = what_holds_back(
                    copies, still, second, second.step, taken=len(steps), growing=self._starts_at_zero
                )
        self.known.update(
            # What moves a copy by enough and did not move the tensor is undone, or never reaches it.
            parameters_out_of_reach=[*found.out_of_reach, *found.late],
            parameters_below_precision=found.below_precision,
            parameters_updated_late=[],
            update_share=found.share,
            steps_to_update=found.steps,
            **self._too_coarse(found),
        )

    # -- the loss by the logits

    def _after_forward(self, inputs: Inputs, output: Any) -> None:
        self.trainer_inputs = None
        counted, self._counted = self._counted, None
        logits = getattr(output, "logits", None)
        if self.reads_labels and not self._labelled and getattr(output, "loss", None) is None:
            self._unlabelled.wait(logits, inputs.get("input_ids"))
        if counted is None or not isinstance(logits, torch.Tensor) or logits.dim() != 3:
            return
        if tuple(logits.shape[:2]) != counted.shape:
            return
        with torch.no_grad(), torch.autocast(logits.device.type, enabled=False):
            shifted, unshifted = _mean_loss(logits, counted.next), _mean_loss(logits, counted.own)
        self._losses_by_logits.append((shifted, counted.count))
        self._unshifted.append((unshifted, counted.count))
        self.whole = self.whole and counted.whole

    def read_labels(self, loss: float | None) -> None:
        """Take in what the step's backward passes taught without labels, where it is what its loss says.

        Args:
            loss: that they began with, all together.
        """
        for each in self._unlabelled.found:
            self.batches.learn(each.ids, each.labels)
        total = sum(each.total for each in self._unlabelled.found)
        if loss is not None and abs(total - loss) <= _AS_SAID * abs(loss):
            for each in self._unlabelled.found:
                self._losses_by_logits.append((torch.tensor(each.mean), each.count))
                if each.unmoved:
                    self._unshifted.append((torch.tensor(each.own), each.count))
                self.whole = self.whole and each.whole
        self._unlabelled.drop()

    def unshifted_loss(self) -> float | None:
        """Mean loss of the step's labels at their own places, as a loss that forgets to shift has it."""
        if not self._unshifted:
            return None
        tokens = sum(count for _, count in self._unshifted)
        return sum(float(loss) * count for loss, count in self._unshifted) / tokens

    def mean_loss(self) -> float | None:
        """Mean loss of a trained token of the step under way; None where the logits did not come with labels."""
        if not self._losses_by_logits:
            return None
        tokens = sum(count for _, count in self._losses_by_logits)
        return sum(float(loss) * count for loss, count in self._losses_by_logits) / tokens

    def mean_of_means(self) -> float | None:
        """Mean over the micro-batches of the step of their mean losses."""
        means = [float(loss) for loss, _ in self._losses_by_logits]
        return sum(means) / len(means) if means else None

    def answered_loss(self) -> float | None:
        """Mean loss of the step that is over, as the model itself has answered it; None where it answered none."""
        return self._losses[-1] if self._losses else None

    @property
    def parts(self) -> int:
        """Micro-batches of the step whose loss is known by their logits."""
        return len(self._losses_by_logits)

    @property
    def counted_tokens(self) -> int:
        """Labels that count in the step under way."""
        return sum(count for _, count in self._losses_by_logits)


def _counted(labels: Any) -> Counted | None:
    """A sample of the labels that count, chosen on the host before the forward: the device is not waited for after."""
    if not isinstance(labels, torch.Tensor) or labels.dim() != 2 or labels.shape[1] < 2:
        return None
    labels = labels.detach().cpu()
    rows, columns = torch.nonzero(labels != IGNORED, as_tuple=True)
    later = columns > 0  # nothing predicts the first place
    count = int(later.sum())
    if not count:
        return None
    step = -(-len(rows) // POSITIONS)
    rows, columns, later = rows[::step], columns[::step], later[::step]
    chosen = labels[rows, columns]
    return Counted(
        (int(labels.shape[0]), int(labels.shape[1])),
        Places(rows[later], columns[later] - 1, chosen[later]),
        Places(rows, columns, chosen),
        count,
        step == 1,
    )


def _mean_loss(logits: torch.Tensor, places: Places) -> torch.Tensor:
    """Mean cross entropy of labels against the logits at some places; stays on the device."""
    total = torch.zeros((), dtype=torch.float32, device=logits.device)
    parts = zip(places.rows.split(AT_ONCE), places.columns.split(AT_ONCE), places.labels.split(AT_ONCE), strict=True)
    for row, column, wanted in parts:
        where = [index.to(logits.device, non_blocking=True) for index in (row, column)]
        picked = logits[where[0], where[1]].float()
        total += nn.functional.cross_entropy(picked, wanted.to(logits.device, non_blocking=True), reduction="sum")
    return total / max(len(places.labels), 1)


def _second(optimizer: Any, copies: dict[int, nn.Parameter]) -> Any | None:
    """An optimizer of the same kind and settings over copies of some of its tensors; None where none can be made.

    Args:
        copies: by the id of the tensor that they are copies of.
    """
    groups = []
    for group in optimizer.param_groups:
        own = [copies[id(parameter)] for parameter in group["params"] if id(parameter) in copies]
        if own:
            groups.append({**group, "params": own})
    kinds = {type(each) for each in getattr(optimizer, "inner", [optimizer])}
    try:
        return kinds.pop()(groups) if len(kinds) == 1 else None
    except Exception:  # a class of the user's own may want arguments that only its maker knows
        return None


def _sample(inputs: Inputs) -> dict[str, Any]:
    """The first row of ids and mask, on the CPU; nothing where the model is called with something else."""
    ids, mask = inputs.get("input_ids"), inputs.get("attention_mask")
    if not isinstance(ids, torch.Tensor) or ids.dim() != 2:
        return {}
    first = ids[0].detach().to("cpu", copy=True)
    # Padding before the text, which a mask may call text: its embedding is zero in many models.
    other = torch.nonzero(first != first[0])
    start = max(int(other[0]) - 1, 0) if len(other) else 0
    sample = {"input_ids": first[None, start:]}
    if isinstance(mask, torch.Tensor) and mask.shape == ids.shape:
        sample["attention_mask"] = mask[:1, start:].detach().to("cpu", copy=True)
    return sample

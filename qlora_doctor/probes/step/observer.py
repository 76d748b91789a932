"""Two training steps, seen from beside them: called at the points that every trainer passes, it turns them into facts.

It reads through hooks and counters and replaces nothing. Its own forwards, fingerprints and copies run between the
steps, outside of all that is timed and of CUDA's peaks (``Timeline.pause``, ``aside``).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from ...core.errors import StageError
from ...facts.step import StepFacts
from ..batch import BatchLook
from ..observing import snapshot
from ..observing.aside import aside, random_state_kept
from ..observing.chunk import Fingerprint
from ..observing.fingerprint import fingerprints
from ..observing.timeline import Timeline
from ..structure.bypass import bypassed_modules
from ..structure.inventory import Inventory
from ..tensors import every_module, trainable_parameters, zero_tensors
from . import comparing, gradients
from .branches import Calls, IntegerInputs, branches_without_gradient, left_out_at_random, owners
from .forward import ForwardWatch, Inputs, inputs_by_name, tokens_out_of_range
from .gates import behind_closed_gates
from .optimizer import learning_rates, optimizer_facts, state_bytes, unwrapped
from .reach import HeldBack, what_holds_back
from .trainer_loss import TrainerLoss
from .updates import UpdateWatch


@dataclass
class Compared:
    """What the doctor's own forwards gave, before training or after."""

    loss: float | None = None
    on_off: comparing.OnOff | None = None


@dataclass
class Observer:
    """Facts of a step. Call ``train_begin``, for each step ``step_begin``, ``before_optimizer``, ``after_optimizer``
    and ``step_end``, and at last ``train_end``; ``facts`` may be called at any time, also after a failure.

    Args:
        model: as it is trained, adapter attached.
        timeline: says what phase is under way.
        progress: is called with what is being done, in words.
    """

    model: nn.Module
    timeline: Timeline
    progress: Callable[[str], None] = lambda text: None
    known: dict[str, Any] = field(default_factory=dict)
    """Facts so far, by the names of StepFacts."""
    optimizer_bytes: list[int] = field(default_factory=list)
    """Bytes of the optimizer's state after each step."""
    optimizer_cuda_bytes: list[int] = field(default_factory=list)
    """Of these, what CUDA's allocator holds."""
    batches: BatchLook = field(default_factory=BatchLook)
    """Takes in what the model is given in each training forward."""
    own_loss: TrainerLoss | None = None
    """The trainer's loss, where it is another than the model's."""

    optimizer_stands_in: bool = False
    """Whether another optimizer than the setup's steps: which tensors it moves says nothing of the setup's."""

    def follow_loss(self, trainer: Any, *, compares: bool) -> None:
        """Take the loss from what the trainer computes of a batch, not from what the model answers.

        Args:
            compares: the loss of a batch says how well it is learnt; the loss of generated answers does not: around
                each generation it is zero on average.
        """
        self.own_loss = TrainerLoss(trainer, self._set_aside, compares)

    @contextlib.contextmanager
    def _set_aside(self) -> Iterator[None]:
        """A forward of the doctor's own, within the run."""
        with self.timeline.pause(), random_state_kept(self.model), aside(self.model), comparing.quiet(self.model):
            yield

    def train_begin(self, optimizer: Any | None, step: Callable[[], Any] | None = None) -> None:
        """Everything is built, nothing has run: fingerprint all, put the hooks on.

        Args:
            step: what the training script calls to step; the optimizer's own step where it is None.
        """
        self.parameters = trainable_parameters(self.model)
        self.progress("Fingerprinting the base")
        self.before = snapshot.take(self.model)
        with self._apart():
            self._trainable_before = self._fingerprint_trainable()
            self._starts_as_identity = _lora_b_zero(self.parameters)
        self.gradients = self._gradient_watch()
        self.forwards = self._forward_watch()
        self.optimizer = optimizer
        self._step = step
        # What earlier batches left in its momentum may point anywhere.
        self._has_past = optimizer is not None and bool(getattr(unwrapped(optimizer), "state", None))
        self._starts_at_zero = set(gradients.lora_a_without_effect(self.parameters, self.model))
        self._unmoved: dict[str, torch.Tensor] = {}
        self._calls: Calls | None = None
        self._integers = IntegerInputs(self.model)
        self._call_hooks: list[Any] = []
        self._first: dict[str, Any] | None = None
        self._compared_before, self._compared_after = Compared(), Compared()
        self._updates: UpdateWatch | None = None
        self._losses: list[float | None] = []
        self._rates: list[float] = []
        self._moved: set[str] = set()
        self.trainable_after: dict[str, Fingerprint] = {}
        self.known.update(
            fingerprinted_tensors=len(self.before.fingerprints),
            fingerprinted_bytes=self.before.nbytes,
            fingerprint_seconds=self.before.seconds,
            trainable_tensors=len(self.parameters),
            trainable_dtypes=sorted({_dtype(p) for p in self.parameters.values()}),
            vocab_rows=self.forwards.vocab_rows,
            optimizer=optimizer_facts(optimizer, self.model) if optimizer is not None else None,
            **_checkpointing(self.model),
        )

    def _apart(self) -> contextlib.AbstractContextManager[None]:
        """Where work of the doctor's own takes its device memory."""
        return aside(self.model) if self._takes_a_pool else contextlib.nullcontext()

    @property
    def _takes_a_pool(self) -> bool:
        """Always from a pool of its own: the run's peaks are measured here."""
        return True

    def _gradient_watch(self) -> gradients.GradientWatch:
        return gradients.GradientWatch(self.parameters, self.timeline.sample_now_and_then)

    def _forward_watch(self) -> ForwardWatch:
        return ForwardWatch(
            self.model,
            before=self._before_forward,
            on_phase=self.timeline.enter,
            on_layer=self.timeline.sample_now_and_then,
        )

    def step_begin(self, *, last: bool) -> None:
        """A step begins. Before the last one the trainable tensors are copied, to see which updates arrive."""
        number = len(self.gradients.steps) + 1
        self.progress(f"Training step {number}")
        with self._apart():
            self._by_design = gradients.lora_a_without_effect(self.parameters, self.model)
        self._watch_calls()
        self._updates = UpdateWatch(self.parameters) if last else None
        self.gradients.begin_step()
        self._losses_of_step: list[float] = []
        self.timeline.begin_step()

    def before_optimizer(self) -> None:
        """Gradients are complete; the optimizer is about to step."""
        if self._updates is not None and not self._has_past and not self.optimizer_stands_in:
            with self.timeline.pause(), self._apart():
                self._updates.hold_gradients()
        self.timeline.enter("optimizer")

    def after_optimizer(self, *, scale: float = 1.0, skipped: bool = False) -> None:
        """The optimizer has stepped and the gradients are still there.

        Args:
            scale: what the gradient scaler had multiplied the loss with.
            skipped: the scaler found an overflow and left the step out.
        """
        with self.timeline.pause(), self._apart():
            self.gradients.end_step(scale, self._by_design, skipped)
            if self._updates is not None and not skipped and not self.optimizer_stands_in:
                self.known["lost_update_ratio"] = self._updates.lost_ratio()
                self.known["update_along_gradient"] = self._updates.along_gradient()
                self._unmoved = self._updates.unmoved(self.gradients.steps[-1].norms)
            self._updates = None
            if self.optimizer is not None:
                self.optimizer_bytes.append(state_bytes(self.optimizer))
                self.optimizer_cuda_bytes.append(state_bytes(self.optimizer, "cuda"))
                self._rates.extend(learning_rates(self.optimizer))

    def forget_gradients(self) -> None:
        """Do what zero_grad does, for a loop that has none."""
        for parameter in self.model.parameters():
            parameter.grad = None
        for group in unwrapped(self.optimizer).param_groups if self.optimizer is not None else []:
            for parameter in group["params"]:
                parameter.grad = None

    def step_end(self) -> None:
        """The step is over, gradients are gone."""
        self._integers.close()
        self.timeline.end_step()
        losses = self.forwards.take_losses()
        if self.own_loss is not None:
            self._losses.append(_mean_or_sum(self.own_loss.take(), summed=False))
        else:
            self._losses.append(_mean_or_sum(losses, self._summed))

    def _watch_calls(self) -> None:
        """Note which modules a forward calls, of those whose tensors got no gradient in the step before."""
        self._stop_watching_calls()
        if not self.gradients.steps:
            return
        norms = self.gradients.steps[-1].norms
        missing = [name for name in self.parameters if name not in norms]
        self._calls = None
        if not missing:
            return
        self._calls = calls = Calls()
        for name, module in owners(self.model, missing).items():
            self._call_hooks.append(module.register_forward_pre_hook(calls.noting(name)))

    def _stop_watching_calls(self) -> None:
        for handle in self._call_hooks:
            handle.remove()
        self._call_hooks.clear()

    def train_end(self) -> None:
        """Nothing more will run: take the hooks off, fingerprint again, compare."""
        self._stop_watching_calls()
        self.gradients.close()
        self.forwards.close()
        self.progress("Fingerprinting the base again")
        after = snapshot.take(self.model, keep_small=False, apart=self._takes_a_pool)
        changes = snapshot.compare(self.before, self.model, after)
        trained = _trained_biases(self.model, self.parameters)
        self.known.update(
            changed_base_tensors=[name for name in changes.changed if name not in trained],
            cast_base_tensors=changes.cast,
            recomputed_buffers=changes.recomputed,
            fingerprint_seconds=self.before.seconds + after.seconds,
        )
        optimizer = self.known.get("optimizer")
        if optimizer is not None and self.optimizer_bytes:
            update: dict[str, Any] = {"state_bytes": self.optimizer_bytes[-1]}
            if self.optimizer_stands_in:
                update = {"name": None, "state_bytes": None}
            self.known["optimizer"] = optimizer.model_copy(update=update)
        with self._apart():
            self.trainable_after = self._fingerprint_trainable()
        self._moved = {n for n, old in self._trainable_before.items() if self.trainable_after.get(n) != old}
        if self._first is not None and not self._effect_is_known():
            self.progress("Comparing before and after")
            self._compared_after = self._compare(self._first)
            if self.own_loss is not None:
                self.own_loss.compare_again()
            self._judge_effect()
        self._judge_unmoved()

    def close(self) -> None:
        """Take the hooks off after a failure, whichever of them are on; one that fails leaves none of the others on."""
        with contextlib.ExitStack() as closing:
            for name in ("_integers", "gradients", "forwards"):
                if hasattr(self, name):
                    closing.callback(getattr(self, name).close)
            if hasattr(self, "_call_hooks"):
                closing.callback(self._stop_watching_calls)

    @property
    def moved(self) -> bool:
        """Whether the steps changed a trainable tensor; known after ``train_end``."""
        return bool(self._moved)

    @property
    def tokens_in_range(self) -> bool:
        """Whether token ids were seen, and the embedding has a row for each of them."""
        seen = self.forwards.seen if hasattr(self, "forwards") else None
        return seen is not None and seen.max_token_id is not None and not seen.tokens_out_of_range

    def facts(self) -> StepFacts:
        """What is known; fields that nothing was seen of stay None."""
        if not hasattr(self, "gradients"):
            return StepFacts(**self.known)
        steps = self.gradients.steps
        seen = self.forwards.seen
        known: dict[str, Any] = {
            "steps": len(self.timeline.seconds),
            "seconds": list(self.timeline.seconds),
            "batch": seen.batch,
            "sequence": seen.sequence,
            "inputs_require_grad": seen.inputs_require_grad,
            "checkpointing_blocks_gradient": self._checkpointing_blocks_gradient(seen.inputs_require_grad),
            "use_cache": seen.cache_built,
            "forward_dtypes": seen.dtypes or None,
            "autocast_dtype": seen.autocast_dtype,
            "trained_tokens": self._trained_tokens(),
            "max_token_id": seen.max_token_id,
            "integer_inputs": self._integers.names if seen.micro_batches else None,
            "tokens_out_of_range": seen.tokens_out_of_range if seen.max_token_id is not None else None,
            "logits_finite": self._logits_finite(),
            **self._gradient_facts(steps),
            **self._loss_facts(),
        }
        return StepFacts(**{**known, **self.known})

    # -- the doctor's own forwards

    def _before_forward(self, inputs: Inputs) -> None:
        self._summed = inputs.get("num_items_in_batch") is not None
        ids = inputs.get("input_ids")
        rows = self.forwards.vocab_rows
        if isinstance(ids, torch.Tensor) and (outside := tokens_out_of_range(ids, rows)):
            self.known.update(max_token_id=int(ids.max()), tokens_out_of_range=outside)
            raise StageError(  # CUDA would answer with a device-side assertion, after which nothing works any more
                f"The batch holds {outside} token ids that the embedding has no row for: the largest is "
                f"{int(ids.max())}, the embedding has {rows} rows.",
                kind="token-out-of-range",
                remedy="Resize the embeddings to the tokenizer, or use a padding token that exists.",
            )
        with self.timeline.pause():
            self.batches.look(inputs)
        if self._first is not None:
            return
        with self.timeline.pause():
            self._first = {k: v.detach().to("cpu", copy=True) if _is_tensor(v) else v for k, v in inputs.items()}
            self.progress("Comparing the adapter with the base")
            self._compared_before = self._compare(self._first)

    def _compare(self, inputs: dict[str, Any]) -> Compared:
        """Loss and adapter on against off; what fails here fails, or does not, in the training forward itself."""
        compared = Compared()
        device = next(p.device for p in self.model.parameters() if p.device.type != "meta")
        with random_state_kept(self.model), self._apart():
            batch = {k: v.to(device) if _is_tensor(v) else v for k, v in inputs.items()}
            with contextlib.suppress(Exception):
                compared.loss = comparing.loss_of(self.model, batch)
            with contextlib.suppress(Exception):
                compared.on_off = comparing.adapter_on_off(self.model, batch)
        return compared

    def _effect_is_known(self) -> bool:
        """Whether no forward is needed to say that the trained adapter reaches the output; never here."""
        return False

    def _judge_effect(self) -> None:
        """The trained adapter changes the logits; where it does not seem to, a large change of it has to."""
        after = self._compared_after.on_off
        updated = any("lora_" in name for name in self._moved)
        if after is None or after.difference is None or not updated or self._first is None:
            return
        effective: bool | None = after.difference > 0
        if not effective:
            device = next(p.device for p in self.model.parameters() if p.device.type != "meta")
            with random_state_kept(self.model), self._apart():
                batch = {k: v.to(device) if _is_tensor(v) else v for k, v in self._first.items()}
                effective = comparing.adapter_reaches_output(self.model, batch)
        self.known["adapter_effective"] = effective

    def _judge_unmoved(self) -> None:
        """Last of all, for it steps again: what holds back the tensors with a gradient that no step changed."""
        steps = self.gradients.steps
        if self.optimizer is None or not steps or self._idle(steps) or self.optimizer_stands_in:
            return
        inner = unwrapped(self.optimizer)
        held = {id(parameter) for group in inner.param_groups for parameter in group["params"]}
        still = {n: g for n, g in self._unmoved.items() if n not in self._moved and id(self.parameters[n]) in held}
        with random_state_kept(self.model), self._apart():
            found = what_holds_back(
                self.parameters,
                still,
                inner,
                self._step or inner.step,
                taken=len(steps),
                growing=self._starts_at_zero,
            )
        self.known.update(
            parameters_out_of_reach=found.out_of_reach,
            parameters_below_precision=found.below_precision,
            parameters_updated_late=found.late,
            update_share=found.share,
            steps_to_update=found.calls if found.late and not found.below_precision else found.steps,
            **self._too_coarse(found),
        )

    def _too_coarse(self, found: HeldBack) -> dict[str, Any]:
        """16-bit tensors, and their dtypes, that no update at this rate changes, and that no other trains in place of.

        A lora_A that stays as it was drawn while its lora_B moves is LoRA still (Zhang et al. 2023, LoRA-FA).
        """
        beside = {gradients.partner(name) for name in self._moved}
        names = [n for n in found.stuck if self.parameters[n].element_size() == 2 and n not in beside]
        kinds = sorted({_dtype(self.parameters[name]) for name in names})
        share = found.stuck_share if names else None
        return {"parameters_too_coarse": names, "precision_too_coarse": kinds, "too_coarse_share": share}

    # -- conclusions

    def _gradient_facts(self, steps: list[gradients.StepGradients]) -> dict[str, Any]:
        if not steps:
            return {}
        found = gradients.conclude(list(self.parameters), steps)
        chance = left_out_at_random(self.model)
        zero = [name for name in found.zero if not name.startswith(chance)] if chance else found.zero
        gated = behind_closed_gates(self.model, zero, [n for step in steps for n, size in step.largest.items() if size])
        zero = [name for name in zero if name not in gated]
        skipped = sum(step.skipped for step in steps)
        inputs = self._first if self._first is not None else {}
        branches = branches_without_gradient(
            found.missing,
            set(self.parameters) - set(found.missing),
            self._calls,
            self.model,
            inputs,
            self._integers.names,
        )
        bypassed = self._bypassed(found.missing)
        cut_off = [
            name
            for branch in branches
            if not branch.by_design and branch.cause is None
            for name in branch.tensors
            if not name.startswith(tuple(f"{module}." for module in bypassed))
        ]
        explained = any(branch.cause is not None for branch in branches)
        facts: dict[str, Any] = {
            "parameters_without_gradient": found.missing,
            "bypassed_modules": bypassed,
            "parameters_zero_gradient": zero,
            "parameters_behind_closed_gates": list(gated),
            "closed_gates": list(dict.fromkeys(gated.values())),
            "parameters_nonfinite_gradient": found.nonfinite,
            "parameters_cut_off": cut_off,
            "branches_without_gradient": branches,
            "gradients_sound": not (cut_off or explained or zero or gated or found.nonfinite),
            "gradient_norm": _finite(found.norm),
            "gradients": found.columns,
            "skipped_steps": skipped,
        }
        if "changed_base_tensors" in self.known and not self._idle(steps) and not self.optimizer_stands_in:
            still = [name for name in self.parameters if name not in self._moved]
            facts["parameters_not_updated"] = [n for n in still if not _zero_by_design(n, steps)]
        return facts

    def _bypassed(self, missing: list[str]) -> list[str]:
        """Layers whose weight a kernel may read, as far as none of their tensors got a gradient."""
        lost = set(missing)
        found = []
        for module in bypassed_modules(Inventory(self.model)):
            own = [name for name in self.parameters if name.startswith(f"{module}.")]
            if own and lost.issuperset(own):
                found.append(module)
        return found

    def _idle(self, steps: list[gradients.StepGradients]) -> bool:
        """Whether no step was meant to change anything: no optimizer, a rate of zero, or all steps skipped."""
        no_rate = bool(self._rates) and max(self._rates) == 0.0
        return self.optimizer is None or no_rate or all(step.skipped for step in steps)

    def _loss_facts(self) -> dict[str, Any]:
        before, after = self._compared_before, self._compared_after
        if self.own_loss is not None:
            before, after = replace(before, loss=self.own_loss.before), replace(after, loss=self.own_loss.after)
        losses = list(self._losses)
        loss_before, loss_after = _finite(before.loss), _finite(after.loss)
        facts: dict[str, Any] = {
            "losses": [_finite(loss) for loss in losses] or None,
            "loss_before": loss_before,
            "loss_after": loss_after,
        }
        values = [value for value in (*losses, before.loss, after.loss) if value is not None]
        if values:
            facts["loss_finite"] = all(_finite(value) is not None for value in values)
        if loss_before is not None and loss_after is not None and not self._idle(self.gradients.steps):
            facts["loss_moved"] = before.loss != after.loss
        expected = self.known.get("loss_expected")
        if expected and loss_before is not None:
            facts["loss_off_start"] = abs(loss_before - expected) / expected
        if before.on_off is not None:
            facts["adapter_identity_difference"] = before.on_off.difference
            if self._starts_as_identity and before.on_off.difference is not None:
                facts["adapter_identity"] = before.on_off.equal
        return facts

    def _checkpointing_blocks_gradient(self, inputs_require_grad: bool | None) -> bool | None:
        """Reentrant checkpointing rebuilds a layer's graph only where one of its inputs requires a gradient."""
        if not self.known.get("gradient_checkpointing") or self.known.get("use_reentrant") is False:
            return False
        return None if inputs_require_grad is None else not inputs_require_grad

    def _trained_tokens(self) -> int | None:
        """Labels that count; None where a method has none, or before the first forward."""
        seen = self.forwards.seen
        unlabelled = self.own_loss is not None and not seen.labelled
        return None if unlabelled or not seen.micro_batches else seen.trained_tokens

    def _logits_finite(self) -> bool | None:
        """As the training forwards gave them; a trainer whose loss needs no logits leaves the doctor's own sample."""
        finite = self.forwards.logits_finite()
        sample = self._compared_before.on_off
        return (sample.difference is not None) if finite is None and sample is not None else finite

    def _fingerprint_trainable(self) -> dict[str, Fingerprint]:
        return fingerprints({name: parameter.detach() for name, parameter in self.parameters.items()})


def _lora_b_zero(parameters: dict[str, nn.Parameter]) -> bool:
    """Whether there are lora_B matrices and all of them are exactly zero."""
    seconds = {n: p.detach() for n, p in parameters.items() if ".lora_B." in n or ".lora_embedding_B" in n}
    return bool(seconds) and len(zero_tensors(seconds)) == len(seconds)


def _trained_biases(model: nn.Module, parameters: dict[str, nn.Parameter]) -> set[str]:
    """Biases of the base that LoraConfig's ``bias`` asks to train: they are meant to move."""
    configs = getattr(model, "peft_config", None)
    asked = any(getattr(c, "bias", "none") != "none" for c in configs.values()) if isinstance(configs, dict) else False
    return {name for name in parameters if name.endswith("bias")} if asked else set()


def _checkpointing(model: nn.Module) -> dict[str, Any]:
    """Whether gradient checkpointing is on, and its form, as found on the model's modules."""
    active = [m for m in every_module(model) if getattr(m, "gradient_checkpointing", False)]
    function = next((f for m in active if (f := getattr(m, "_gradient_checkpointing_func", None)) is not None), None)
    if function is None:
        return {"gradient_checkpointing": bool(active)}
    # torch.utils.checkpoint stands for True where the argument is silent.
    reentrant = (getattr(function, "keywords", None) or {}).get("use_reentrant", True)
    return {"gradient_checkpointing": True, "use_reentrant": reentrant}


def _zero_by_design(name: str, steps: list[gradients.StepGradients]) -> bool:
    return all(name in step.by_design_zero for step in steps)


def _mean_or_sum(losses: list[float], summed: bool) -> float | None:
    """The loss of a step of several micro-batches: parts of one mean, or a mean each."""
    if not losses:
        return None
    return sum(losses) if summed else sum(losses) / len(losses)


def _finite(value: float | None) -> float | None:
    return value if value is not None and abs(value) < float("inf") else None


def _is_tensor(value: Any) -> bool:
    return isinstance(value, torch.Tensor)


def _dtype(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


__all__ = ["Observer", "inputs_by_name"]

"""The watching of one training of one process: around its first optimizer steps closely, then only what it logs."""

from __future__ import annotations

import contextlib
import math
import os
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..facts import Facts, LoadFacts, MemoryFacts, RunFacts
from ..facts.batch import BatchFacts
from ..facts.load import LoadFailure
from ..facts.memory import MemoryPicture
from ..facts.run import ParameterGroup, RankFacts
from ..probes.batch import BatchLook
from ..probes.environment import look_at_environment
from ..probes.failures import NO_FAILURE
from ..probes.live.config import live_config
from ..probes.live.sharding import sharding_of
from ..probes.load.loaded import loaded_facts, nonfinite_among, nonfinite_tensors
from ..probes.observing import snapshot
from ..probes.observing.overheard import Overhearing
from ..probes.observing.timeline import StepPeak
from ..probes.step.optimizer import optimizer_facts
from ..probes.step.optimizer import unwrapped as unwrapped_optimizer
from ..probes.step.picture import breakdown
from ..probes.structure.adapter import adapter_facts
from ..probes.structure.model import model_facts
from ..probes.structure.quantization import quantization_facts
from ..probes.tensors import layer_names, listed, parameters_of, trainable_parameters
from . import accumulating, adapters, stepping
from .arguments import against_arguments, arguments_config, asked, plain_arguments, precision_facts
from .backward import BackwardWatch
from .course import LoopCourse, Standing
from .finding import is_compiled, objects, unwrapped
from .guarding import Guard, StopTraining
from .losses import LossWatch
from .onlooker import Clock, Onlooker
from .outputs import training_tokenizer
from .records import Options, Writer
from .scaling import scale_facts, scaler_facts
from .warned import telling
from .working import Work

_LOW_RATE = 0.5
"""Share of the rate that was asked for below which a step says little about the updates that the run will make."""
_OF_TENSORS = (
    "changed_base_tensors", "cast_base_tensors", "recomputed_buffers", "parameters_without_gradient",
    "parameters_zero_gradient", "parameters_cut_off", "branches_without_gradient", "gradients_sound",
    "parameters_not_updated", "parameters_out_of_reach", "parameters_below_precision", "parameters_too_coarse",
    "precision_too_coarse", "too_coarse_share",
)  # fmt: skip
"""Facts of a step that tell tensors apart."""
_WHOLE = ("none", "ddp")
"""Kinds of parallel training in which each rank holds the whole model."""
_KEPT = 4
"""Moments whose outputs are kept: the last of them."""
_MORE = 8
"""Steps that the gradient scaler may skip while the watched ones are counted."""


class Watch:
    """One training, from before its first step to its end.

    Args:
        model: the (PEFT) model, without what parallel training put around it.
        writer: where the facts go.
        options: how long to look, and when to stop the training.
        called: what the loop calls, where that is known and is not the model.
        trainer: transformers' trainer, or None.
        ranks: rank, world size and local rank.
        heard: listens to the libraries' warnings since the process began; None begins now.
        learn: given the facts each time that more is known, beside the writer.
    """

    def __init__(
        self,
        model: nn.Module,
        writer: Writer | None,
        options: Options,
        *,
        called: nn.Module | None = None,
        trainer: Any = None,
        ranks: tuple[int, int, int] = (0, 1, 0),
        heard: Overhearing | None = None,
        learn: Callable[[Facts], None] = lambda facts: None,
    ) -> None:
        self.guard = Guard(self._abandon)
        self.facts = Facts()
        self.active = False
        self.work = Work()
        self._breakdown: dict[str, int] | None = None
        self._rank_loss: dict[str, Any] = {}
        self.series: list[dict[str, Any]] = []
        self.arguments: dict[str, Any] = {}
        self._writer, self._options, self._learn = writer, options, learn
        self._model = weakref.ref(model)
        self._trainer = weakref.ref(trainer) if trainer is not None else lambda: None
        self._called = called
        self.rank, self._world, _ = ranks
        self._number = int(writer.name.rpartition(".")[2]) if writer is not None else 1
        self._run: dict[str, Any] = {}
        self._started = time.time()
        self._steps = 0
        self._counted = 0
        self._skipped = 0
        self._in_step = False
        self._over = False
        self._ended = "running"
        self._handles: list[Any] = []
        self._onlooker: Onlooker | None = None
        self._backward: BackwardWatch | None = None
        self._loss: LossWatch | None = None
        self._course: LoopCourse | None = None
        self._standing: Standing | None = None
        self._heard = heard or Overhearing()
        self._base: snapshot.Snapshot | None = None
        self._optimizers: list[Any] = []
        self._schedulers: list[Any] = []
        self._found: dict[str, list[Any]] = {}
        self._parallel = "none"
        self._stepped_since = False
        self._all_rates: list[list[float | None]] = []
        self._accumulation: list[int | None] = []
        self._cleared: list[bool] = []

    # -- the beginning

    def begin(
        self,
        *,
        optimizer: Any = None,
        tokenizer: Any = None,
        loader: Any = None,
        arguments: Any = None,
        state: Any = None,
    ) -> None:
        """Nothing has run yet: look at all that stands still, put the hooks on."""
        model = self._model()
        if model is None:
            return
        # The first forward may already be within an autocast of its own.
        with self.work.on("begin"), listed(model), torch.autocast(_device(model).type, enabled=False):
            self.guard(self._begin)(model, optimizer, tokenizer, loader, arguments, state)

    def _begin(self, model: nn.Module, optimizer: Any, tokenizer: Any, loader: Any, arguments: Any, state: Any) -> None:
        from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

        self.active = True
        self._found = objects()
        trainer = self._trainer()
        if trainer is None and arguments is not None:
            trainer = next((each for each in self._found["Trainer"] if getattr(each, "args", None) is arguments), None)
        if trainer is not None:
            self._trainer = weakref.ref(trainer)
        self._optimizers = [optimizer] if optimizer is not None else []
        self._tokenizer = tokenizer or self._one_tokenizer(model)
        self.arguments = plain_arguments(arguments)
        self._arguments = arguments
        self._parallel = parallel_of(trainer, self._called, model)
        self._static(model, arguments)
        self._know_trainer(trainer, arguments, state)
        with contextlib.suppress(Exception):  # a tokenizer may be anything
            self._run["tokenizer"] = training_tokenizer(model, self._tokenizer)
        look = BatchLook(self._tokenizer, _text_config(model))
        self._onlooker = Onlooker(
            model,
            Clock(_device(model)),
            guard=self.guard,
            on_forward=self._forward,
            called=self._called if self._called is not None and unwrapped(self._called) is model else None,
            compiled=is_compiled(self._called) or is_compiled(model),
            sharded=self._parallel in ("fsdp", "fsdp2"),
            alone=self._world == 1 and self._parallel == "none",
            batches=look,
            work=self.work,
        )
        if not self._onlooker.compiled:
            self._onlooker.called = None
        self._onlooker.train_begin(optimizer)
        self._base = self._onlooker.before
        self._handles = [
            register_optimizer_step_pre_hook(self.guard(self._optimizer_begins)),
            register_optimizer_step_post_hook(self.guard(self._optimizer_stepped)),
        ]
        self._backward = BackwardWatch(self._backward_begins, self.guard)
        if trainer is not None:
            self._loss = LossWatch(trainer, self._inputs_given, self.guard)
        self._take_schedulers()
        self._know_resumed()
        self._know_adapters(model)
        self._rows(loader)
        self._write("watching")

    def _static(self, model: nn.Module, arguments: Any) -> None:
        """What stands still: structure, quantization, what is loaded."""
        optimizer = self._optimizers[0] if self._optimizers else None
        config = live_config(model, unwrapped_optimizer(optimizer) if optimizer is not None else None)
        config = config.model_copy(update=arguments_config(arguments))
        self._hidden = sharding_of(model).look is not None
        if self._hidden:  # tensors of many modules in one: nothing of them can be told apart
            load = LoadFacts(device=str(_device(model)), failure=NO_FAILURE)
            self.facts = Facts(config=config, environment=look_at_environment(), model=model_facts(model), load=load)
            return
        load = LoadFacts(
            device=str(_device(model)),
            **loaded_facts(model),
            nonfinite_tensors=nonfinite_tensors(model),
            failure=NO_FAILURE,
        )
        self.facts = Facts(
            config=config,
            environment=look_at_environment(),
            model=model_facts(model),
            adapter=adapter_facts(model),
            quantization=quantization_facts(model),
            load=load,
        )

    def _know_trainer(self, trainer: Any, arguments: Any, state: Any) -> None:
        kind = type(trainer) if trainer is not None else None
        self._run.update(
            kind="trainer" if arguments is not None else "loop",
            trainer=f"{kind.__module__.partition('.')[0]}.{kind.__name__}" if kind is not None else None,
            world_size=self._world,
            parallel=self._parallel,
            training=self._number,
            nonfinite_step=0,
            nonfinite_tensors=[],
            **asked(arguments),
        )
        if state is not None:
            self._run.update(max_steps=state.max_steps, resumed_step=state.global_step)
            self._run["resumed_done"] = bool(state.global_step) and state.global_step >= state.max_steps
        if trainer is not None:
            own = getattr(kind, "compute_loss", None)
            self._run["own_compute_loss"] = not str(getattr(own, "__module__", "")).startswith(
                ("transformers.", "trl.")
            )

    def _know_resumed(self) -> None:
        """Whether a training that goes on has the optimizer and the schedule that it stopped with."""
        done = self._run.get("resumed_step")
        if done is None or self._run.get("resumed_done"):
            return
        inner = [unwrapped_optimizer(each) for each in self._optimizers]
        self._run["resumed_without_optimizer"] = bool(done and inner) and not any(each.state for each in inner)
        held = {id(each) for each in inner}
        counts = [
            count
            for each, count in zip(self._schedulers, self._scheduler_counts, strict=True)
            if not held or id(unwrapped_optimizer(each.optimizer)) in held
        ]
        self._run["resumed_without_schedule"] = bool(done and counts) and max(counts) <= 1

    def began_late(self, *, without_gradients: bool) -> None:
        """Nothing was watched: the process ends, and this is how its model stands.

        Args:
            without_gradients: a forward in training mode ran under ``torch.no_grad``.
        """
        self._run.update(began_late=True, forward_without_gradients=without_gradients)
        self.guard(self._know_held)()

    def _know_held(self) -> None:
        if self._optimizers and self._onlooker is not None:
            self._know_optimizer()

    def _know_continued(self) -> None:
        """A loop of one's own that goes on: its optimizer has stepped before, or its schedule has."""
        if self._run.get("resumed_step") is not None:
            return
        done = steps_taken(self._optimizers)
        held = {id(unwrapped_optimizer(each)) for each in self._optimizers}
        counts = [
            count
            for each, count in zip(self._schedulers, self._scheduler_counts, strict=True)
            if id(unwrapped_optimizer(each.optimizer)) in held
        ]
        if done is None:
            return
        scheduled = max(counts, default=1) - 1
        self._taken_before = done
        self._run["resumed_step"] = max(done, scheduled if scheduled > 1 else 0)
        self._run["resumed_without_schedule"] = done > 0 and bool(counts) and scheduled < 1
        self._run["resumed_without_optimizer"] = done == 0 and scheduled > 1

    def _know_adapters(self, model: nn.Module) -> None:
        """Whether what trains is sound, and the adapter that was loaded the one that is there."""
        self._run["nonfinite_trainable"] = nonfinite_among(trainable_parameters(model))
        self._run |= adapters.roles(model, set())
        if self._parallel in _WHOLE:
            self._run |= adapters.overwritten(model, self.loads)

    def _one_tokenizer(self, model: nn.Module) -> Any:
        """The tokenizer of a loop of one's own: the only one that there is, or the one of the model's name."""
        every = self._found["PreTrainedTokenizerBase"]
        if len(every) == 1:
            return every[0]
        name = getattr(getattr(model, "config", None), "name_or_path", None)
        named = [each for each in every if getattr(each, "name_or_path", "") == name]
        return named[-1] if named else None

    def _take_schedulers(self) -> None:
        """All of the process: which of them drive an optimizer of this training shows when it steps."""
        self._schedulers = list(self._found["LRScheduler"])
        self._scheduler_counts = [_scheduler_count(each) for each in self._schedulers]

    def _look_again(self) -> None:
        """What a loop made after the watching began, and before its first forward."""
        if self._writer is None and self._trainer() is None and not self._counted_forward:
            self._found = objects()
            self._take_schedulers()
        if not self._counted_forward and self._trainer() is None:
            self._rows_of_a_loop()
        self._counted_forward = True

    def _rows_of_a_trainer(self, trainer: Any) -> None:
        """What the trainer evaluates on, held against what it trains on."""
        evaluated = getattr(trainer, "eval_dataset", None)
        sets = list(evaluated.values()) if isinstance(evaluated, dict) else [evaluated]  # by name, or one
        self._know_evaluated(getattr(trainer, "train_dataset", None), sets)

    def _rows_of_a_loop(self) -> None:
        """The order of a loop's rows, and what it will be evaluated on: its loaders by what is being gone through."""
        from .dataset import going, sorted_rows

        loaders = self._found["DataLoader"]
        training = going(loaders, self._found["_BaseDataLoaderIter"])
        if len({id(each.dataset) for each in training}) != 1:
            return
        self._run["rows_sorted"] = sorted_rows(training)
        others = accumulating.evaluating([each for each in loaders if not any(each is one for one in training)])
        self._know_evaluated(training[0].dataset, [each.dataset for each in others])

    def _know_evaluated(self, trained: Any, evaluated: Sequence[Any]) -> None:
        from .dataset import evaluated_share

        shares = [share for each in evaluated if (share := evaluated_share(trained, each)) is not None]
        self._run["evaluates_training_rows"] = max(shares, default=None)

    def _rows(self, loader: Any) -> None:
        """What shows before the first step: the rows, their order, and what a collator makes of their labels."""
        from .dataset import masked_by_hand, rewrites_labels, sorted_rows

        loaders = [loader] if loader is not None else self._found["DataLoader"]
        trainer = self._trainer()
        if trainer is not None:
            self._rows_of_a_trainer(trainer)
        self._mask_by_hand = masked_by_hand(loaders)
        # Of a loop's loaders any may be the one of the evaluation, which is in order by right: see _rows_of_a_loop.
        self._run["rows_sorted"] = sorted_rows(loaders) if trainer is not None or len(loaders) == 1 else None
        self._rewrites_labels = rewrites_labels(loaders)

    # -- the watched steps

    def _inputs_given(self, inputs: Mapping[str, Any], counted: bool | None) -> None:
        """The trainer is about to compute a loss."""
        assert self._onlooker is not None
        self._onlooker.trainer_inputs = dict(inputs)
        if counted is not None:
            self._run["loss_takes_count"] = counted

    def _forward(self) -> None:
        """Before each training forward."""
        if not self.active:
            return
        if self._in_step and self._scaler_skipped():
            self._step_over(skipped=True)
        if self._in_step:
            return
        if self._steps >= self._options.steps or self._skipped >= _MORE:
            self._finish()
            self._stepped_since = True  # more steps are to come
            self._stop_loop()
            return
        assert self._onlooker is not None
        with self.work.on("before a step"):
            self._look_again()
            self._scale = self._scale_now()
            self._scaler_states = getattr(self._scaler(), "_per_optimizer_states", None)
            self._onlooker.step_begin(last=self._steps + 1 == self._options.steps)
            self._in_step = True

    def _optimizer_begins(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        if not self.active or self._onlooker is None or not self._in_step or not self._holds(optimizer):
            return
        if not any(unwrapped_optimizer(each) is optimizer for each in self._optimizers):
            self._optimizers.append(optimizer)
        with self.work.on("before the optimizer"), listed(self._onlooker.model):
            if not self._all_rates:
                self._know_continued()
            self._rates_now = _rates(self._optimizers)
            self._all_rates.append(self._rates_now)
            self._know_optimizer()
            self._onlooker.before_optimizer()
            self._on_the_way()

    def _backward_begins(self) -> None:
        """The first backward of a step finds the gradients as the step before left them, the others as the first."""
        onlooker = self._onlooker
        if not self.active or onlooker is None or not self._in_step:
            return
        self._accumulation.append(accumulating.asked_for() if self._run.get("kind") == "loop" else None)
        first, self._began_backward = not self._began_backward, True
        if self._parallel not in _WHOLE:
            return
        if not first:
            held = self._held() or _ids(onlooker)
            gradients = onlooker.gradients
            self._cleared.append(
                stepping.cleared(onlooker.parameters, gradients.fired, held, lambda: gradients.norms_now(self._scale))
            )
            # Once is a step that a loop left out, for a loss that was none as an example.
            self._run["cleared_within"] = len(self._cleared) > 1 and all(self._cleared)
        elif self._steps:
            left = stepping.left_over(onlooker.parameters, self._held())
            self._run["gradients_left"] = max(left, self._run.get("gradients_left") or 0.0)

    def _held(self) -> set[int]:
        """Ids of the tensors in the groups of the optimizers that are known."""
        return {id(p) for group in Together(self._optimizers).param_groups for p in group["params"]}

    def _on_the_way(self) -> None:
        """Gradients between backward and the step; of sharded ones a process sees its part alone."""
        onlooker = self._onlooker
        assert onlooker is not None
        if self._parallel not in _WHOLE:
            return
        held = self._held()
        came = onlooker.gradients.norms_now(self._scale)
        self._run["gradient_scale"] = self._scale
        self._run |= stepping.on_the_way(came, onlooker.parameters, held, self._scale)

    def _optimizer_stepped(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        if not self.active or self._onlooker is None or not self._in_step or not self._holds(optimizer):
            return
        self._step_over(skipped=False)

    def _step_over(self, *, skipped: bool) -> None:
        onlooker = self._onlooker
        assert onlooker is not None
        with self.work.on("after the optimizer"), listed(onlooker.model):
            onlooker.after_optimizer(scale=self._scale, skipped=skipped)
            onlooker.step_end()
            self._in_step = self._began_backward = False
            self._loss_of_step()
            if skipped:
                self._skipped += 1
            else:
                self._steps += 1
            self._counted = max(self._counted, self._steps)
            self._write("watching")

    def _holds(self, optimizer: Any) -> bool:
        """Whether an optimizer is of this training: an optimizer of something else may step in the same process.

        One that holds no trainable tensor of the model counts where no other has stepped: it may be a stale one.
        """
        if any(unwrapped_optimizer(each) is optimizer for each in self._optimizers):
            return True
        assert self._onlooker is not None
        own = {id(p) for p in self._onlooker.parameters.values()}
        return not self._optimizers or any(id(p) in own for g in optimizer.param_groups for p in g["params"])

    def _know_optimizer(self) -> None:
        onlooker = self._onlooker
        assert onlooker is not None
        together = Together(self._optimizers)
        onlooker.optimizer = together
        found = optimizer_facts(together, onlooker.model)
        found = found.model_copy(update={"name": type(unwrapped_optimizer(self._optimizers[0])).__name__})
        if self._parallel in ("fsdp", "deepspeed"):  # these hold flat tensors of their own
            unknown = ("frozen_parameters", "missing_parameters", "stale_parameters")
            found = found.model_copy(update=dict.fromkeys(unknown))
        onlooker.known["optimizer"] = found
        self._run.update(_groups(together, onlooker.model))
        self._run["idle_groups"] = stepping.idle_groups(self._run["groups"])
        self._run |= adapters.roles(onlooker.model, {id(p) for g in together.param_groups for p in g["params"]})
        self._run |= against_arguments(self._arguments, together.param_groups, self._run["groups"])

    def _loss_of_step(self) -> None:
        onlooker = self._onlooker
        assert onlooker is not None and self._backward is not None
        losses, mean = self._backward.take(), onlooker.mean_loss()
        backward = sum(losses) if losses else None
        if not onlooker.micro_batches[-1]:  # no gradient passed a hook
            onlooker.micro_batches[-1] = len(losses)
        self._run["micro_batches"] = list(onlooker.micro_batches)
        raw = backward
        if backward is not None and self._scale:
            backward /= self._scale
        plain, count = onlooker.mean_of_means(), onlooker.micro_batches[-1]
        unknown = dict.fromkeys(
            (
                "loss_scale",
                "sums_over_accumulation",
                "divides_twice",
                "unshifted_loss",
                "sums_over_tokens",
                "divided_by",
            )
        )
        self._run.update(unknown, backward_loss=_number(backward), mean_loss=_number(mean))
        self._rank_loss = {
            "backward_loss": _number(backward),
            "mean_loss": _number(mean),
            "mean_of_means": _number(plain),
        }
        if backward is not None and mean and plain and onlooker.parts == count and self._world == 1:
            # Of several ranks only all together can tell.
            self._run |= scale_facts(
                backward, mean, plain, count, unshifted=onlooker.unshifted_loss(), tokens=onlooker.counted_tokens,
                whole=onlooker.whole,
            )  # fmt: skip
        self._know_accumulation()
        if raw is not None and mean:
            self._run |= scaler_facts(raw / mean, self._scale, count)
        self._rank_loss |= {"trained_tokens": onlooker.counted_tokens or None}
        if onlooker.counted_tokens:
            self._run["tokens_per_update"] = onlooker.counted_tokens * self._world
        self._losses = [*self._losses, backward]

    def _know_accumulation(self) -> None:
        """A loop that means to accumulate, by its own names, and steps with every micro-batch."""
        if self._run.get("kind") == "loop":
            meant = set(self._accumulation)
            self._run["accumulation_asked"] = next(iter(meant)) if len(meant) == 1 else None
        asked, onlooker = self._run.get("accumulation_asked"), self._onlooker
        assert onlooker is not None
        if self._run.get("divided_by") not in (None, 1, asked):  # a weight of the loss that nothing names
            self._run["divided_by"] = 1
        loop = self._run.get("kind") == "loop"
        alone = all(count == 1 for count in onlooker.micro_batches)
        self._run["accumulation_ignored"] = (
            bool(asked and asked > 1)
            and alone
            and (self._run.get("divided_by") == asked or (loop and len(onlooker.micro_batches) > 1))
        )

    # -- the gradient scaler

    def _scaler(self) -> Any:
        enabled = [each for each in self._found["GradScaler"] if each.is_enabled()]
        return enabled[-1] if enabled else None

    def _scale_now(self) -> float:
        scaler = self._scaler()
        return float(scaler.get_scale()) if scaler is not None else 1.0

    def _scaler_skipped(self) -> bool:
        """Whether the scaler left out the step under way: it was updated, and no optimizer has stepped.

        torch.amp's makes its states anew with each update; of another one, the scale falls.
        """
        scaler = self._scaler()
        if scaler is None:
            return False
        states = self._scaler_states
        if states is not None:
            ours = not self._optimizers or any(id(unwrapped_optimizer(each)) in states for each in self._optimizers)
            return ours and getattr(scaler, "_per_optimizer_states", None) is not states
        return float(scaler.get_scale()) < self._scale

    # -- after the watched steps

    def _finish(self) -> None:
        """Take everything off, look once more at what the steps did."""
        if not self.active:
            return
        self.active = False
        onlooker = self._onlooker
        model = self._model()
        assert onlooker is not None
        self._take_off()
        with self.work.on("end of the watched steps"):
            if model is not None:
                with listed(model):
                    onlooker.train_end()
                    self._conclude(onlooker, model)
            self._write("watched")
        if model is not None:
            self._follow_on(model)
        self._onlooker = None  # it holds the model
        self._found = {}

    def _follow_on(self, model: nn.Module) -> None:
        """What is still seen of the run: of a loop its course, of a trainer what it tells at its own steps."""
        self._standing = Standing(model)
        self._run.update(frozen_later=[], frozen_since=0, adapter_off_since=0)
        optimizer = next((each for ref in self._stepping if (each := ref()) is not None), None)
        if self._run.get("kind") != "loop" or not hasattr(optimizer, "register_step_pre_hook") or not self._learns():
            return
        self._course = LoopCourse(
            model,
            optimizer,
            scaler=self._scaler(),
            micro_batches=self._onlooker.micro_batches[-1] if self._onlooker is not None else 1,
            norms=self._parallel in _WHOLE,
            done=self._steps,
            record=self._loop_recorded,
            noticed=self._noticed,
            guard=self.guard,
        )

    def _learns(self) -> bool:
        """Whether the last watched step had a loss and gradients: what follows one that had none is its consequence."""
        steps = self._onlooker.gradients.steps if self._onlooker is not None else []
        return (
            bool(self._losses)
            and _number(self._losses[-1]) is not None
            and bool(steps)
            and any(steps[-1].norms.values())
        )

    def _loop_recorded(self, record: dict[str, Any]) -> None:
        numbers = {name: value for name, value in record.items() if name not in ("step", "time")}
        self.logged(record["step"], None, numbers, record["time"])

    def _noticed(self, step: int, changes: Mapping[str, Any]) -> None:
        """Something that held of the model in the watched steps holds no more."""
        if "frozen" in changes:
            self._run.update(frozen_later=changes["frozen"], frozen_since=step)
        if "switched_off" in changes:
            self._run["adapter_off_since"] = step
        if "evaluation" in changes:
            model = self._model()
            dropouts = [m for m in model.modules() if isinstance(m, nn.Dropout) and m.p > 0] if model else []
            self._run.update(training_mode=False, evaluation_mode_since=step, dropout_idle=bool(dropouts))
        self._write("changed")

    def _conclude(self, onlooker: Onlooker, model: nn.Module) -> None:
        self._run.update(watched_steps=self._steps, steps_skipped=self._skipped)
        held = {id(unwrapped_optimizer(each)) for each in self._optimizers}
        own = [id(unwrapped_optimizer(each.optimizer)) in held for each in self._schedulers]
        counts = [_scheduler_count(each) for each in self._schedulers]
        steps = [now - then for now, then in zip(counts, self._scheduler_counts, strict=True)]
        moved = [count for count, ours in zip(steps, own, strict=True) if ours]
        # One that nobody steps is of another training of this process, or forgotten.
        self._run["scheduler_elsewhere"] = bool(held) and not any(own) and any(steps)
        several = min(onlooker.micro_batches[: self._steps] or [0])
        if moved and self._steps:
            each = max(moved) / self._steps
            self._run["scheduler_steps"] = each
            # accelerate steps a prepared scheduler once for every process, which is what it documents.
            self._run["scheduler_per_micro_batch"] = several > 1 and each == several and self._world != several
        self._run["rates_zero"] = bool(self._all_rates) and not any(any(rates) for rates in self._all_rates)
        self._rates_low()
        self._breakdown = self._by_part(onlooker, model)
        self._stepping = [weakref.ref(unwrapped_optimizer(each)) for each in self._optimizers]
        self._schedulers = []
        self._optimizers = []
        self._trainable_digest = _digest(onlooker.trainable_after)

    def _by_part(self, onlooker: Onlooker, model: nn.Module) -> dict[str, int] | None:
        """Bytes by part at the highest allocation so far; None without CUDA."""
        device = _device(model)
        if device.type != "cuda":
            return None
        peak = StepPeak(allocated=torch.cuda.max_memory_allocated(device), phase="backward")
        state = onlooker.optimizer_cuda_bytes
        return breakdown(model, peak, state[-1] if state else 0)

    def _rates_low(self) -> None:
        """Whether the watched steps ran at a fraction of the rate that the run is for."""
        rates = [rate for rate in self._rates_now if rate is not None]
        peak = self._run.get("learning_rate_asked")
        self._run["rates_during_warmup"] = None
        if rates and peak:
            self._run["rates_during_warmup"] = max(rates) < _LOW_RATE * peak

    def _end_course(self) -> None:
        if self._course is not None:
            course, self._course = self._course, None
            course.close()
            self._counted = max(self._counted, course.done)

    def _take_off(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        if self._onlooker is not None:
            self._onlooker.close()
        for each in (self._backward, self._loss, self._heard):
            if each is not None:
                each.close()

    def _abandon(self) -> None:
        """Something failed: nothing of ours stays on, and what is known so far is written."""
        self.active = False
        self._end_course()
        self._take_off()
        self._onlooker = None
        self._found = {}
        self._optimizers, self._schedulers = [], []
        self._write("broken")

    # -- what the trainer tells

    def before_step(self, done: int) -> None:
        """The trainer is about to step: gradients are there."""
        if self._standing is not None:
            self.guard(self._stands)(done)

    def _stands(self, done: int) -> None:
        assert self._standing is not None
        changes = self._standing.changes()
        if changes:
            self._noticed(done + 1, changes)

    def step_ended(self, done: int) -> bool:
        """An optimizer step of the trainer is over; True asks it to stop."""
        self.guard(self._step_ended)(done)
        return self._wants_stop()

    def _step_ended(self, done: int) -> None:
        self._counted = done
        self._stepped_since = not self.active
        if self.active and self._in_step:
            self._step_over(skipped=self._scaler() is not None)
        if self.active and (self._steps >= self._options.steps or self._skipped >= _MORE):
            self._finish()

    def logged(self, step: int, epoch: float | None, logs: Mapping[str, Any], at: float | None = None) -> None:
        """A record of the series, as the trainer made it.

        Args:
            at: seconds since the epoch; None is now.
        """
        self._counted = max(self._counted, step)
        numbers = {key: value for key, value in logs.items() if isinstance(value, (int, float))}
        record = {"step": step, "epoch": epoch, "time": at or time.time(), **numbers, **_memory_now(self.facts)}
        self.series.append(record)
        if any(not math.isfinite(float(value)) for value in numbers.values()):
            self.guard(self._not_finite)(step)
        if self._writer is not None:
            self.guard(self._writer.line)(record)

    def _not_finite(self, step: int) -> None:
        """The first time that something that was logged is no number: which tensors are none by now."""
        model = self._model()
        if model is None or self._run.get("nonfinite_step"):
            return
        self._run.update(nonfinite_step=step, nonfinite_tensors=nonfinite_among(trainable_parameters(model)))
        self._write("not finite")

    def saved(self, folder: str, state: Any) -> None:
        """A checkpoint was written."""
        model = self._model()
        if model is not None:
            self.model_saved(model, Path(folder) / f"checkpoint-{state.global_step}")

    def model_saved(self, model: Any, folder: Any) -> None:
        """A model was saved to a folder; one that is not the one that trains is none of ours."""
        if model is self._model() and self._parallel in _WHOLE and self.rank == 0:
            self.guard(self._compare_saved)(model, Path(folder))

    def _compare_saved(self, model: nn.Module, folder: Path) -> None:
        from .saved import differing

        if self._run.get("adapter_saved") == str(folder) and self._saved_at == self._counted:
            return
        with self.work.on("saved adapter"):
            self._saved_at = self._counted
            self._run["adapter_saved"] = str(folder)
            found = differing(model, folder)
            if found or "adapter_saved_differs" not in self._run:
                self._run["adapter_saved_differs"] = found
            self._keep_outputs(model, folder)
        self._write("saved")

    def trained(self, state: Any) -> None:
        """The trainer says that the training is over."""
        self._counted = max(self._counted, state.global_step)
        self.guard(self._trained)()

    def _trained(self) -> None:
        if self.active:
            self._finish()
        self._look_at_end()
        self._over = True
        self._ended = "stopped" if self._wants_stop() else "well"
        self._write("trained")

    def end(self, error: BaseException | None = None, *, exiting: bool = False) -> None:
        """The process, the block or the next training ends this one."""
        if exiting and self._over and error is None:
            return
        self.guard(self._end)(error)

    def _end(self, error: BaseException | None) -> None:
        from .ends import failure_of

        if error is not None:
            self._ended = "failed"
            self._end_course()
            self._count_at_end()
            if self._standing is not None:  # what was undone may be why it failed; a mode is not
                undone = self._standing.changes()
                undone.pop("evaluation", None)
                self._noticed(self._counted + 1, undone)
            failure = failure_of(error, self.rank, self._counted)
            self._run["failure"] = failure
            if self.active and self._steps < self._options.steps:  # a step that was watched did not come to its end
                self._failure = LoadFailure(kind=failure.kind, message=failure.message, phase=failure.phase)
        self._in_step = False
        if self.active:
            self._finish()
        self._end_course()
        self._count_at_end()
        if error is None and not self._over:
            self._look_at_end()
            self._ended = "stopped" if self._wants_stop() else "well"
        self._over = True
        self._write("ended")

    def _count_at_end(self) -> None:
        """Steps of a loop of one's own, by what its optimizer has counted; and whether its epochs had an order each."""
        if self._run.get("kind") != "loop":
            return
        done = steps_taken([each for ref in self._stepping if (each := ref()) is not None])
        if done:
            self._counted = max(self._counted, done - self._taken_before)
        if self._world > 1:
            each = (self._run.get("micro_batches") or [1])[-1]
            self._run["sampler_epochs"] = passes_in_one_order(objects()["DataLoader"], self._counted * max(each, 1))

    def _look_at_end(self) -> None:
        """The base is what it was, the adapter on disk is the adapter in memory."""
        model = self._model()
        if model is None or self._hidden:
            return
        if self._steps:
            self._keep_outputs(model)
        if self._base is None or not self._stepped_since:
            return
        after = snapshot.take(model, keep_small=False)
        changes = snapshot.compare(self._base, model, after)
        self._run["base_changed_at_end"] = changes.changed

    def _keep_outputs(self, model: nn.Module, folder: Path | None = None) -> None:
        """What the model says now, of the last few saves and of the end; a failure is told and ends nothing."""
        if not self._options.keep_outputs or self._ended == "failed" or self.rank or self._parallel not in _WHOLE:
            return
        if is_compiled(model) or is_compiled(self._called):
            return
        from .outputs import kept_outputs

        try:
            found = kept_outputs(model, self._tokenizer, step=self._counted, folder=str(folder) if folder else None)
        except Exception as error:
            what = " ".join(str(error).split())[:200]
            self.guard.tell(f"The trained model's outputs were not kept: {type(error).__name__}: {what}.")
            return
        if found is not None:
            self._run["kept_outputs"] = [*(self._run.get("kept_outputs") or [])[-_KEPT + 1 :], found]

    # -- stopping

    def _wants_stop(self) -> bool:
        wanted = self._options.stop_after
        if wanted is not None and self._counted >= wanted:
            return True
        return self._options.stop_file is not None and os.path.exists(self._options.stop_file)  # noqa: PTH110

    def _stop_loop(self) -> None:
        """A loop of one's own ends by an exception that is none; a trainer is asked, and ends by itself.

        With a code other than 0 where findings end it: a launcher then ends the other ranks.
        """
        if self._run.get("kind") != "loop":
            return
        if self._wants_stop():
            wanted = self._options.stop_after
            raise StopTraining(0 if wanted is not None and self._counted >= wanted else 1)
        if self._options.stop_after is not None or self._options.stop_file is not None:
            self._count_on()

    def _count_on(self) -> None:
        """Who asked for the training's end pays for it: two hooks stay until then."""
        from torch.optim.optimizer import register_optimizer_step_post_hook

        model = self._model()
        if model is None or self._handles:
            return

        def stepped(optimizer: Any, args: Any, kwargs: Any) -> None:
            self._counted += 1

        def before(module: nn.Module, args: Any) -> None:
            if torch.is_grad_enabled():
                self._stop_loop()

        self._handles = [
            register_optimizer_step_post_hook(self.guard(stepped)),
            model.register_forward_pre_hook(self.guard(before)),
        ]

    # -- writing

    def _write(self, state: str) -> None:
        self.facts = self.facts.model_copy(update=self._known())
        self._learn(self.facts)
        if self._writer is not None:
            self._writer.state(
                {
                    "state": state,
                    "started": self._started,
                    "rank": self.rank,
                    "world_size": self._world,
                    "host": os.uname().nodename if hasattr(os, "uname") else None,
                    "arguments": self.arguments,
                    "facts": self.facts.model_dump(mode="json", exclude_none=True),
                }
            )

    def _known(self) -> dict[str, Any]:
        known: dict[str, Any] = {}
        onlooker = self._onlooker
        if onlooker is not None:
            known["step"] = self._step_facts(onlooker)
            known["batch"] = self._batch_facts(onlooker)
            known["config"] = self._config_facts(known["step"])
            self._forward_facts(onlooker)
        measured = _measured(self.facts, known.get("step") or self.facts.step, self._breakdown)
        if measured is not None:
            known["memory"] = MemoryFacts(measured=measured)
        rank = RankFacts(
            rank=self.rank,
            device=self.facts.load.device if self.facts.load else None,
            steps=self._counted,
            batches=list(onlooker.batches.digests) if onlooker is not None else self._digests,
            trainable=self._trainable_digest,
            peak_allocated_bytes=measured.peak_allocated_bytes if measured else None,
            peak_reserved_bytes=measured.peak_reserved_bytes if measured else None,
            loss=_number(self._losses[-1]) if self._losses else None,
            ended=self._ended,
            **self._rank_loss,
        )
        self._digests = rank.batches
        known["run"] = RunFacts(
            **{
                **self._run,
                "ranks": [rank],
                "steps": self._counted,
                "ended": self._ended,
                "watching_seconds": round(self.work.seconds, 4),
                "watching_parts": {name: round(seconds, 4) for name, seconds in self.work.parts.items()},
                "troubles": list(self.guard.troubles),
            }
        )
        return known

    loads: Sequence[adapters.Loaded] = ()
    """Adapters that PEFT has loaded in this process."""
    _arguments: Any = None
    _stepping: Sequence[weakref.ref[Any]] = ()
    _taken_before = 0
    _began_backward = False
    _counted_forward = False
    _hidden = False
    """Sharding has put the tensors of many modules into one."""
    _scale = 1.0
    _scaler_states: Any = None
    _failure = NO_FAILURE
    _saved_at: int | None = None
    _digests: list[str] | None = None
    _losses: Sequence[Any] = ()
    """Of each watched step, as it was made."""
    _rates_now: Sequence[float | None] = ()
    _trainable_digest: str | None = None
    _mask_by_hand: float | None = None
    _rewrites_labels = False

    def _step_facts(self, onlooker: Onlooker) -> Any:
        seen = onlooker.facts()
        changes: dict[str, Any] = {
            "trainer": self._run.get("trainer") or self._run.get("kind"),
            "device": str(onlooker.timeline.device),
            "data": "given",
            "failure": self._failure,
            "warnings": list(self._heard.heard),
        }
        self._run["telling_warnings"] = telling(self._heard.heard)
        self._count_labels(onlooker, changes)
        losses = [_number(value) for value in self._losses]
        if seen.losses is None and any(value is not None for value in losses):
            changes["losses"] = losses
            changes["loss_finite"] = all(value is not None for value in losses)
        first = seen.losses or changes.get("losses")
        if first and seen.loss_before is None:
            changes["loss_before"] = first[0]
        if onlooker.sharded:  # norms of this rank's part alone
            changes.update(gradient_norm=None, gradients=None)
        if self._hidden:
            changes.update(dict.fromkeys(_OF_TENSORS))
        if self._parallel == "deepspeed" and not any(step.norms for step in onlooker.gradients.steps):
            unknown = ("parameters_without_gradient", "parameters_zero_gradient", "gradients_sound")
            changes.update(dict.fromkeys(unknown))
        if self._run.get("gradients_gone"):  # what never reaches the optimizer says nothing of it
            changes.update(
                dict.fromkeys(
                    ("parameters_out_of_reach", "parameters_below_precision", "parameters_too_coarse",
                     "precision_too_coarse", "too_coarse_share")
                )
            )  # fmt: skip
        self._rates_low()
        if self._run.get("rates_during_warmup") and seen.trainable_dtypes != ["float32"]:
            changes.update(
                dict.fromkeys(
                    ("parameters_not_updated", "parameters_out_of_reach", "parameters_below_precision",
                     "parameters_too_coarse", "precision_too_coarse", "too_coarse_share", "lost_update_ratio",
                     "update_share", "steps_to_update")
                )
            )  # fmt: skip
        return seen.model_copy(update=changes)

    def _config_facts(self, step: Any) -> Any:
        """The config with the shape of the first batch, where the arguments do not say it."""
        config = self.facts.config
        if config is None or step.batch is None:
            return config
        return config.model_copy(update={"batch": config.batch or step.batch, "sequence": step.sequence})

    def _count_labels(self, onlooker: Onlooker, changes: dict[str, Any]) -> None:
        """Labels as the trainer has them: its compute_loss may take them out before the model is called."""
        found = onlooker.batches.facts()
        changes["trained_tokens"] = found.trained_tokens if found is not None else None

    def _batch_facts(self, onlooker: Onlooker) -> Any:
        found = onlooker.batches.facts()
        by_hand = self._mask_by_hand
        discarded = None
        if by_hand is not None and found is not None and found.trained_ratio is not None:
            discarded = by_hand > 0 and found.trained_ratio >= 0.999
        elif by_hand and self._rewrites_labels:  # no batch came: it may fail for that very reason
            discarded = True
        if found is None:
            return BatchFacts(mask_by_hand_ratio=by_hand, mask_discarded=True) if discarded else None
        return found.model_copy(update={"mask_by_hand_ratio": by_hand, "mask_discarded": discarded})

    def _forward_facts(self, onlooker: Onlooker) -> None:
        seen = onlooker.forwards.seen
        if not seen.micro_batches:
            return
        known = onlooker.known
        dropouts = [m for m in onlooker.model.modules() if isinstance(m, nn.Dropout) and m.p > 0]
        active = None
        if known.get("gradient_checkpointing") is not None and seen.layer_forwards and onlooker.gradients.steps:
            active = seen.layer_recomputations > 0
        asked_for = known.get("gradient_checkpointing")
        # transformers leaves the function where it was when checkpointing is switched off again.
        left = any("_gradient_checkpointing_func" in vars(module) for module in onlooker.model.modules())
        if getattr(self._arguments, "gradient_checkpointing", False) or left:
            asked_for = True
            active = seen.layer_recomputations > 0 if seen.layer_forwards and onlooker.gradients.steps else None
        self._run.update(
            training_mode=seen.training_mode,
            evaluation_mode_since=onlooker.step_of_evaluation,
            dropout_idle=bool(dropouts) and not any(m.training for m in dropouts),
            checkpointing_asked=asked_for,
            checkpointing_active=active,
            scaler_without_float16=self._scaler() is not None and seen.autocast_dtype == "bfloat16",
        )
        self._run |= precision_facts(self._arguments, seen.autocast_dtype, seen.dtypes)
        if self._run.get("nonfinite_layer") is None and any(
            loss is not None and not math.isfinite(loss) for loss in self._losses
        ):
            place = onlooker.forwards.first_nonfinite_layer()
            names = layer_names(onlooker.model, onlooker.forwards.layers)
            self._run["nonfinite_layer"] = names[place] if place is not None and place < len(names) else ""
        if seen.batch is not None and onlooker.micro_batches:
            self._run["rows_per_update"] = seen.batch * max(onlooker.micro_batches[-1], 1) * self._world


class Together:
    """Several optimizers as one, for what is asked of one."""

    def __init__(self, optimizers: list[Any]) -> None:
        self.inner = [unwrapped_optimizer(each) for each in optimizers]

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The groups of all."""
        return [group for each in self.inner for group in each.param_groups]

    @property
    def state(self) -> dict[Any, Any]:
        """The state of all."""
        return {key: value for each in self.inner for key, value in each.state.items()}


def parallel_of(trainer: Any, called: nn.Module | None, model: nn.Module) -> str:
    """How the processes of a training share its work."""
    names = {type(each).__name__ for each in (called, getattr(trainer, "model_wrapped", None)) if each is not None}
    if "DeepSpeedEngine" in names or getattr(trainer, "is_deepspeed_enabled", False):
        return "deepspeed"
    if any(type(part).__name__ == "FullyShardedDataParallel" for part in model.modules()):
        return "fsdp"
    if any(type(p).__name__ == "DTensor" or hasattr(p, "_local_tensor") for p in model.parameters()):
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
                learning_rate=_number(group.get("lr")),
                weight_decay=_number(decay),
                kinds=sorted(kinds)[:6],
            )
        )
    return {"groups": groups, "decayed_ratio": decayed / total if total else None}


def _kind(name: str) -> str:
    """``….q_proj.lora_A.default.weight`` → ``lora_A``; else the last part of the name."""
    parts = name.split(".")
    return next((part for part in parts if part.startswith("lora_")), parts[-1])


def _rates(optimizers: list[Any]) -> list[float | None]:
    return [_number(group.get("lr")) for each in optimizers for group in unwrapped_optimizer(each).param_groups]


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
            break  # all tensors of an optimizer step together
    return found


def passes_in_one_order(loaders: Sequence[Any], batches: int) -> int:
    """How often the batches of a shuffling DistributedSampler whose epoch was never set were gone through; else 0."""
    for loader in loaders:
        sampler = getattr(loader, "sampler", None)
        if type(sampler).__name__ != "DistributedSampler" or not getattr(sampler, "shuffle", False):
            continue
        if getattr(sampler, "epoch", None) == 0 and len(loader) and batches > len(loader):
            return -(-batches // len(loader))
    return 0


def _scheduler_count(scheduler: Any) -> int:
    return int(getattr(scheduler, "_step_count", getattr(scheduler, "last_epoch", 0)))


def _text_config(model: nn.Module) -> Any:
    """The model's config: ids of placeholders stand at its top, those of padding too."""
    return getattr(model, "config", None)


def _device(model: nn.Module) -> torch.device:
    found = torch.device("cpu")
    for _, parameter in parameters_of(model):
        if parameter.device.type not in ("cpu", "meta"):
            return parameter.device
    return found


def _digest(prints: Mapping[str, Any] | None) -> str | None:
    import hashlib

    if not prints:
        return None
    every = hashlib.blake2b(digest_size=8)
    for name in sorted(prints):
        every.update(name.encode())
        every.update(prints[name].digest)
    return every.hexdigest()


def _measured(facts: Facts, step: Any, parts: dict[str, int] | None) -> MemoryPicture | None:
    """CUDA's own counters since the process began; nothing is reset."""
    device = facts.load.device if facts.load else None
    if device is None or not device.startswith("cuda"):
        return None
    return MemoryPicture(
        peak_allocated_bytes=torch.cuda.max_memory_allocated(device),
        peak_reserved_bytes=torch.cuda.max_memory_reserved(device),
        breakdown=parts,
        device=torch.cuda.get_device_name(device),
        batch=step.batch if step is not None else None,
        sequence=step.sequence if step is not None else None,
    )


def _memory_now(facts: Facts) -> dict[str, float]:
    device = facts.load.device if facts.load else None
    if device is None or not device.startswith("cuda"):
        return {}
    return {
        "memory_gib": torch.cuda.memory_allocated(device) / 2**30,
        "allocated_bytes": torch.cuda.memory_allocated(device),
        "reserved_bytes": torch.cuda.memory_reserved(device),
        "peak_allocated_bytes": torch.cuda.max_memory_allocated(device),
    }


def _ids(onlooker: Onlooker) -> set[int]:
    return {id(parameter) for parameter in onlooker.parameters.values()}


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if abs(number) < float("inf") else None

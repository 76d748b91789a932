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

from ..facts import Facts, RunFacts
from ..facts.load import LoadFailure
from ..probes.batch import BatchLook
from ..probes.load.loaded import nonfinite_among
from ..probes.observing import snapshot
from ..probes.observing.overheard import Overhearing
from ..probes.step.optimizer import unwrapped as unwrapped_optimizer
from ..probes.tensors import listed, trainable_parameters
from . import adapters
from .arguments import plain_arguments, row_limit
from .checkpoints import Checkpoints
from .course import LoopCourse, Standing
from .emptied import EmptiedRows
from .finding import is_compiled, objects, unwrapped
from .first_look import know_adapters, know_model, know_trainer, one_tokenizer, parallel_of
from .gathering import bytes_by_part, digest, known_facts, memory_now
from .guarding import Guard
from .onlooker import Clock, Onlooker
from .optimizers import Together, belongs, know_optimizer, steps_taken
from .outputs import training_tokenizer
from .records import Options, Writer
from .rows import Rows, passes_in_one_order
from .scaler import Scaler
from .schedules import Schedules, know_low_rates
from .stopping import Stopping
from .training import Training, device_of, finite
from .update import Update
from .without_steps import know_rows

_MORE = 8
"""Steps that the gradient scaler may skip while the watched ones are counted."""


class Watch:
    """The events of one training in their order, from before its first step to its end.

    Args:
        model: the (PEFT) model, without what parallel training put around it.
        writer: where the facts go.
        options: how long to look, and when to stop the training.
        called: what the loop calls, where that is known and is not the model.
        trainer: transformers' trainer, or None.
        ranks: rank, world size and local rank.
        heard: listens to the libraries' warnings since the process began; None begins now.
        emptied: what has left a data set without rows, where that is known.
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
        emptied: EmptiedRows | None = None,
        learn: Callable[[Facts], None] = lambda facts: None,
    ) -> None:
        self.guard = Guard(self._abandon)
        self._training = training = Training(
            model,
            options,
            called=called,
            trainer=trainer,
            ranks=ranks,
            heard=heard or Overhearing(),
            guard=self.guard,
            number=int(writer.name.rpartition(".")[2]) if writer is not None else 1,
        )
        self.active = False
        self.work, self.rank = training.work, training.rank
        self.series: list[dict[str, Any]] = []
        self.arguments: dict[str, Any] = {}
        self._writer, self._learn = writer, learn
        self._emptied = emptied or EmptiedRows(lambda error: None)
        self._schedules, self._rows, self._scaler = Schedules(training), Rows(training), Scaler(training)
        self._update = Update(training, self._scaler)
        self._checkpoints, self._stopping = Checkpoints(training), Stopping(training)
        self._handles: list[Any] = []
        self._course: LoopCourse | None = None
        self._standing: Standing | None = None
        self._base: snapshot.Snapshot | None = None
        self._in_step = False
        self._forward_came = False
        self._stepped_since = False
        self._over = False

    @property
    def facts(self) -> Facts:
        """All that is known by now."""
        return self._training.facts

    # -- the beginning

    def begin(
        self,
        *,
        optimizer: Any = None,
        tokenizer: Any = None,
        loader: Any = None,
        arguments: Any = None,
        state: Any = None,
        loads: Sequence[adapters.Loaded] = (),
    ) -> None:
        """Nothing has run yet: look at all that stands still, put the hooks on.

        Args:
            optimizer: of the training, where it is known.
            tokenizer: of the training; None looks for it.
            loader: of the training; None looks at all of the process.
            arguments: of a trainer.
            state: of a trainer.
            loads: adapters that PEFT has loaded in this process.
        """
        training = self._training
        model = training.model()
        if model is None:
            return
        training.optimizers = [optimizer] if optimizer is not None else []
        training.tokenizer, training.arguments, training.loads = tokenizer, arguments, loads
        # The first forward may already be within an autocast of its own.
        self._loader = weakref.ref(loader) if loader is not None else lambda: None
        with self.work.on("begin"), listed(model), torch.autocast(device_of(model).type, enabled=False):
            self.guard(self._begin)(model, loader, state)

    def _begin(self, model: nn.Module, loader: Any, state: Any) -> None:
        self.active = True
        training = self._training
        training.found = objects()
        trainer, arguments = training.trainer(), training.arguments
        if trainer is None and arguments is not None:
            trainers = training.found["Trainer"]
            trainer = next((each for each in trainers if getattr(each, "args", None) is arguments), None)
            if trainer is not None:
                training.trainer = weakref.ref(trainer)
        training.tokenizer = training.tokenizer or one_tokenizer(training, model)
        self.arguments = plain_arguments(arguments)
        training.parallel = parallel_of(trainer, training.called, model)
        know_model(training, model)
        know_trainer(training, state)
        with contextlib.suppress(Exception):  # a tokenizer may be anything
            training.run["tokenizer"] = training_tokenizer(model, training.tokenizer)
        self._put_on(model)
        self._schedules.take()
        self._schedules.know_resumed()
        know_adapters(training, model)
        self._rows.look(loader)
        self._write("watching")

    def _put_on(self, model: nn.Module) -> None:
        from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

        training, called = self._training, self._training.called
        training.onlooker = onlooker = Onlooker(
            model,
            Clock(device_of(model)),
            guard=self.guard,
            on_forward=self._forward,
            called=called if called is not None and unwrapped(called) is model else None,
            compiled=is_compiled(called) or is_compiled(model),
            sharded=training.parallel in ("fsdp", "fsdp2"),
            alone=training.world == 1 and training.parallel == "none",
            # Ids of placeholders stand at the top of the model's config, those of padding too.
            batches=BatchLook(training.tokenizer, getattr(model, "config", None), row_limit(training.arguments)),
            work=self.work,
            reads_labels=training.is_loop or bool(training.run.get("own_compute_loss")),
        )
        if not onlooker.compiled:
            onlooker.called = None
        onlooker.train_begin(training.optimizers[0] if training.optimizers else None)
        self._base = onlooker.before
        self._handles = [
            register_optimizer_step_pre_hook(self.guard(self._optimizer_begins)),
            register_optimizer_step_post_hook(self.guard(self._optimizer_stepped)),
        ]
        self._update.put_on(self._backward_begins)

    def began_late(self, *, without_gradients: bool) -> None:
        """Nothing was watched: the process ends, and this is how its model stands.

        Args:
            without_gradients: a forward in training mode ran under ``torch.no_grad``.
        """
        self._training.run.update(began_late=True, forward_without_gradients=without_gradients)
        self.guard(self._know_held)()

    def _know_held(self) -> None:
        if self._training.optimizers and self._training.onlooker is not None:
            know_optimizer(self._training)

    def _look_again(self) -> None:
        """What a loop made after the watching began, and before its first forward."""
        training = self._training
        if not self._forward_came and training.trainer() is None:
            if self._writer is None:
                training.found = objects()
                self._schedules.take()
            self._rows.look_at_loop()
        self._forward_came = True

    # -- the watched steps

    def _forward(self) -> None:
        """Before each training forward."""
        if not self.active:
            return
        if self._in_step and self._scaler.skipped():
            self._step_over(skipped=True)
        if self._in_step:
            return
        if self._watched_enough():
            self._update.begin()
            self._finish()
            self._stepped_since = True  # more steps are to come
            self._stopping.stop_loop()
            return
        training = self._training
        assert training.onlooker is not None
        with self.work.on("before a step"):
            self._look_again()
            self._scaler.step_begin()
            self._update.begin()
            training.onlooker.step_begin(last=training.steps + 1 == training.options.steps)
            self._in_step = True

    def _watched_enough(self) -> bool:
        return self._training.steps >= self._training.options.steps or self._training.skipped >= _MORE

    def _backward_begins(self) -> None:
        if self.active and self._in_step and self._training.onlooker is not None:
            self._update.backward_begins()

    def _optimizer_begins(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        training = self._training
        if self._steps_beside(optimizer) and training.onlooker is not None:
            training.optimizers.append(optimizer)
            with self.work.on("before the optimizer"), listed(training.onlooker.model):
                know_optimizer(training)
            return
        if not self._is_ours(optimizer) or training.onlooker is None:
            return
        if id(optimizer) not in training.held():
            training.optimizers.append(optimizer)
        with self.work.on("before the optimizer"), listed(training.onlooker.model):
            if not self._schedules.rates:
                self._schedules.know_continued()
            training.rates_now = Together(training.optimizers).rates
            self._schedules.rates.append(list(training.rates_now))
            know_optimizer(training)
            training.onlooker.before_optimizer()
            self._update.before_optimizer()

    def _optimizer_stepped(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        if self._is_ours(optimizer):
            self._step_over(skipped=False)

    def _steps_beside(self, optimizer: Any) -> bool:
        """Whether another optimizer of the same model steps behind the one that ended the step."""
        training = self._training
        if not self.active or self._in_step or training.onlooker is None or not training.optimizers:
            return False
        return id(optimizer) not in training.held() and belongs(training, optimizer)

    def _is_ours(self, optimizer: Any) -> bool:
        """Whether a step of an optimizer belongs to the step that is under way."""
        if not self.active or self._training.onlooker is None or not self._in_step:
            return False
        return belongs(self._training, optimizer)

    def _step_over(self, *, skipped: bool) -> None:
        training = self._training
        onlooker = training.onlooker
        assert onlooker is not None
        with self.work.on("after the optimizer"), listed(onlooker.model):
            onlooker.after_optimizer(scale=self._scaler.scale, skipped=skipped)
            onlooker.step_end()
            self._in_step = False
            self._update.end()
            if skipped:
                training.skipped += 1
            else:
                training.steps += 1
            training.counted = max(training.counted, training.steps)
            self._write("watching")

    # -- after the watched steps

    def _finish(self, error: BaseException | None = None) -> None:
        """Take everything off, look once more at what the steps did.

        Args:
            error: that ended the training before they were over.
        """
        if not self.active:
            return
        self.active = False
        training = self._training
        onlooker, model = training.onlooker, training.model()
        assert onlooker is not None
        self._take_off()
        with self.work.on("end of the watched steps"):
            if model is not None:
                with listed(model):
                    onlooker.train_end()
                    self._conclude(onlooker, model)
                    self._know_why_no_step(error)
            self._write("watched")
        if model is not None:
            self._follow_on(model, onlooker)
        training.onlooker = None  # it holds the model
        training.found = {}

    def _conclude(self, onlooker: Onlooker, model: nn.Module) -> None:
        training = self._training
        training.run.update(watched_steps=training.steps, steps_skipped=training.skipped)
        self._schedules.conclude()
        know_low_rates(training)
        held = [Together([each]).tensors for each in training.optimizers]
        apart = len(held) > 1 and sum(map(len, held)) == len(set().union(*held))  # they may take turns
        counted = steps_taken(training.optimizers) if held and not apart else None
        if counted is not None and not training.skipped:
            training.run["optimizer_steps_counted"] = counted - self._schedules.taken_before
        training.breakdown = bytes_by_part(onlooker, model)
        training.stepping = [weakref.ref(unwrapped_optimizer(each)) for each in training.optimizers]
        self._schedules.drop()
        training.optimizers = []
        training.trainable_digest = digest(onlooker.trainable_after)

    def _know_why_no_step(self, error: BaseException | None) -> None:
        """No optimizer stepped: whether a batch came, and where its gradients went."""
        training, onlooker = self._training, self._training.onlooker
        if training.steps or training.skipped or training.counted or training.run.get("resumed_done"):
            return
        loader = self._loader()
        loaders = [loader] if loader is not None else objects()["DataLoader"]
        training.run |= know_rows(error, training.trainer(), loaders, self._emptied)
        if onlooker is not None and training.whole and not onlooker.moved:
            training.run["backwards_without_step"] = sum(onlooker.micro_batches)
            self._update.know_accumulation()

    def _follow_on(self, model: nn.Module, onlooker: Onlooker) -> None:
        """What is still seen of the run: of a loop its course, of a trainer what it tells at its own steps."""
        training = self._training
        self._standing = Standing(model)
        training.run.update(frozen_later=[], frozen_since=0, adapter_off_since=0, adapter_merged_since=0)
        optimizer = next((each for ref in training.stepping if (each := ref()) is not None), None)
        if not training.is_loop or not hasattr(optimizer, "register_step_pre_hook") or not self._learns(onlooker):
            return
        self._course = LoopCourse(
            model,
            optimizer,
            scaler=self._scaler.there(),
            micro_batches=onlooker.micro_batches[-1],
            norms=training.whole,
            done=training.steps,
            record=self._loop_recorded,
            noticed=self._noticed,
            guard=self.guard,
        )

    def _learns(self, onlooker: Onlooker) -> bool:
        """Whether the last watched step had a loss and gradients: what follows one that had none is its consequence."""
        losses, steps = self._training.losses, onlooker.gradients.steps
        return bool(losses) and finite(losses[-1]) is not None and bool(steps) and any(steps[-1].norms.values())

    def _loop_recorded(self, record: dict[str, Any]) -> None:
        numbers = {name: value for name, value in record.items() if name not in ("step", "time")}
        self.logged(record["step"], None, numbers, record["time"])

    def _noticed(self, step: int, changes: Mapping[str, Any]) -> None:
        """Something that held of the model in the watched steps holds no more."""
        run = self._training.run
        if "frozen" in changes:
            run.update(frozen_later=changes["frozen"], frozen_since=step)
        if "switched_off" in changes:
            run["adapter_off_since"] = step
        if "merged" in changes:
            run["adapter_merged_since"] = step
        if "evaluation" in changes:
            model = self._training.model()
            dropouts = [m for m in model.modules() if isinstance(m, nn.Dropout) and m.p > 0] if model else []
            run.update(training_mode=False, evaluation_mode_since=step, dropout_idle=bool(dropouts))
        self._write("changed")

    def _end_course(self) -> None:
        if self._course is not None:
            course, self._course = self._course, None
            course.close()
            self._training.counted = max(self._training.counted, course.done)

    def _take_off(self) -> None:
        """All hooks and wrappers; one that cannot be taken off leaves none of the others on."""
        training = self._training
        with contextlib.ExitStack() as off:
            for close in (training.heard.close, self._stopping.take_off, self._update.take_off):
                off.callback(close)
            if training.onlooker is not None:
                off.callback(training.onlooker.close)
            for handle in self._handles:
                off.callback(handle.remove)
            self._handles = []

    def _abandon(self) -> None:
        """Something failed: nothing of ours stays on, and what is known so far is written."""
        self.active = False
        with contextlib.ExitStack() as ending:
            ending.callback(self._write, "broken")
            ending.callback(self._forget)
            ending.callback(self._take_off)
            ending.callback(self._end_course)

    def _forget(self) -> None:
        training = self._training
        training.onlooker = None
        training.found, training.optimizers = {}, []
        self._schedules.drop()

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
        return self._stopping.wanted()

    def _step_ended(self, done: int) -> None:
        self._training.counted = done
        self._stepped_since = not self.active
        if self.active and self._in_step:
            self._step_over(skipped=self._scaler.there() is not None)
        if self.active and self._watched_enough():
            self._finish()

    def logged(self, step: int, epoch: float | None, logs: Mapping[str, Any], at: float | None = None) -> None:
        """A record of the series, as the trainer made it.

        Args:
            at: seconds since the epoch; None is now.
        """
        self._training.counted = max(self._training.counted, step)
        numbers = {key: value for key, value in logs.items() if isinstance(value, (int, float))}
        record = {"step": step, "epoch": epoch, "time": at or time.time(), **numbers, **memory_now(self.facts)}
        self.series.append(record)
        if any(not math.isfinite(float(value)) for value in numbers.values()):
            self.guard(self._not_finite)(step)
        if self._writer is not None:
            self.guard(self._writer.line)(record)

    def _not_finite(self, step: int) -> None:
        """The first time that something that was logged is no number: which tensors are none by now."""
        model, run = self._training.model(), self._training.run
        if model is None or run.get("nonfinite_step"):
            return
        run.update(nonfinite_step=step, nonfinite_tensors=nonfinite_among(trainable_parameters(model)))
        self._write("not finite")

    def saved(self, folder: str, state: Any) -> None:
        """A checkpoint was written."""
        model = self._training.model()
        if model is not None:
            self.model_saved(model, Path(folder) / f"checkpoint-{state.global_step}")

    def model_saved(self, model: Any, folder: Any) -> None:
        """A model was saved to a folder; one that is not the one that trains is none of ours."""
        if model is self._training.model() and self._training.whole and self.rank == 0:
            self.guard(self._compare_saved)(model, Path(folder))

    def _compare_saved(self, model: nn.Module, folder: Path) -> None:
        if self._checkpoints.compare(model, folder):
            self._write("saved")

    def saved_before(self, folder: Any) -> None:
        """The model was saved to a folder before its training began."""
        self.guard(self._checkpoints.saved_before)(Path(folder))

    def _saved_at_exit(self) -> None:
        training = self._training
        ended = training.ended == "well" and training.whole and self.rank == 0
        if ended and self._checkpoints.at_exit(training.model()):
            self._write("ended")

    def trained(self, state: Any) -> None:
        """The trainer says that the training is over."""
        self._training.counted = max(self._training.counted, state.global_step)
        self.guard(self._trained)()

    def _trained(self) -> None:
        if self.active:
            self._finish()
        self._look_at_end()
        self._over = True
        self._training.ended = "stopped" if self._stopping.wanted() else "well"
        self._write("trained")

    # -- the end

    def end(self, error: BaseException | None = None, *, exiting: bool = False) -> None:
        """The process, the block or the next training ends this one."""
        if not (exiting and self._over and error is None):
            self.guard(self._end)(error)
        if exiting:
            self.guard(self._saved_at_exit)()

    def _end(self, error: BaseException | None) -> None:
        if error is not None:
            self._failed(error)
        self._in_step = False
        if self.active:
            self._finish(error)
        self._end_course()
        self._count_at_end()
        if error is None and not self._over:
            self._look_at_end()
            self._training.ended = "stopped" if self._stopping.wanted() else "well"
        self._over = True
        self._write("ended")

    def _failed(self, error: BaseException) -> None:
        from .ends import failure_of

        training = self._training
        training.ended = "failed"
        self._end_course()
        self._count_at_end()
        if self._standing is not None:  # what was undone may be why it failed; a mode is not
            undone = self._standing.changes()
            undone.pop("evaluation", None)
            self._noticed(training.counted + 1, undone)
        failure = failure_of(error, self.rank, training.counted)
        training.run["failure"] = failure
        if self.active and training.steps < training.options.steps:  # a watched step did not come to its end
            training.failure = LoadFailure(kind=failure.kind, message=failure.message, phase=failure.phase)

    def _count_at_end(self) -> None:
        """Steps of the user's own loop, as its optimizer counted them; and whether its epochs had an order each."""
        training = self._training
        if not training.is_loop:
            return
        done = steps_taken([each for ref in training.stepping if (each := ref()) is not None])
        if done:
            training.counted = max(training.counted, done - self._schedules.taken_before)
        if training.world > 1:
            each = (training.run.get("micro_batches") or [1])[-1]
            batches = training.counted * max(each, 1)
            training.run["sampler_epochs"] = passes_in_one_order(objects()["DataLoader"], batches)

    def _look_at_end(self) -> None:
        """The base is what it was, the adapter on disk is the adapter in memory."""
        training = self._training
        model = training.model()
        if model is None or training.hidden:
            return
        if training.steps:
            self._checkpoints.keep_outputs(model)
        if self._base is None or not self._stepped_since or _is_merged(model, training.facts):
            return
        after = snapshot.take(model, keep_small=False)
        changes = snapshot.compare(self._base, model, after)
        training.run["base_changed_at_end"] = changes.changed

    def _write(self, state: str) -> None:
        training = self._training
        model = training.model()
        try:
            with listed(model) if model is not None else contextlib.nullcontext():
                known = known_facts(training, self._rows, self._scaler)
        except Exception:
            if not self.guard.broken:
                raise
            # Telling what is known is what failed: what was known before, and that it failed.
            run = training.facts.run or RunFacts()
            known = {"run": run.model_copy(update={"troubles": list(self.guard.troubles)})}
        training.facts = training.facts.model_copy(update=known)
        self._learn(training.facts)
        if self._writer is not None:
            self._writer.state(
                {
                    "state": state,
                    "started": training.started,
                    "rank": training.rank,
                    "world_size": training.world,
                    "host": os.uname().nodename if hasattr(os, "uname") else None,
                    "arguments": self.arguments,
                    "facts": training.facts.model_dump(mode="json", exclude_none=True),
                }
            )


def _is_merged(model: nn.Module, facts: Facts) -> bool:
    """Whether the adapter is in the base's weights by now, which are then rightly other ones."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers = [module for module in model.modules() if isinstance(module, BaseTunerLayer)]
    had = facts.adapter is not None and bool(facts.adapter.attached)
    return any(layer.merged_adapters for layer in layers) or (had and not layers)

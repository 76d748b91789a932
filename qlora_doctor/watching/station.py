"""One for each process: waits for a training, watches it, and is ready for the next.

A training is found in one of two ways. transformers' Trainer tells it through a callback. Any other loop shows itself
by its first forward with gradients on of a model that has trainable parameters: until then ``torch.nn.Module.__call__``
is wrapped, and from then on it is torch's own again.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
import time
import weakref
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.uncollected import uncollected
from .emptied import EmptiedRows
from .guarding import StopTraining, say, told
from .records import HEARD, Options, Writer, rank_of

if TYPE_CHECKING:
    from .watcher import Watch

_LIBRARIES = ("transformers", "peft", "bitsandbytes")
"""Without one of them in the process its trainings are none of a language model's adapter."""
_OF_CHILDREN = ("CalledProcessError", "ChildFailedError", "ProcessRaisedException", "ProcessExitedException")
"""Exceptions of a launcher: its child tells what happened."""


@lru_cache(maxsize=1)
def station_of(folder: str) -> Station:
    """The station of this process for a run's folder."""
    return Station(Path(folder))


class Station:
    """Waits, watches, and ends.

    Args:
        folder: of the run.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.options = Options.read(folder)
        self.watch: Watch | None = None
        self.pid = os.getpid()
        self._count = 0
        self._unwrap: Callable[[], None] | None = None
        self._passed: weakref.WeakSet[Any] = weakref.WeakSet()
        self._busy = False
        self._ended = False
        self._heard: Any = None
        self.loads: list[Any] = []
        """Adapters that PEFT has loaded."""
        self._saved_early: tuple[weakref.ref[Any], Any] | None = None
        """The model that was saved last before a training began, and where."""
        self.emptied = EmptiedRows(lambda error: say(f"The rows of a data set were not counted: {told(error)}"))
        """What has left a data set without rows."""
        self._without_gradients = False

    # -- finding a training

    def wait_for_training(self) -> None:
        """Wrap ``Module.__call__`` until the first training forward."""
        import torch
        import wrapt

        from ..probes.observing.overheard import Overhearing

        self._heard = Overhearing(lambda error: say(f"A warning was not noted: {told(error)}"))
        with contextlib.suppress(OSError):
            (self.folder / HEARD).touch()
        atexit.register(self._exit)
        if hasattr(os, "register_at_fork"):  # not on Windows
            os.register_at_fork(after_in_child=self._forked)
        from multiprocessing import util  # which torch has imported

        util.register_after_fork(self, Station._ends_with_child)
        plain = torch.nn.Module.__dict__["__call__"]
        wrapt.wrap_function_wrapper(torch.nn, "Module.__call__", self._called)
        wrapped = torch.nn.Module.__dict__["__call__"]

        def unwrap() -> None:
            if torch.nn.Module.__dict__["__call__"] is wrapped:  # else someone has wrapped it again on top
                torch.nn.Module.__call__ = plain

        self._unwrap = unwrap

    def wait_for_trainer(self, module: Any) -> None:
        """Give every Trainer that is built the callback that reports its training."""
        import wrapt

        wrapt.wrap_function_wrapper(module, "Trainer.__init__", self._trainer_built)

    def wait_for_saves(self, module: Any) -> None:
        """Look at an adapter's file when it was written, and remember which one was loaded."""
        import wrapt

        wrapt.wrap_function_wrapper(module, "PeftModel.save_pretrained", self._saved)
        wrapt.wrap_function_wrapper(module, "PeftModel.load_adapter", self._loaded)

    def _loaded(self, wrapped: Any, model: Any, args: Any, kwargs: Any) -> Any:
        result = wrapped(*args, **kwargs)
        try:
            from .adapters import loaded_into

            folder = args[0] if args else kwargs.get("model_id")
            name = args[1] if len(args) > 1 else kwargs.get("adapter_name", "default")
            found = loaded_into(model, folder, name)
            if found is not None:
                self.loads.append(found)
        except Exception as error:
            say(f"A loaded adapter was not looked at: {told(error)}")
        return result

    def _saved(self, wrapped: Any, model: Any, args: Any, kwargs: Any) -> Any:
        result = wrapped(*args, **kwargs)
        folder = args[0] if args else kwargs.get("save_directory")
        if folder is None:
            return result
        if self.watch is not None:
            self.watch.model_saved(model, folder)
        else:
            self._saved_early = weakref.ref(model), folder
        return result

    def _called(self, wrapped: Any, module: Any, args: Any, kwargs: Any) -> Any:
        if self._unwrap is not None and not self._busy:
            self._look(module)
        return wrapped(*args, **kwargs)

    def _look(self, module: Any) -> None:
        """Begin to watch where this is the first training forward."""
        try:
            import torch

            if not any(name in sys.modules for name in _LIBRARIES):
                return
            if not torch.is_grad_enabled():
                self._without_gradients = self._without_gradients or module.training
                return
            if module in self._passed:
                return
            self._busy = True  # what is looked at calls modules itself
            try:
                from .finding import subject_of

                subject = subject_of(module)
                if subject is None:
                    self._passed.add(module)
                    return
                self.begin(subject, called=module)
            finally:
                self._busy = False
        except Exception as error:
            self._give_up(error)

    def _trainer_built(self, wrapped: Any, trainer: Any, args: Any, kwargs: Any) -> Any:
        result = wrapped(*args, **kwargs)
        try:
            from .callback import RunCallback

            # A DoctorCallback of the program's own writes no records: both may look.
            ours = self.begin_trainer
            callbacks = trainer.callback_handler.callbacks
            if not any(isinstance(each, RunCallback) and each.begin == ours for each in callbacks):
                trainer.add_callback(RunCallback(ours, trainer))
        except Exception as error:
            self._give_up(error)
        return result

    # -- watching

    def begin(self, model: Any, *, called: Any = None, trainer: Any = None, **known: Any) -> Watch | None:
        """Watch a training; what prevents it is reported, and nothing is watched."""
        began = time.perf_counter()
        with uncollected():
            from .watcher import Watch
        imports = time.perf_counter() - began

        self._stop_waiting()
        if self.watch is not None:
            self.watch.end()
        self._count += 1
        rank, world, local = rank_of()
        writer = Writer(self.folder, f"rank-{rank}.{os.getpid()}.{self._count}", say)
        self.watch = Watch(
            model,
            writer,
            self.options,
            called=called,
            trainer=trainer,
            ranks=(rank, world, local),
            heard=self._heard,
            emptied=self.emptied,
        )
        self.watch.work.parts["imports"] = imports
        self.watch.begin(loads=self.loads, **known)
        early, self._saved_early = self._saved_early, None
        if early is not None and early[0]() is model:
            self.watch.saved_before(early[1])
        return self.watch

    def begin_trainer(self, model: Any, trainer: Any, **known: Any) -> Watch | None:
        """A Trainer begins to train."""
        self._busy = True
        try:
            return self.begin(model, trainer=trainer, **known)
        finally:
            self._busy = False

    def _stop_waiting(self) -> None:
        if self._unwrap is not None:
            self._unwrap()
            self._unwrap = None

    def _give_up(self, error: Exception) -> None:
        say(f"Not watching: {told(error)}")
        self._stop_waiting()

    def _look_late(self, error: BaseException | None) -> None:
        """The process ends and no training forward was seen, as none of a frozen adapter is: look at what there is.

        Only where an optimizer was made, or a backward failed for want of gradients: else nothing was to be trained.
        """
        if self._unwrap is None or not any(name in sys.modules for name in _LIBRARIES):
            return
        from .finding import objects

        found = objects()
        meant = bool(found["Optimizer"]) or "does not require grad" in str(error)
        models = [model for model in found["PeftModel"] if not any(p.is_meta for p in model.parameters())]
        if meant and models:
            watch = self.begin(models[-1], optimizer=found["Optimizer"][-1] if found["Optimizer"] else None)
            if watch is not None:
                watch.began_late(without_gradients=self._without_gradients)
        elif isinstance(error, Exception) and type(error).__name__ not in _OF_CHILDREN:
            self._never_began(error, found)

    def _never_began(self, error: Exception, found: dict[str, list[Any]]) -> None:
        """An exception ended the process before it trained: in a constructor, in the data, in the load."""
        from ..facts import Facts, RunFacts
        from .ends import failure_of
        from .without_steps import know_rows

        rank, world, _ = rank_of()
        trainer = found["Trainer"][-1] if found["Trainer"] else None
        failure = failure_of(error, rank, 0)
        rows = know_rows(error, trainer, found["DataLoader"], self.emptied)
        run = RunFacts(ended="failed", failure=failure, world_size=world, **rows)
        document = {"state": "ended", "started": time.time(), "rank": rank, "world_size": world,
                    "facts": Facts(run=run).model_dump(mode="json", exclude_none=True)}  # fmt: skip
        Writer(self.folder, f"rank-{rank}.{os.getpid()}.0", say).state(document)

    # -- the end

    def _forked(self) -> None:
        """A child of fork (a worker of a DataLoader, notebook_launcher) has trained nothing yet."""
        self.watch = None
        self.pid = os.getpid()

    def _ends_with_child(self) -> None:
        """A child that multiprocessing forked ends without Python's own exit; one that trained nothing has no end."""
        from multiprocessing import util

        util.Finalize(None, lambda: self._exit() if self.watch is not None else None, exitpriority=0)

    def _exit(self) -> None:
        """The process ends: by its last statement, by an exception, or by ``sys.exit``."""
        if self._ended:
            return
        self._ended = True
        try:
            error = getattr(sys, "last_exc", None) or getattr(sys, "last_value", None)
            if self.watch is None:
                self._look_late(error)
            if self.watch is None:
                return
            self.watch.end(None if isinstance(error, StopTraining) else error, exiting=True)
        except Exception as failed:
            say(f"The end could not be looked at: {told(failed)}")

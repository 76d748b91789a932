"""The process in which a script runs up to its training: started by ``running``, answers in a file, ends itself."""

from __future__ import annotations

import faulthandler
import functools
import os
import re
import runpy
import sys
import traceback
import types
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from ...core.confining import NetworkClosed, confine
from ...core.files import write_whole
from .request import Outcome, RunData

HANGS = "stacks.txt"
"""File that takes where the script was when its time ran out."""
_OF_DATA = (ValueError, KeyError, TypeError, IndexError, AttributeError)
"""What a loader raises over rows that it cannot use, and not over what this process has not."""
_EARLY = 2.0
"""Seconds before the end of its time at which that is written."""


def main(folder: str) -> None:
    """Entry point: ``request.json`` of the folder says what to run, ``outcome-PID.json`` takes what was drawn."""
    place = Path(folder)
    request = RunData.model_validate_json((place / "request.json").read_text(encoding="utf-8"))
    asked: list[str] = []
    stacks = (place / HANGS).open("w")
    faulthandler.dump_traceback_later(max(1.0, request.seconds - _EARLY), exit=False, file=stacks)
    confine(request.memory, asked)
    _Run(request, place, asked).run()


class _Run:
    """One script."""

    def __init__(self, request: RunData, folder: Path, asked: list[str]) -> None:
        self.request, self.folder, self.asked = request, folder, asked
        from .drawing import Drawn
        from .noting import Noted

        self.noted = Noted(request.script, request.cells)
        self.drawn = Drawn()
        self.trainer: Any = None
        self.drawing = False
        self.first_loader: Any = None
        self.first_begun = 0
        self.last_comes = False

    def run(self) -> None:
        """Run the script; never returns."""
        from .noting import take_notes
        from .stand_ins import stand_in

        stand_in()
        take_notes(self.noted)
        self._wait_for_trainer()
        self._wait_for_loop()
        try:
            self._script()
        except SystemExit as end:
            if self.trainer is None and not self.drawn.batches:
                self._end(reason=_left(end))
        except BaseException as error:
            if self.trainer is None or self.drawing:
                self._failed(error)
        if self.drawn.batches:
            self._finish()
        if self.trainer is not None:
            self._draw_from_trainer()
        self._end(
            reason="The script ended without a trainer, and without a model that is given batches to train on.",
            remedy="Where it trains only under a condition, give it the arguments: --script-args.",
        )

    def _script(self) -> None:
        script = Path(self.request.script).resolve()
        sys.argv = [str(script), *self.request.arguments]
        sys.path.insert(0, str(script.parent))
        if self.request.code is None:
            runpy.run_path(str(script), run_name="__main__")
            return
        module = types.ModuleType("__main__")
        module.__dict__.update(__file__=str(script), __builtins__=__builtins__)
        sys.modules["__main__"] = module
        exec(compile(self.request.code, str(script), "exec"), module.__dict__)

    # -- a Trainer

    def _wait_for_trainer(self) -> None:
        from transformers import Trainer

        plain = Trainer.__init__
        run = self

        @functools.wraps(plain)
        def built(trainer: Any, *args: Any, **kwargs: Any) -> None:
            plain(trainer, *args, **kwargs)
            run.trainer = trainer
            trainer.train = run._draw_from_trainer
            trainer.evaluate = lambda *given, **named: {}

        Trainer.__init__ = built

    def _draw_from_trainer(self, *args: Any, **kwargs: Any) -> None:
        """In place of its training."""
        from ...pipeline.changes import align_padding
        from .drawing import draw

        trainer, drawn = self.trainer, self.drawn
        self.drawing = True
        try:
            loader = trainer.get_train_dataloader()
            given = getattr(trainer, "processing_class", None) or getattr(trainer, "tokenizer", None)
            drawn.tokenizer = _tokenizer(given) if given is not None else _only_tokenizer()
            drawn.model, drawn.config = trainer.model, getattr(trainer.model, "config", None)
            if getattr(trainer, "processing_class", None) is not None and drawn.config is not None:
                align_padding(drawn.config, drawn.tokenizer)
            drawn.collator = getattr(loader, "collate_fn", None) or trainer.data_collator
            drawn.dataset = getattr(loader, "dataset", trainer.train_dataset)
            drawn.evaluated = trainer.eval_dataset
            drawn.shifts = not _own_loss(trainer)
            packs = getattr(trainer.args, "packing", False)
            drawn.limit = None if packs else getattr(trainer.args, "max_length", None)
            draw(loader, drawn)
            drawn.collator = _inside(drawn.collator)
        except BaseException as error:
            self._failed(error)
        self._finish()

    # -- a loop of the user's own

    def _wait_for_loop(self) -> None:
        from torch import nn
        from torch.utils.data.dataloader import _BaseDataLoaderIter

        plain, following = nn.Module.__call__, _BaseDataLoaderIter.__next__
        run = self

        @functools.wraps(following)
        def follow(batches: Any) -> Any:
            try:
                return following(batches)
            except StopIteration:
                run._drained(batches._dataset)
                raise

        _BaseDataLoaderIter.__next__ = follow

        @functools.wraps(plain)
        def call(module: Any, *args: Any, **kwargs: Any) -> Any:
            if not _has_no_weights(module):
                return plain(module, *args, **kwargs)
            return run._given(module, args, kwargs)

        nn.Module.__call__ = call

    def _given(self, model: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """What a model without weights is called with: a batch where it trains, and an answer of nothing."""
        import torch

        batch = dict(kwargs)
        if args and isinstance(args[0], torch.Tensor):
            batch.setdefault("input_ids", args[0])
        if torch.is_grad_enabled() and isinstance(batch.get("input_ids"), torch.Tensor):
            self._took(model, batch)
        return _Answer(self)

    def _took(self, model: Any, batch: Mapping[str, Any]) -> None:
        drawn, loaders = self.drawn, self.noted.loaders
        if drawn.batches and self._is_next_epoch(batch):
            self._finish()
        drawn.batches.append({name: _copied(value) for name, value in batch.items()})
        if len(drawn.batches) == 1:
            self.first_loader, self.first_begun = loaders[-1] if loaders else None, self.noted.begun
            drawn.model, drawn.config = model, getattr(model, "config", None)
            drawn.tokenizer = _only_tokenizer()
            if loaders:
                drawn.dataset, drawn.collator = loaders[-1].dataset, _inside(loaders[-1].collate_fn)
        if drawn.enough or self.last_comes:
            self._finish()

    def _drained(self, dataset: Any) -> None:
        """The loop's loader is at its end: what the script does behind the loop is not run."""
        if self.first_loader is None or self.first_loader.dataset is not dataset:
            return
        from accelerate.state import AcceleratorState

        if not AcceleratorState._shared_state:
            self._finish()
        self.last_comes = True  # accelerate's loaders are one batch ahead

    def _is_next_epoch(self, batch: Mapping[str, Any]) -> bool:
        """Whether the rows of a loop begin again: its loader does, or, without one, its first batch is back."""
        loaders, first = self.noted.loaders, self.drawn.batches[0].get("input_ids")
        if self.first_loader is None:
            return (
                first is not None
                and first.shape == batch["input_ids"].shape
                and bool((first == batch["input_ids"]).all())
            )
        return loaders[-1] is self.first_loader and self.noted.begun != self.first_begun

    def loss_of_its_own(self) -> None:
        """The script takes logits: what its labels are is between it and its loss."""
        self.drawn.shifts = False
        self._finish()

    # -- the end

    def _finish(self) -> None:
        from .drawing import facts_of_drawn

        if not self.drawn.batches:
            self._end_if_empty(None)
            self._end(reason="The training's loader gives no batch: its data set is empty.")
        try:
            data, batch = facts_of_drawn(self.drawn, self.noted)
        except Exception as error:
            traceback.print_exc()
            self._end(reason=f"The batches that were drawn could not be looked at: {_sentence(error)}")
        if getattr(self.trainer, "reward_funcs", None):
            rows = [row for each in self.drawn.batches for row in _rows_of(each)]
            if rows and isinstance(rows[0], Mapping) and "prompt" not in rows[0]:
                columns = ", ".join(map(str, rows[0]))
                self._end_with_failure(
                    f"{type(self.trainer).__name__} takes the column prompt, and the data has {columns}."
                )
            self._write(data=data, batch=batch)  # stands where a reward function does not come back
            data = data.model_copy(update=self._rewards())
        self._end(data=data, batch=batch)

    def _rewards(self) -> dict[str, Any]:
        from .rewarding import reward_facts

        rows = [row for batch in self.drawn.batches for row in _rows_of(batch)]
        try:
            return reward_facts(
                self.trainer,
                rows,
                self.drawn.tokenizer,
                self.noted.named,
                lambda error: f"{_sentence(error)}{self._where(error)}",
                self.asked,
            )
        except Exception:  # another trl's trainer: nothing is known then
            traceback.print_exc()
            return {}

    def _failed(self, error: BaseException) -> None:
        from .rewarding import is_not_here

        traceback.print_exc()
        self._end_if_empty(error)
        if isinstance(error, NetworkClosed) or (self.asked and _from_network(error)):
            self._end(
                reason=f"The script asks for the network ({', '.join(self.asked[:3])}){self._where(error)}, which "
                "--run-data closes.",
                remedy="Run it once as it is, or download what it names, so that it is in the cache of this machine.",
            )
        if _is_offline(error):
            self._end(
                reason=f"The script asks for something of the hub{self._where(error)} that is not on this machine: "
                f"{_sentence(error)}",
                remedy="Download it first: --run-data opens no network.",
            )
        if self.drawing and isinstance(error, _OF_DATA) and not is_not_here(error):
            self._end_with_failure(f"no batch can be made of the rows{self._where(error)}: {_sentence(error)}")
        what = "drawing the first batches" if self.drawing else "before its training"
        self._end(reason=f"The script ended {what}{self._where(error)}: {_sentence(error)}")

    def _end_with_failure(self, why: str) -> None:
        """End with a finding: the training would stop here, too."""
        from ...facts import DataFacts
        from ...pipeline.samples import conversation_column

        found = conversation_column(self.noted.handed or {})
        said = found.why if found is not None else why
        remedy = found.remedy if found is not None else None
        self._end(data=DataFacts(source=Path(self.request.script).name, failure=said), remedy=remedy)

    def _end_if_empty(self, error: BaseException | None) -> None:
        """End with a finding where the data set that is to be trained on has no row."""
        if self.noted.emptied is None or not (_has_no_rows(self.trainer) or _is_of_no_rows(error)):
            return
        from ...facts import DataFacts

        source = Path(self.request.script).name
        self._end(data=DataFacts(source=source, rows=0, rows_seen=0, left_out_reasons=[self.noted.emptied]))

    def _where(self, error: BaseException) -> str:
        """The innermost place of the user's own code, with its function."""
        from .noting import is_library

        found: str | None = None
        named = ""
        trace: TracebackType | None = error.__traceback__
        while trace is not None:
            code = trace.tb_frame.f_code
            if not is_library(code.co_filename) and not code.co_filename.startswith(str(Path(__file__).parents[2])):
                place = self.noted.place(code.co_filename, trace.tb_lineno)
                named = named if code.co_name.startswith("<") else f" in {code.co_name}"
                found = f"{named} ({place})"
            trace = trace.tb_next
        if isinstance(error, SyntaxError) and error.filename:
            found = f" ({self.noted.place(error.filename, error.lineno or 1)})"
        return found or ""

    def _write(self, **known: Any) -> None:
        outcome = Outcome(asked_network=tuple(self.asked), **known)
        write_whole(self.folder / f"outcome-{os.getpid()}.json", outcome.model_dump_json().encode())

    def _end(self, **known: Any) -> None:
        self._write(**known)
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (OSError, ValueError):
                continue
        os._exit(0)


class _Answer(dict):  # type: ignore[type-arg]
    """What a model answers that has no weights: a loss of 0 that nothing hangs on; its logits end the drawing."""

    def __init__(self, run: _Run) -> None:
        import torch

        self._run = run
        loss = torch.zeros((), requires_grad=True)
        super().__init__(loss=loss)
        self.loss = loss

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        self._run.loss_of_its_own()

    def __getitem__(self, key: Any) -> Any:
        if key in ("loss", 0):
            return self.loss
        return self._run.loss_of_its_own()


def _has_no_weights(module: Any) -> bool:
    """Whether this is a whole model that was built on meta: transformers' or PEFT's, or what is around one."""
    names = {cls.__name__ for cls in type(module).__mro__}
    if not names & {"PreTrainedModel", "PeftModel"}:
        return False
    first = next(iter(module.parameters()), None)
    return first is not None and first.is_meta


def _has_no_rows(trainer: Any) -> bool:
    data: Any = getattr(trainer, "train_dataset", None)
    return data is not None and hasattr(data, "__len__") and len(data) == 0


def _is_of_no_rows(error: BaseException | None) -> bool:
    """Whether an exception came where a function was given a data set to train on that has no row."""
    trace = error.__traceback__ if error is not None else None
    while trace is not None:
        given: Any = trace.tb_frame.f_locals.get("train_dataset")
        if given is not None and hasattr(given, "__len__") and len(given) == 0:
            return True
        trace = trace.tb_next
    return False


def _rows_of(batch: Mapping[str, Any]) -> list[Any]:
    """Rows of a batch that is a list of them, as the trainers take it that let the model write."""
    rows = batch.get("rows")
    return rows if isinstance(rows, list) else []


def _copied(value: Any) -> Any:
    return value.detach().clone() if hasattr(value, "detach") else value


def _tokenizer(found: Any) -> Any:
    """The tokenizer of a processor, or the tokenizer itself."""
    return getattr(found, "tokenizer", found)


def _only_tokenizer() -> Any:
    import gc

    from transformers import PreTrainedTokenizerBase

    found = [each for each in gc.get_objects() if isinstance(each, PreTrainedTokenizerBase)]
    names = {getattr(each, "name_or_path", None) for each in found}
    return found[-1] if found and len(names) == 1 else None


def _inside(collator: Any) -> Any:
    """The collator that transformers' Trainer wraps in order to take columns off."""
    inner = getattr(collator, "data_collator", None)
    return inner if inner is not None and type(collator).__name__ == "RemoveColumnsCollator" else collator


def _own_loss(trainer: Any) -> bool:
    own = getattr(type(trainer), "compute_loss", None)
    module = str(getattr(own, "__module__", ""))
    return not module.startswith(("transformers.", "trl.")) or getattr(trainer, "compute_loss_func", None) is not None


def _from_network(error: BaseException) -> bool:
    """Whether an exception came of the closed network, however it was wrapped on the way."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, NetworkClosed | OSError):
            return True
        seen = seen.__cause__ or seen.__context__
    return False


def _is_offline(error: BaseException) -> bool:
    """Whether the hub's libraries miss what their cache does not hold."""
    seen: BaseException | None = error
    while seen is not None:
        if type(seen).__name__ in ("OfflineModeIsEnabled", "LocalEntryNotFoundError", "OfflineModeError"):
            return True
        if re.search(
            r"OfflineModeIsEnabled|offline mode|couldn't connect to 'https://huggingface", str(seen), re.IGNORECASE
        ):
            return True
        seen = seen.__cause__ or seen.__context__
    return False


def _left(end: SystemExit) -> str:
    if end.code in (0, None):
        return "The script ended by itself before it came to a training."
    if isinstance(end.code, str):
        return f"The script ended by itself: {' '.join(end.code.split())[:300]}"
    return f"The script ended by itself with exit code {end.code} before it came to a training."


def _sentence(error: BaseException) -> str:
    if isinstance(error, MemoryError):
        return "it ran out of the memory that --run-data gives it (--script-memory)."
    text = " ".join(str(error).split())
    return f"{type(error).__name__}{': ' + text if text else ''}"[:400]

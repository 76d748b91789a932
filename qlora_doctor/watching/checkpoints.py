"""What a training that is watched saves: the adapter on disk against the one in memory, and what the model says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from .finding import is_compiled
from .guarding import told
from .saved import FILE
from .training import Training

_KEPT = 4
"""Moments whose outputs are kept: the last of them."""


def written(folder: Path) -> tuple[int, int] | None:
    """Size and time of an adapter's file; None where there is none."""
    try:
        found = (folder / FILE).stat()
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns


class Checkpoints:
    """Looks at each checkpoint as it is written."""

    def __init__(self, training: Training) -> None:
        self._training = training
        self._saved_at: int | None = None
        self._folder: Path | None = None
        self._written: tuple[int, int] | None = None

    def compare(self, model: nn.Module, folder: Path) -> bool:
        """Hold a saved adapter against the model; False where this one was looked at before."""
        from .saved import differing

        training, run = self._training, self._training.run
        if run.get("adapter_saved") == str(folder) and self._saved_at == training.counted:
            return False
        with training.work.on("saved adapter"):
            self._saved_at, self._folder = training.counted, folder
            self._written = written(folder)
            run.update(adapter_saved=str(folder), adapter_rewritten=None, steps_unsaved=0)
            found = differing(model, folder)
            if found or "adapter_saved_differs" not in run:
                run["adapter_saved_differs"] = found
            self.keep_outputs(model, folder)
        return True

    def saved_before(self, folder: Path) -> None:
        """The adapter was saved before the training began."""
        self._saved_at, self._folder, self._written = 0, folder, written(folder)

    def at_exit(self, model: nn.Module | None) -> bool:
        """The process ends: the file that was saved last is what it was, and holds the adapter as it is now.

        Returns whether there was one to look at.
        """
        from .saved import differing, is_readable

        training, run = self._training, self._training.run
        if self._folder is None or self._written is None:
            return False
        now = written(self._folder)
        if now is None:  # moved, or a checkpoint that was rotated out
            return False
        run["adapter_saved"] = str(self._folder)
        if not is_readable(self._folder):
            run["adapter_rewritten"] = "cannot be read"
            return True
        rewritten = now != self._written
        unsaved = 0 if _keeps_the_best(training.arguments) else training.counted - (self._saved_at or 0)
        differ = differing(model, self._folder) if model is not None and (rewritten or unsaved) else None
        if rewritten:
            run["adapter_rewritten"] = "holds other values" if differ else None
        elif differ:
            run["steps_unsaved"] = unsaved
        return True

    def keep_outputs(self, model: nn.Module, folder: Path | None = None) -> None:
        """What the model says now, of the last few saves and of the end; a failure is reported and ends nothing."""
        training = self._training
        if not training.options.keep_outputs or training.ended == "failed" or training.rank or not training.whole:
            return
        if is_compiled(model) or is_compiled(training.called):
            return
        from .outputs import kept_outputs

        try:
            found = kept_outputs(
                model, training.tokenizer, step=training.counted, folder=str(folder) if folder else None
            )
        except Exception as error:
            training.guard.tell(f"The trained model's outputs were not kept: {told(error)}.")
            return
        if found is not None:
            training.run["kept_outputs"] = [*(training.run.get("kept_outputs") or [])[-_KEPT + 1 :], found]


def _keeps_the_best(arguments: Any) -> bool:
    """Whether the trainer saves by a metric, so that a later state is left out on purpose."""
    if getattr(arguments, "load_best_model_at_end", False):
        return True
    return str(getattr(getattr(arguments, "save_strategy", None), "value", None)) == "best"

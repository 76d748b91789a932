"""What a training that is watched saves: the adapter on disk against the one in memory, and what the model says."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from .finding import is_compiled
from .guarding import told
from .training import Training

_KEPT = 4
"""Moments whose outputs are kept: the last of them."""


class Checkpoints:
    """Looks at each checkpoint as it is written."""

    def __init__(self, training: Training) -> None:
        self._training = training
        self._saved_at: int | None = None

    def compare(self, model: nn.Module, folder: Path) -> bool:
        """Hold a saved adapter against the model; False where this one was looked at before."""
        from .saved import differing

        training, run = self._training, self._training.run
        if run.get("adapter_saved") == str(folder) and self._saved_at == training.counted:
            return False
        with training.work.on("saved adapter"):
            self._saved_at = training.counted
            run["adapter_saved"] = str(folder)
            found = differing(model, folder)
            if found or "adapter_saved_differs" not in run:
                run["adapter_saved_differs"] = found
            self.keep_outputs(model, folder)
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

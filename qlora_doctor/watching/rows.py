"""The rows that a training goes through: their order, what they are evaluated against, and who masks their labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from . import accumulating
from .dataset import evaluated_share, going, masked_by_hand, rewrites_labels, sorted_rows
from .training import Training


class Rows:
    """What shows of the rows before the first step.

    Attributes:
        masked_by_hand: share of the labels that the rows leave out themselves; None is unknown.
        rewrites_labels: the collator makes the labels anew.
    """

    def __init__(self, training: Training) -> None:
        self._training = training
        self.masked_by_hand: float | None = None
        self.rewrites_labels = False

    def look(self, loader: Any) -> None:
        """The rows, their order, and what a collator makes of their labels.

        Args:
            loader: of the training; None looks at all of the process.
        """
        training = self._training
        loaders = [loader] if loader is not None else training.found["DataLoader"]
        trainer = training.trainer()
        if trainer is not None:
            evaluated = getattr(trainer, "eval_dataset", None)
            sets = list(evaluated.values()) if isinstance(evaluated, dict) else [evaluated]  # by name, or one
            self._know_evaluated(getattr(trainer, "train_dataset", None), sets)
        self.masked_by_hand = masked_by_hand(loaders)
        # Of a loop's loaders any may be the one of the evaluation, which is in order by right: see look_at_loop.
        training.run["rows_sorted"] = sorted_rows(loaders) if trainer is not None or len(loaders) == 1 else None
        self.rewrites_labels = rewrites_labels(loaders)

    def look_at_loop(self) -> None:
        """The order of a loop's rows, and what it will be evaluated on: its loaders by what is being gone through."""
        found = self._training.found
        loaders = found["DataLoader"]
        training = going(loaders, found["_BaseDataLoaderIter"])
        if len({id(each.dataset) for each in training}) != 1:
            return
        self._training.run["rows_sorted"] = sorted_rows(training)
        others = accumulating.evaluating([each for each in loaders if not any(each is one for one in training)])
        self._know_evaluated(training[0].dataset, [each.dataset for each in others])

    def _know_evaluated(self, trained: Any, evaluated: Sequence[Any]) -> None:
        shares = [share for each in evaluated if (share := evaluated_share(trained, each)) is not None]
        self._training.run["evaluates_training_rows"] = max(shares, default=None)


def passes_in_one_order(loaders: Sequence[Any], batches: int) -> int:
    """How often the batches of a shuffling DistributedSampler whose epoch was never set were gone through; else 0."""
    for loader in loaders:
        sampler = getattr(loader, "sampler", None)
        if type(sampler).__name__ != "DistributedSampler" or not getattr(sampler, "shuffle", False):
            continue
        if getattr(sampler, "epoch", None) == 0 and len(loader) and batches > len(loader):
            return -(-batches // len(loader))
    return 0

"""Why a training made no step: the rows that it was given, the batches that its loader makes of them, who failed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from .emptied import EmptiedRows


def know_rows(
    error: BaseException | None, trainer: Any, loaders: Sequence[Any], emptied: EmptiedRows
) -> dict[str, Any]:
    """Fields of ``RunFacts``: the training rows, who left them out, and the loader that gives no batch.

    Args:
        error: that ended the process; its frames know the data set of a loader that could not be built.
        loaders: of the training where they are known, or all of the process.
    """
    dataset = getattr(trainer, "train_dataset", None)
    if dataset is None:
        dataset = next(_empty_ones(error), None)
    # One that is empty may be that of an evaluation: it says nothing of a run that something else ended.
    empty = next((each for each in loaders if _length(each) == 0), None) if error is None else None
    if dataset is None and empty is not None:
        dataset = getattr(empty, "dataset", None)
    rows = _length(dataset)
    known: dict[str, Any] = {"training_rows": rows}
    if rows == 0:
        known["emptied"] = emptied.of(dataset)
    if empty is not None:
        sampler = getattr(empty, "batch_sampler", None)
        known.update(
            loader_batches=0,
            loader_batch_size=getattr(empty, "batch_size", None) or getattr(sampler, "batch_size", None),
            loader_drops_last=getattr(empty, "drop_last", None) or getattr(sampler, "drop_last", None),
        )
    return known


def _empty_ones(error: BaseException | None) -> Iterator[Any]:
    """Data sets without a row that a sampler or a loader was built of when it failed."""
    trace = error.__traceback__ if error is not None else None
    while trace is not None:
        frame = trace.tb_frame
        if str(frame.f_globals.get("__name__", "")).startswith("torch.utils.data"):
            for name in ("dataset", "data_source"):
                each = frame.f_locals.get(name)
                if each is not None and _length(each) == 0:
                    yield each
        trace = trace.tb_next


def _length(each: Any) -> int | None:
    try:
        return len(each)
    except Exception:  # one that streams has none
        return None

"""What the processes of one training wrote, as one: rank 0's facts, and where the other ranks differ. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..facts import Facts
from ..facts.run import RankFacts, RunFacts
from .records import Training
from .scaling import scale_facts

_UNION = ("changed_base_tensors", "parameters_nonfinite_gradient")
"""Facts of a step that are true of the run where they are true on any rank."""
_UNION_IF_WHOLE = ("parameters_without_gradient", "parameters_zero_gradient", "parameters_not_updated")
"""The same where each rank holds its tensors whole; of sharded ones they are true where they are true on every rank."""


def groups(trainings: Sequence[Training]) -> list[list[Training]]:
    """The ranks of each training together, lowest rank first.

    Processes that one launcher started have different ranks and the same number; a rank that is there twice belongs
    to another launch.
    """
    found: list[list[Training]] = []
    for training in trainings:
        for group in found:
            taken = {each.rank for each in group}
            same = group[0].number == training.number and training.rank not in taken
            if same and training.document.get("world_size", 1) == group[0].document.get("world_size", 1) > 1:
                group.append(training)
                break
        else:
            found.append([training])
    return [sorted(group, key=lambda each: each.rank) for group in found]


def together(group: Sequence[Training]) -> Facts:
    """The facts of one training of one or several processes.

    Raises:
        ValueError: what was written is no facts.
    """
    every = [Facts.model_validate(each.facts) for each in group]
    facts = every[0]
    ranks = [rank for each in every for rank in ((each.run.ranks or []) if each.run else [])]
    run = facts.run or RunFacts()
    changes: dict[str, Any] = {"ranks": ranks or None}
    if len(every) > 1:
        changes |= _differences(ranks, run.parallel)
        changes |= _scale(ranks, run)
    failed = next((each.run.failure for each in every if each.run and each.run.failure), None)
    if failed is not None:
        changes["failure"] = failed
        changes["ended"] = "failed"
    troubles = [text for each in every if each.run for text in each.run.troubles or []]
    changes["troubles"] = list(dict.fromkeys(troubles))
    facts = facts.model_copy(update={"run": run.model_copy(update=changes)})
    return facts.model_copy(update={"step": _steps(every)})


def _steps(every: Sequence[Facts]) -> Any:
    """The step of rank 0, with what was seen on any rank."""
    step = every[0].step
    if step is None or len(every) == 1:
        return step
    sharded = every[0].run is not None and every[0].run.parallel in ("fsdp", "fsdp2")
    changes: dict[str, Any] = {}
    for name in (*_UNION, *_UNION_IF_WHOLE):
        lists = [getattr(each.step, name) for each in every if each.step is not None]
        if any(found is None for found in lists):
            continue
        joined = list(dict.fromkeys(text for found in lists for text in found))
        if sharded and name in _UNION_IF_WHOLE:
            joined = [text for text in joined if all(text in found for found in lists)]
        changes[name] = joined
    faults = [changes.get(name) for name in ("parameters_without_gradient", "parameters_zero_gradient",
                                             "parameters_nonfinite_gradient")]  # fmt: skip
    if None not in faults:
        changes["gradients_sound"] = not any(faults)
    return step.model_copy(update=changes)


def _scale(ranks: Sequence[RankFacts], run: RunFacts) -> dict[str, Any]:
    """What the losses of all ranks say together: a trainer may divide by the tokens of all of them."""
    tokens = [rank.trained_tokens for rank in ranks]
    if None in tokens or len(ranks) != run.world_size or not run.micro_batches:
        return {}
    total = sum(number or 0 for number in tokens)
    known: dict[str, Any] = {"tokens_per_update": total}
    values = [(rank.backward_loss, rank.mean_loss, rank.mean_of_means) for rank in ranks]
    if not total or any(part is None for value in values for part in value):
        return known
    backward = sum(value[0] or 0.0 for value in values) / len(ranks)
    weighted = sum((rank.mean_loss or 0.0) * (rank.trained_tokens or 0) for rank in ranks) / total
    plain = sum(value[2] or 0.0 for value in values) / len(ranks)
    return (
        known
        | {"backward_loss": backward, "mean_loss": weighted}
        | scale_facts(backward, weighted, plain, run.micro_batches[-1])
    )


def _differences(ranks: Sequence[RankFacts], parallel: str | None) -> dict[str, Any]:
    found: dict[str, Any] = {}
    first = ranks[0]
    if parallel == "ddp" and all(rank.trainable for rank in ranks):
        found["ranks_differ"] = [rank.rank for rank in ranks if rank.trainable != first.trainable]
    if all(rank.batches for rank in ranks):
        seen: dict[tuple[str, ...], int] = {}
        same = []
        for rank in ranks:
            key = tuple(rank.batches or ())
            if key in seen:
                same.append(rank.rank)
            seen.setdefault(key, rank.rank)
        found["ranks_same_batch"] = same
    steps = [rank.steps for rank in ranks if rank.steps is not None]
    if len(steps) == len(ranks) and all(rank.ended in ("well", "stopped") for rank in ranks):
        found["ranks_behind"] = [rank.rank for rank in ranks if (rank.steps or 0) < max(steps)]
    return found

"""Changes with which a setup fits its card, as facts (command ``cure``, and ``plan`` where the answer is no)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from ..facts import Facts, MemoryFacts
from . import UNFINISHED, Progress, Tell, tell_nobody
from .levers import Combination, Lever, Prefer, altering_levers, levers_of, shorter
from .searching import in_order, named, search_for
from .stage import evaluation_batch_of, look_at_memory, machine_for, recalled_memory, sequence_of, target_card

if TYPE_CHECKING:
    from ..facts.memory import Cure
    from ..setup.setup import Setup
    from .cure import Search


class Request(Protocol):
    """What is asked for (``worker.job.CureRequest``)."""

    @property
    def levers(self) -> tuple[str, ...]: ...
    @property
    def prefer(self) -> Prefer: ...
    @property
    def alters(self) -> bool: ...


def all_levers(setup: Setup, facts: Facts) -> tuple[list[Lever], list[Lever]]:
    """The changes that leave what is learned as it is, and those that do not."""
    return levers_of(setup, evaluation_batch_of(facts)), altering_levers(setup, sequence_of(setup))


def recalled_cure(setup: Setup, facts: Facts, request: Request) -> MemoryFacts | None:
    """The same from traces that come with the package, without torch; None where they do not tell all of it.

    They do not where a change that is preferred to those that fit has no traces among them.
    """
    memory = recalled_memory(setup, facts)
    if memory is None or memory.predicted is None or request.alters:
        return None
    card = target_card(setup, facts)
    search = search_for(
        setup,
        facts,
        card,
        machine_of=machine_for,
        evaluation_batch=None,
        architecture=None,
        offline=True,
        progress=lambda text: None,
        folded=True,
    )
    if search is None or search.room.holds(memory.predicted, memory.margin_ratio or 0.0):
        return memory
    levers = [lever for lever in all_levers(setup, facts)[0] if lever.change in request.levers]
    chosen = search.found(levers, request.prefer, alone=True, strictly=True)
    if chosen is None:
        return None
    found = in_order(search.tried.values(), chosen)
    return memory.model_copy(update={"cure": chosen, "cures": found, "cure_changes": named(chosen)})


def look_at_cure(
    setup: Setup, facts: Facts, request: Request, progress: Progress, tell: Tell = tell_nobody,
    *, offline: bool = True,
) -> MemoryFacts:  # fmt: skip
    """The prediction of the setup as it is, and where that does not fit, the changes with which it does.

    Raises:
        StageError: the model cannot be built; see ``qlora_doctor.pipeline``.
    """
    from ..pipeline import load_config
    from .traced_once import TracedOnce

    architecture = load_config(setup, offline=offline)
    known = TracedOnce(setup, architecture, offline=offline)
    memory = look_at_memory(
        setup, facts, progress, offline=offline, architecture=architecture, known=known, with_savings=False
    )
    if memory.predicted is None:
        return memory
    card = target_card(setup, facts)
    search = search_for(
        setup,
        facts,
        card,
        machine_of=machine_for,
        evaluation_batch=evaluation_batch_of(facts),
        architecture=architecture,
        offline=offline,
        progress=progress,
        floor=memory.certain_bytes,
        known=known,
    )
    if search is None or search.room.holds(memory.predicted, memory.margin_ratio or 0.0):
        return memory
    assumptions = [*(memory.predicted.assumptions or []), UNFINISHED]
    tell(memory.model_copy(update={"predicted": memory.predicted.model_copy(update={"assumptions": assumptions})}))
    allowed, altering = all_levers(setup, facts)
    levers = [lever for lever in allowed if lever.change in request.levers]
    more = [lever for lever in altering if lever.change in request.levers]
    chosen = search.found(levers, request.prefer, alone=True)
    if more and (chosen is None or request.alters):
        chosen = _with_altering(search, levers, more, request, sequence_of(setup)) or chosen
    return memory.model_copy(
        update={
            "cure": chosen,
            "cures": in_order(search.tried.values(), chosen),
            "cure_changes": None if chosen is None else named(chosen),
        }
    )


def _with_altering(
    search: Search, levers: list[Lever], altering: list[Lever], request: Request, sequence: int
) -> Cure | None:
    """The mildest altering change that helps: as any other where it is asked for, else beside all others.

    All others are made first, since each saves the more of what is learned; those that it fits without are then taken
    back. Where no altering change is enough, all but another base are made at once, and that last.
    """
    if request.alters:
        found: Cure | None = search.found([*levers, *altering], request.prefer)
        return found
    every = tuple({lever.kind: lever for lever in levers}.values())
    whole = next(((*every, lever) for lever in altering if _fits(search, (*every, lever))), None)
    if whole is None:
        strongest = {lever.kind: lever for lever in altering}
        whole = (*every, *(lever for kind, lever in strongest.items() if kind != "base"))
        if not _fits(search, whole):
            whole = (*every, *strongest.values())
            if "base" not in strongest or not _fits(search, whole):
                return None
        whole = _without_needless(search, whole, [lever for lever in whole if lever.alters])
    whole = _longest(search, whole, [lever for lever in altering if lever.kind == "length"], sequence)
    return search.predicted(_without_needless(search, whole, list(every)))


def _fits(search: Search, combination: Combination) -> bool:
    cure = search.predicted(combination)
    return cure is not None and bool(cure.fits)


def _without_needless(search: Search, whole: Combination, maybe: list[Lever]) -> Combination:
    """Those of the changes that it does not fit without, the costliest looked at first."""
    for lever in sorted(maybe, key=lambda each: (-each.speed, not each.rounds)):
        less = tuple(each for each in whole if each is not lever)
        if less and _fits(search, less):
            whole = less
    return whole


def _longest(search: Search, whole: Combination, lengths: list[Lever], sequence: int) -> Combination:
    """The same with the longest samples that fit, in steps of 64 tokens between the length that fits and the next."""
    lever = next((each for each in whole if each.kind == "length"), None)
    if lever is None:
        return whole
    others = tuple(each for each in whole if each is not lever)
    tokens = [each.operations[0].value for each in lengths]
    low = lever.operations[0].value
    high = min((each for each in (sequence, *tokens) if each > low), default=sequence)
    while high - low > 64:
        middle = shorter(sequence, (low + high) // 128 * 64)
        length = middle.operations[0].value
        if length in (low, high):
            break
        if _fits(search, (*others, middle)):
            low, lever = length, middle
        else:
            high = length
    return (*others, lever)

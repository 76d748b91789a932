"""Replay a tape through the allocator: peaks, what was in use at the peak's moment, and a timeline."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

from .allocator import Block, CachingAllocator, rounded
from .machine import Machine
from .scratch import SCRATCH_CATEGORY, scratch_bytes
from .tape import ALLOC, CATEGORIES, FREE, OPEN, Kernel, Owner, Tape

TIMELINE_POINTS = 300
"""Points of a timeline at most."""
_STRIDE = 2048
"""Events after which a replay that may end early looks whether it may."""


MOST_HELD = 20
"""Kinds of storages that are listed for a phase; the others are counted together."""


_NEVER_HIGHEST = ("prepare", "adapter")
"""Phases in which nothing is at its highest: what they hold is what the load has left."""


class Held(NamedTuple):
    """Storages of one kind that are in use at one moment; ``owner`` is None for what is not known or is little."""

    phase: str
    part: str
    owner: Owner | None
    number: int
    bytes: int


@dataclass
class Replayed:
    """What ``torch.cuda``'s counters would show over a run; bytes.

    Attributes
    ----------
    loaded: allocated once the adapter is attached.
    steps: (peak allocated, peak reserved) of each optimizer step before an evaluation; allocated since its start,
        reserved since the process began, as ``max_memory_reserved`` is never below what is reserved now.
    run: (peak allocated, peak reserved) by part of the run: ``load``, ``step``, where there are any ``evaluation``,
        ``generation`` (within a step) and ``save``.
    peak_phase: the part of the run with the highest peak reserved, of equal ones that with the highest allocated.
    breakdown: bytes in use at the moment of the highest allocation of the run, by :data:`~.tape.CATEGORIES`.
    step_breakdown: the same for the highest allocation of a step.
    phases: (peak allocated, peak reserved) by phase, over the load and all steps.
    timeline: (allocated, phase) over the load, two steps and an evaluation, the highest of each stretch.
    after: allocated after the last step.
    held: what is in use at the highest moment of each phase, by part and owner, the most bytes first; empty where the
        tape knows no owners.
    """

    loaded: int
    steps: list[tuple[int, int]]
    run: dict[str, tuple[int, int]]
    peak_phase: str
    breakdown: dict[str, int]
    step_breakdown: dict[str, int]
    phases: dict[str, tuple[int, int]]
    timeline: list[tuple[int, str]]
    after: int
    held: list[Held] = field(default_factory=list)

    @property
    def peak_allocated(self) -> int:
        """The highest allocation of the run."""
        return max(allocated for allocated, _ in self.run.values())

    @property
    def peak_reserved(self) -> int:
        """The most that is reserved during the run."""
        return max(reserved for _, reserved in self.run.values())


_STEPS = 3


def replay(
    tape: Tape, machine: Machine, evaluation: Tape | None = None, saved: Sequence[int] | None = None
) -> Replayed:
    """The memory of loading and of :data:`_STEPS` optimizer steps; steps after the first keep what outlives a step.

    Where there is a tape of an evaluation batch, two of them follow, and one more step: what an evaluation leaves
    reserved stays so for the rest of the run.

    Args:
        saved: bytes of the tensors that saving and loading the best checkpoint bring to the card beside what rests
            there; None where nothing is saved.
    """
    run = _Run(tape, machine, CachingAllocator(machine.expandable_segments))
    run.load()
    allocator = run.allocator
    loaded = allocator.allocated
    parts = {"load": (allocator.peak_allocated, allocator.peak_reserved)}
    survivors = _survivors(tape)
    peaks = _step_peaks(run, survivors)
    parts["step"] = max(peak for peak, _ in peaks), max(peak for _, peak in peaks)
    if "generation" in run.phase_peaks:
        parts["generation"] = run.phase_peaks["generation"]
    after = allocator.allocated
    best = {"load": run.best_of_load, "step": run.best}
    evaluated: _Run | None = None
    if evaluation is not None:
        allocator.reset_peaks()
        evaluated = _two_batches(evaluation, machine, allocator)
        allocated = allocator.peak_allocated
        run.play(tape.step_start, len(tape.events), _STEPS, survivors)
        parts["evaluation"] = allocated, allocator.peak_reserved
        best["evaluation"] = evaluated.best
        run.then(evaluated)
    if saved is not None:
        parts["save"] = _peaks_of_saving(allocator, saved)

    def breakdown(part: str) -> dict[str, int]:
        if part == "evaluation" and evaluated is not None:
            at_rest, again = _sizes_at_rest(tape, run, survivors), frozenset(evaluated.tape.workspaces)
            return _breakdown(evaluated, best[part], frozenset(), evaluated.tape.step_start, again, at_rest)
        return _breakdown(run, best[part], survivors)

    return Replayed(
        loaded=loaded,
        steps=peaks,
        run=parts,
        peak_phase=_decides(parts),
        breakdown=breakdown(max(best, key=lambda part: parts[part][0])),
        step_breakdown=breakdown("step"),
        phases=run.phase_peaks,
        timeline=_timeline(run.course, run.stretches),
        after=after,
        held=_held_by_phase(run, survivors) if tape.owners else [],
    )


def _step_peaks(run: _Run, survivors: frozenset[int]) -> list[tuple[int, int]]:
    """(peak allocated, peak reserved) of each step; those after the first find what outlives a step in place."""
    peaks = []
    for step in range(_STEPS):
        run.allocator.reset_peaks()
        run.play(run.tape.step_start, len(run.tape.events), step, survivors if step else frozenset())
        peaks.append((run.allocator.peak_allocated, run.allocator.peak_reserved))
    return peaks


def _peaks_of_saving(allocator: CachingAllocator, sizes: Sequence[int]) -> tuple[int, int]:
    """(peak allocated, peak reserved) while tensors of these sizes come to the card and go again."""
    allocator.reset_peaks()
    for block in [allocator.malloc(size) for size in sizes]:
        allocator.free(block)
    return allocator.peak_allocated, allocator.peak_reserved


def _two_batches(evaluation: Tape, machine: Machine, allocator: CachingAllocator) -> _Run:
    """Two evaluation batches; the workspaces are there from the steps."""
    evaluated, again = _Run(evaluation, machine, allocator), frozenset(evaluation.workspaces)
    for batch in range(2):
        evaluated.play(evaluation.step_start, len(evaluation.events), batch, again)
        evaluated.let_go()
    return evaluated


def _held_by_phase(run: _Run, survivors: frozenset[int]) -> list[Held]:
    """What is held at the peak of each phase that lasts."""
    peaks = [peak for phase, peak in run.phase_best.items() if phase not in _NEVER_HIGHEST]
    return [each for peak in peaks for each in _held(run, peak, survivors)]


def _decides(parts: dict[str, tuple[int, int]]) -> str:
    """The part of a run that decides what is reserved; a step that peaks while it generates is its generation."""
    part = max(parts, key=lambda part: parts[part][::-1])
    return "generation" if part == "step" and parts.get("generation", (0, 0))[0] == parts["step"][0] else part


_TABLE_STEPS = 2
"""Optimizer steps of a replay for a table: what outlives a step is there in the second."""


def replay_peaks(
    tape: Tape, machine: Machine, evaluation: Tape | None = None, enough: int | None = None
) -> tuple[int, int]:
    """Peak allocated and peak reserved of the whole run alone, for tables of many setups.

    Args:
        enough: bytes reserved beyond which nobody asks: the replay may end soon after more is reserved.
    """
    run = _Run(tape, machine, CachingAllocator(machine.expandable_segments), watched=False)
    run.load()
    survivors = _survivors(tape)
    bounds = [
        *range(tape.step_start, len(tape.events), _STRIDE if enough is not None else 1 << 40),
        len(tape.events),
    ]
    for step in range(_TABLE_STEPS):
        for begin, end in pairwise(bounds):
            run.play(begin, end, step, survivors if step else frozenset())
            if enough is not None and run.allocator.peak_reserved > enough:
                return run.allocator.peak_allocated, run.allocator.peak_reserved
    if evaluation is not None:
        evaluated = _Run(evaluation, machine, run.allocator, watched=False)
        evaluated.play(evaluation.step_start, len(evaluation.events), 0, frozenset(evaluation.workspaces))
        evaluated.let_go()
        run.play(tape.step_start, len(tape.events), _TABLE_STEPS, survivors)
    return run.allocator.peak_allocated, run.allocator.peak_reserved


def _survivors(tape: Tape) -> frozenset[int]:
    """Storages that appear in the step and are still there at its end."""
    events = set(tape.events[tape.step_start :])
    return frozenset(event >> 2 for event in events if event & 3 == ALLOC and event | FREE not in events)


@dataclass
class _Peak:
    allocated: int = 0
    phase: str = "load"
    step: int = 0
    place: int = 0


@dataclass
class _Run:
    """``watched``: whether the highest moments and the course are wanted, not the allocator's peaks alone."""

    tape: Tape
    machine: Machine
    allocator: CachingAllocator = field(default_factory=CachingAllocator)
    watched: bool = True
    blocks: dict[int, Block] = field(default_factory=dict)
    opened: list[Block] = field(default_factory=list)
    """Scratch memory of the last kernel, where a stretch may end within it."""
    best: _Peak = field(default_factory=_Peak)
    best_of_load: _Peak = field(default_factory=_Peak)
    phase_best: dict[str, _Peak] = field(default_factory=dict)
    """The highest moment of each phase."""
    phase_peaks: dict[str, tuple[int, int]] = field(default_factory=dict)
    course: list[int] = field(default_factory=list)
    stretches: list[tuple[int, str]] = field(default_factory=list)
    """Where in ``course`` each phase begins."""

    def __post_init__(self) -> None:
        self.sizes = list(self.tape.sizes)
        for index in self.tape.workspaces:
            self.sizes[index] = self.machine.blas_workspace_bytes
        self.rounded = rounded(self.sizes)
        known: dict[Kernel, list[int]] = {}
        for kernel in self.tape.kernels:
            if kernel not in known:
                known[kernel] = scratch_bytes(kernel, self.machine)
        self.scratch = [known[kernel] for kernel in self.tape.kernels]

    def load(self) -> None:
        """All that comes before the first step."""
        self.play(0, self.tape.step_start, -1, frozenset())

    def play(self, start: int, end: int, step: int, skip: frozenset[int]) -> None:
        """Events ``start`` to ``end``, without the storages in ``skip``, and the cache emptied where the tape says."""
        for place in self.tape.emptied:
            if start < place <= end:
                self._play_between(start, place, step, skip)
                self.allocator.empty_cache()
                start = place
        self._play_between(start, end, step, skip)

    def _play_between(self, start: int, end: int, step: int, skip: frozenset[int]) -> None:
        if not self.watched:
            self._play_on(start, end, skip)
            return
        phases = [*self.tape.phases, (len(self.tape.events), "end")]
        for (begin, name), (finish, _) in pairwise(phases):
            begin, finish = max(begin, start), min(finish, end)
            if begin < finish:
                self._play_phase(begin, finish, name, step, skip)

    def _play_on(self, start: int, end: int, skip: frozenset[int]) -> None:
        """The same with nobody watching."""
        allocator, blocks, sizes, scratch = self.allocator, self.blocks, self.rounded, self.scratch
        malloc, free, streams = allocator.malloc_rounded, allocator.free, self.tape.streams
        opened: list[Block] = self.opened
        for event in self.tape.events[start:end]:
            kind, index = event & 3, event >> 2
            if kind == ALLOC:
                if index not in skip:
                    blocks[index] = malloc(sizes[index], streams.get(index, 0)) if streams else malloc(sizes[index])
            elif kind == FREE:
                if index in blocks:
                    free(blocks.pop(index))
            elif kind == OPEN:
                opened = [allocator.malloc(size) for size in scratch[index]]
            else:
                for block in reversed(opened):
                    free(block)
        self.opened = opened

    def then(self, other: _Run) -> None:
        """Put the course of another run behind this one's."""
        self.stretches += [(len(self.course) + place, name) for place, name in other.stretches]
        self.course += other.course

    def let_go(self) -> None:
        """Free what the tape still holds: the batch itself, which makes room for the next."""
        for block in self.blocks.values():
            self.allocator.free(block)
        self.blocks.clear()

    def _play_phase(self, begin: int, finish: int, name: str, step: int, skip: frozenset[int]) -> None:
        allocator, blocks, sizes, events = self.allocator, self.blocks, self.rounded, self.tape.events
        malloc, free, streams = allocator.malloc_rounded, allocator.free, self.tape.streams
        high, moment = allocator.allocated, begin
        opened: list[Block] = []
        course: list[int] = []
        record = course.append
        for place in range(begin, finish):
            event = events[place]
            kind, index = event & 3, event >> 2
            if kind == ALLOC:
                if index not in skip:
                    blocks[index] = malloc(sizes[index], streams.get(index, 0)) if streams else malloc(sizes[index])
            elif kind == FREE:
                block = blocks.pop(index, None)
                if block is not None:
                    free(block)
            elif kind == OPEN:
                opened = [allocator.malloc(size) for size in self.scratch[index]]
            else:
                for block in reversed(opened):
                    free(block)
            now = allocator.allocated
            if now > high:
                high, moment = now, place
            record(now)
        if step <= 1:
            self.stretches.append((len(self.course), name))
            self.course += course
        if step >= 0 and high > self.best.allocated:
            self.best = _Peak(high, name, step, moment)
        if step < 0 and high > self.best_of_load.allocated:
            self.best_of_load = _Peak(high, name, 0, moment)
        if name not in self.phase_best or high > self.phase_best[name].allocated:
            self.phase_best[name] = _Peak(high, name, max(step, 0), moment)
        before = self.phase_peaks.get(name, (0, 0))
        self.phase_peaks[name] = (max(before[0], high), max(before[1], allocator.peak_reserved))


def _breakdown(
    run: _Run,
    peak: _Peak,
    survivors: frozenset[int],
    start: int = 0,
    skip: frozenset[int] = frozenset(),
    before: dict[str, int] | None = None,
) -> dict[str, int]:
    """Bytes asked for that are in use at the peak, by part; what the allocator gave beyond is fragmentation.

    ``before`` is in use by parts that the tape from ``start`` on, without the storages in ``skip``, knows nothing of.
    """
    tape = run.tape
    alive, kernel = _alive(tape, peak, survivors, start)
    parts = dict.fromkeys(CATEGORIES, 0) | (before or {})
    for index in alive - skip:
        parts[tape.categories[index]] += run.sizes[index]
    if kernel is not None:
        parts[SCRATCH_CATEGORY.get(tape.kernels[kernel].rule, "workspaces")] += sum(run.scratch[kernel])
    parts["fragmentation"] = peak.allocated - sum(parts.values())
    return parts


def _alive(tape: Tape, peak: _Peak, survivors: frozenset[int], start: int = 0) -> tuple[set[int], int | None]:
    """The storages that are in use at a moment, and the kernel that runs."""
    alive: set[int] = set(survivors if peak.step else ())
    kernel: int | None = None
    for place, event in enumerate(tape.events[start : peak.place + 1], start):
        kind, index = event & 3, event >> 2
        if kind == ALLOC:
            alive.add(index)
        elif kind == FREE and not (peak.step and index in survivors and place >= tape.step_start):
            alive.discard(index)
        elif kind == OPEN:
            kernel = index
        elif kind != FREE:
            kernel = None
    return alive, kernel


def _held(run: _Run, peak: _Peak, survivors: frozenset[int]) -> list[Held]:
    """What is in use at a moment, by part and owner."""
    tape = run.tape
    kinds: dict[tuple[str, Owner | None], tuple[int, int]] = {}
    for index in _alive(tape, peak, survivors)[0]:
        kind = tape.categories[index], tape.owners.get(index)
        count, size = kinds.get(kind, (0, 0))
        kinds[kind] = count + 1, size + run.sizes[index]
    found = [Held(peak.phase, part, owner, count, size) for (part, owner), (count, size) in kinds.items() if size]
    found.sort(key=lambda each: -each.bytes)
    rest: dict[str, Held] = {}
    for each in found[MOST_HELD:]:
        before = rest.get(each.part, Held(each.phase, each.part, None, 0, 0))
        rest[each.part] = before._replace(number=before.number + each.number, bytes=before.bytes + each.bytes)
    return [*found[:MOST_HELD], *rest.values()]


def _sizes_at_rest(tape: Tape, run: _Run, survivors: frozenset[int]) -> dict[str, int]:
    """Bytes asked for that are in use between two steps, by part."""
    alive: set[int] = set(survivors)
    for event in tape.events[: tape.step_start]:
        kind, index = event & 3, event >> 2
        if kind == ALLOC:
            alive.add(index)
        elif kind == FREE:
            alive.discard(index)
    parts: dict[str, int] = {}
    for index in alive:
        parts[tape.categories[index]] = parts.get(tape.categories[index], 0) + run.sizes[index]
    return parts


def _timeline(course: list[int], stretches: list[tuple[int, str]]) -> list[tuple[int, str]]:
    """The highest of each stretch of the course, at most :data:`TIMELINE_POINTS` of them, with its phase."""
    begins = [begin for begin, _ in stretches]
    count = min(len(course), TIMELINE_POINTS)
    edges = [len(course) * point // count for point in range(count + 1)] if count else []
    points = []
    for begin, end in pairwise(edges):
        stretch = course[begin:end]
        high = max(stretch)
        points.append((high, stretches[bisect_right(begins, begin + stretch.index(high)) - 1][1]))
    return points

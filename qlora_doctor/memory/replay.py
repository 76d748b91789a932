"""Replay a tape through the allocator: peaks, what was in use at the peak's moment, and a timeline."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from .allocator import Block, CachingAllocator
from .machine import Machine
from .kernels import scratch_bytes
from .tape import ALLOC, CATEGORIES, FREE, OPEN, Tape


@dataclass
class Replayed:
    """What ``torch.cuda``'s counters would show over the steps.

    ``steps`` holds (peak allocated, peak reserved) of each optimizer step as measured from its start; bytes all.
    """

    loaded: int
    steps: list[tuple[int, int]]
    peak_allocated: int
    peak_reserved: int
    breakdown: dict[str, int]
    peak_phase: str
    phases: dict[str, tuple[int, int]]
    timeline: list[tuple[int, str]] = field(default_factory=list)
    after: int = 0


def replay(tape: Tape, machine: Machine, steps: int = 3) -> Replayed:
    """The memory of loading and of ``steps`` optimizer steps.

    Steps after the first do not take again what outlives a step. The breakdown and the phases are those of the step
    with the highest peak.
    """
    run = _Run(tape, machine, CachingAllocator(machine.expandable_segments))
    first = next(place for place, name in tape.phases if name == "step")
    start = 0
    for place in tape.emptied:
        run.play(start, place)
        run.allocator.empty_cache()
        start = place
    run.play(start, first)
    loaded = run.allocator.allocated
    survivors = _survivors(tape, first)
    peaks = []
    for step in range(steps):
        run.allocator.reset_peaks()
        run.start_step(skip=survivors if step else frozenset())
        run.play(first, len(tape.events))
        peaks.append((run.allocator.peak_allocated, run.allocator.peak_reserved))
    best = run.best
    return Replayed(
        loaded=loaded,
        steps=peaks,
        peak_allocated=max(peak for peak, _ in peaks),
        peak_reserved=max(peak for _, peak in peaks),
        breakdown=best.breakdown,
        peak_phase=best.phase,
        phases=run.phase_peaks,
        timeline=run.timeline,
        after=run.allocator.allocated,
    )


def _survivors(tape: Tape, first: int) -> frozenset[int]:
    """Storages that appear in the step and are still there at its end."""
    alive: set[int] = set()
    for event in tape.events[first:]:
        if event & 3 == ALLOC:
            alive.add(event >> 2)
        elif event & 3 == FREE:
            alive.discard(event >> 2)
    return frozenset(alive)


@dataclass
class _Peak:
    allocated: int = 0
    phase: str = "load"
    breakdown: dict[str, int] = field(default_factory=dict)


class _Run:
    def __init__(self, tape: Tape, machine: Machine, allocator: CachingAllocator) -> None:
        self.tape = tape
        self.allocator = allocator
        self.sizes = list(tape.sizes)
        for index in tape.workspaces:
            self.sizes[index] = machine.blas_workspace_bytes
        self.scratch = [scratch_bytes(kernel, machine) for kernel in tape.kernels]
        self.blocks: dict[int, Block] = {}
        self.open: dict[int, list[Block]] = {}
        self.skip: frozenset[int] = frozenset()
        self.best = _Peak()
        self.phase_peaks: dict[str, tuple[int, int]] = {}
        self.timeline: list[tuple[int, str]] = []

    def start_step(self, skip: frozenset[int]) -> None:
        self.skip = skip

    def play(self, start: int, end: int) -> None:
        tape, allocator, blocks, sizes, skip = self.tape, self.allocator, self.blocks, self.sizes, self.skip
        phases = [*tape.phases, (len(tape.events), "end")]
        for (begin, name), (finish, _) in zip(phases, phases[1:]):
            begin, finish = max(begin, start), min(finish, end)
            if begin >= finish:
                continue
            high, moment = allocator.allocated, begin
            for place in range(begin, finish):
                event = tape.events[place]
                kind, index = event & 3, event >> 2
                if kind == ALLOC:
                    if index not in skip:
                        blocks[index] = allocator.malloc(sizes[index])
                elif kind == FREE:
                    block = blocks.pop(index, None)
                    if block is not None:
                        allocator.free(block)
                elif kind == OPEN:
                    self.open[index] = [allocator.malloc(size) for size in self.scratch[index]]
                else:
                    for block in reversed(self.open.pop(index)):
                        allocator.free(block)
                if allocator.allocated > high:
                    high, moment = allocator.allocated, place
                    if high > self.best.allocated and name != "load":
                        self.best = _Peak(high, name)
            before = self.phase_peaks.get(name, (0, 0))
            self.phase_peaks[name] = (max(before[0], high), max(before[1], allocator.reserved))

"""The most that is in use at each moment of a step, by rounded sizes: fast, and without the allocator's decisions."""

from __future__ import annotations

from itertools import accumulate, pairwise

from .allocator import round_size, rounded
from .machine import Machine
from .scratch import scratch_bytes
from .tape import ALLOC, FREE, OPEN, Tape

Moments = dict[str, int]


def moments(tape: Tape, machine: Machine) -> Moments:
    """Most bytes in use at each moment of a second step, by rounded sizes.

    ``forward``, ``loss`` (the backward pass while logits are there), ``last`` and ``first`` (its halves: the last
    layers come first) and ``optimizer``.
    """
    sizes = list(tape.sizes)
    for index in tape.workspaces:
        sizes[index] = machine.blas_workspace_bytes
    scratch = [sum(map(round_size, scratch_bytes(kernel, machine))) for kernel in tape.kernels]
    blocks = rounded(sizes)
    most = dict.fromkeys(("forward", "loss", "last", "first", "optimizer"), 0)
    bounds = [*tape.phases, (len(tape.events), "end")]
    alive, now, logits = set[int](), 0, 0
    for step in range(2):
        for (begin, name), (end, _) in pairwise(bounds):
            if step and end <= tape.step_start:
                continue
            for place in range(max(begin, tape.step_start) if step else begin, end):
                event = tape.events[place]
                kind, index = event & 3, event >> 2
                if kind == ALLOC and index not in alive:
                    alive.add(index)
                    now += blocks[index]
                    logits += tape.categories[index] == "logits_and_loss"
                elif kind == FREE and index in alive:
                    alive.discard(index)
                    now -= blocks[index]
                    logits -= tape.categories[index] == "logits_and_loss"
                taken = now + scratch[index] if kind == OPEN else now
                if step:
                    moment = name
                    if name == "backward":
                        moment = "loss" if logits else "last" if place < (begin + end) // 2 else "first"
                    most[moment] = max(most.get(moment, 0), taken)
    return most


def most_in_use(tape: Tape, machine: Machine) -> int:
    """Most bytes in use over load and two steps, by rounded sizes; an allocator never has less.

    Thousands of tapes are looked at so where a batch or a length is sought, so it runs over whole lists.
    """
    sizes = rounded(tape.sizes)
    for index in tape.workspaces:
        sizes[index] = round_size(machine.blas_workspace_bytes)
    scratch = [sum(map(round_size, scratch_bytes(kernel, machine))) for kernel in tape.kernels]
    by_kind = (sizes, [-size for size in sizes], scratch, [-size for size in scratch])
    deltas = [by_kind[event & 3][event >> 2] for event in tape.events]
    course = list(accumulate(deltas))
    begun: dict[int, int] = {}
    for place, event in enumerate(tape.events[tape.step_start :], tape.step_start):
        if event & 3 == ALLOC:
            begun[event >> 2] = place
        elif event & 3 == FREE and begun.pop(event >> 2, None) is None:
            deltas[place] = 0  # it was there before the first step, and is not before the second
    for place in begun.values():
        deltas[place] = 0  # it outlives the first step, and is not made again
    again = accumulate(deltas[tape.step_start :], initial=course[-1] if course else 0)
    return max(max(course, default=0), max(again))

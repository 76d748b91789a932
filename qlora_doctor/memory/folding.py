"""Fold tapes along a model's layers: from three traces of few layers, :class:`.folded.Folded` for any depth.

Two tapes of one depth tell what each size grows with (:mod:`.scaling`), with the rank beside batch and length. A third,
one period of layers deeper, is aligned with the first: what it has more is what a period adds in each phase, and
numbers that differ grow with the depth. A fourth, of another depth and size, shows that this holds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from . import optimizers
from .folded import STATES, Folded, Token
from .scaling import FORMS, NotScalable
from .tape import ALLOC, FREE, OPEN, Tape

COUNTED = "adapter elements"
"""The optimizer that stands in while a tape is folded: it keeps a copy and one byte for each element."""
NEAR = 12
"""Storages up to which a distance is counted from the newest; farther ones are counted from the last that went."""
START, DIFFERENT = 1.0, 1.0
"""What an insertion and a number that differs cost in the alignment; the latter more, the more it differs."""


@dataclass(frozen=True)
class Size:
    """What a tape was traced for."""

    depth: int
    batch: int
    sequence: int
    rank: int


Trace = Callable[[Size], Tape]


def folded(trace: Trace, sizes: tuple[Size, Size, Size], depth: int, last: int) -> Folded:
    """Fold what ``trace`` gives; :func:`agrees` tells whether it holds.

    Args:
        trace: the tape of a size, with the optimizer :data:`COUNTED`.
        sizes: one, another of the same depth, and the first one period of layers deeper.
        depth: of the model.

    Raises:
        NotScalable: the tapes have no common form.
    """
    first, second, deeper = sizes
    one, more = _numbered(trace(first)), _numbered(trace(deeper))
    solved = _solved(one, _numbered(trace(second)), first, second)
    inserted, sloped = _aligned(one, more)
    by_raw: dict[Token, set[Token]] = {}
    for raw, token in zip(one, solved, strict=True):
        by_raw.setdefault(raw, set()).add(token)
    tokens = [_sloped(token, sloped.get(place, 0), first) for place, token in enumerate(solved)]
    vocabulary: dict[Token, int] = {}

    def placed(sequence: list[Token]) -> list[int]:
        return [vocabulary.setdefault(token, len(vocabulary)) for token in sequence]

    course = placed(tokens)
    blocks: list[int] = []
    layers = []
    for place, begin, length in inserted:
        added = more[begin : begin + length]
        before = solved[place - length : place]
        block = before if one[place - length : place] == added else [_known(by_raw, each) for each in added]
        layers.append((len(blocks), len(blocks) + length, place))
        blocks += placed(block)
    period = deeper.depth - first.depth
    return Folded(list(vocabulary), course, layers, blocks, (depth - first.depth) // period, last)


def agrees(piece: Folded, repeats: int, size: Size, trace: Trace) -> bool:
    """Whether a folded tape with so many periods of layers more comes out as the trace of that size."""
    found = replace(piece, repeats=repeats).scalable(size.rank, COUNTED).at(size.batch, size.sequence)
    wanted = trace(size)
    if found.events != wanted.events and sorted(found.events) != sorted(wanted.events):
        return False
    spaces = frozenset(found.workspaces)
    sizes = [0 if index in spaces else size for index, size in enumerate(found.sizes)]
    return sizes == wanted.sizes and found.kernels == wanted.kernels and found.phases == wanted.phases


@contextmanager
def counting() -> Iterator[None]:
    """Within, :data:`COUNTED` is an optimizer that a step can be traced with, and a folded tape unfolds with."""

    def init(self: Any, parameter: torch.nn.Parameter) -> list[torch.Tensor]:
        return [torch.empty_like(parameter), torch.empty(parameter.numel(), dtype=torch.uint8, device="meta")]

    optimizers.RULES[COUNTED] = init, lambda self, parameters: None
    STATES[COUNTED] = lambda count, itemsize: [count * itemsize, count]
    try:
        yield
    finally:
        del optimizers.RULES[COUNTED], STATES[COUNTED]


def _numbered(tape: Tape) -> list[Token]:
    """A tape's events as tokens that hold bytes and shapes as they are."""
    marks: dict[int, list[Token]] = {}
    for place, name in tape.phases:
        marks.setdefault(place, []).append(("phase", name))
    for place in tape.emptied:
        marks.setdefault(place, []).append(("empty",))
    marks.setdefault(tape.step_start, []).append(("start",))
    workspaces = set(tape.workspaces)
    out: list[Token] = []
    born: list[int] = []
    went: dict[int, int] = {}
    begun = [0]
    phase, clips = 0, False
    copies: list[int] = []
    for place in range(len(tape.events) + 1):
        for mark in sorted(marks.get(place, ())):
            out.append(mark)
            if mark[0] == "phase":
                phase += 1
                begun.append(len(born))
            clips |= mark == ("phase", "optimizer")
        if place == len(tape.events):
            return out
        kind, index = tape.events[place] & 3, tape.events[place] >> 2
        if kind == ALLOC:
            category = tape.categories[index]
            if category == "optimizer":
                copies.append(tape.sizes[index])
                if len(copies) == 2:  # a copy of a tensor, and a byte for each of its elements
                    out.append(("state", copies[0] // copies[1], copies[1]))
                    copies = []
            elif clips:
                out.append(("clip",))
            else:
                workspace = index in workspaces
                size = 0 if workspace else tape.sizes[index]
                out.append(("alloc", category, tape.streams.get(index, 0), workspace, size))
            clips = False
            born.append(phase)
        elif kind == FREE:
            distance = len(born) - index
            if distance <= NEAR and born[index] == phase:
                out.append(("near", distance))
            else:
                out.append(("far", born[index], index - went.get(born[index], begun[born[index]])))
                went[born[index]] = index
        elif kind == OPEN:
            kernel = tape.kernels[index]
            out.append(("open", kernel.rule, *kernel.shape))
        else:
            out.append(("close",))
    return out


def _solved(one: list[Token], other: list[Token], first: Size, second: Size) -> list[Token]:
    """The tokens of one tape with what each number grows with; states of the optimizer as one token for two."""
    if len(one) != len(other):
        raise NotScalable("a step takes another course with another batch, length or rank")
    known: dict[tuple[int, int], tuple[int, int, int]] = {}

    def solve(x: int, y: int) -> tuple[int, int, int]:
        if (x, y) not in known:
            known[x, y] = _solve(x, y, first, second)
        return known[x, y]

    out: list[Token] = []
    for a, b in zip(one, other, strict=True):
        if a[0] == "alloc" and a[:-1] == b[:-1]:
            form, power, factor = solve(a[-1], b[-1])
            out.append((*a[:-1], form, power, factor, 0))
        elif a[0] == "open" and a[:2] == b[:2]:
            out.append(("open", a[1], tuple(solve(x, y) for x, y in zip(a[2:], b[2:], strict=True))))
        elif a[0] == "state" and a[:2] == b[:2]:
            form, power, count = solve(a[2], b[2])
            if (form, power) != (0, 1):
                raise NotScalable("a trained tensor does not grow with the rank")
            out.append(("state", count, a[1]))
        elif a == b:
            out.append((*a, 0) if a[0] in ("near", "far") else a)
        else:
            raise NotScalable("a step takes another course with another batch, length or rank")
    return out


def _solve(x: int, y: int, first: Size, second: Size) -> tuple[int, int, int]:
    if x == y == 0:
        return 0, 0, 0
    for power in (0, 1):
        for form, product in enumerate(FORMS):
            p = product(first.batch, first.sequence) * (first.rank if power else 1)
            q = product(second.batch, second.sequence) * (second.rank if power else 1)
            if x % p == 0 and x // p * q == y:
                return form, power, x // p
    raise NotScalable(f"a size goes from {x:,} to {y:,} bytes in no known way")


def _sloped(token: Token, slope: int, size: Size) -> Token:
    """A token whose number grows by ``slope`` with each period of layers."""
    if not slope:
        return token
    if token[0] == "alloc":
        form, power = token[4:6]
        product = FORMS[form](size.batch, size.sequence) * (size.rank if power else 1)
        if slope % product:
            raise NotScalable(f"a size grows by {slope:,} bytes with the depth in no known way")
        slope //= product
    return (*token[:-1], slope)


def _known(by_raw: dict[Token, set[Token]], raw: Token) -> Token:
    """What stands for a token of a further layer: a distance is itself, a size must have been seen in one way."""
    if raw[0] in ("near", "far"):
        return (*raw, 0)
    found = by_raw.get(raw, set())
    if len(found) != 1:
        raise NotScalable(f"a layer does what the layers before it did not, or one of {len(found)} things: {raw}")
    return next(iter(found))


def _aligned(one: list[Token], more: list[Token]) -> tuple[list[tuple[int, int, int]], dict[int, int]]:
    """What ``more`` has beyond ``one`` as (place in one, start in more, length), and by place what a number grows by.

    The cheapest alignment that only inserts: row by row over ``one``, for every shift at once.
    """
    exact: dict[Token, int] = {}
    alike: dict[Token, int] = {}

    def numbers(tokens: list[Token]) -> tuple[Any, Any, Any]:
        with_number = [token[0] in ("alloc", "near", "far") for token in tokens]
        classes = [token[:-1] if has else token for token, has in zip(tokens, with_number, strict=True)]
        values = [float(token[-1]) if has else 0.0 for token, has in zip(tokens, with_number, strict=True)]
        return (
            np.array([exact.setdefault(token, len(exact)) for token in tokens]),
            np.array([alike.setdefault(each, len(alike)) for each in classes]),
            np.array(values),
        )

    (same, kind, value), (same_more, kind_more, value_more) = numbers(one), numbers(more)
    width = len(more) - len(one) + 1
    if width < 1:
        raise NotScalable("more layers do less")
    shifts = np.arange(width)
    cost = np.full(width, np.inf)
    cost[0] = 0.0
    came_from = np.zeros((len(one) + 1, width), np.int32)

    def insert(cost: Any, place: int) -> Any:
        lowest = np.minimum.accumulate(cost)
        where = np.maximum.accumulate(np.where(cost == lowest, shifts, 0))
        longer = np.concatenate(([np.inf], lowest[:-1])) + START
        better = longer < cost
        came_from[place] = np.where(better, np.concatenate(([0], where[:-1])), shifts)
        return np.where(better, longer, cost)

    for place in range(len(one)):
        cost = insert(cost, place)
        there = slice(place, place + width)
        far = np.abs(value_more[there] - value[place]) / (1 + np.abs(value_more[there]) + abs(value[place]))
        differs = np.where(kind_more[there] == kind[place], DIFFERENT + 4 * far, np.inf)
        cost = cost + np.where(same_more[there] == same[place], 0.0, differs)
    cost = insert(cost, len(one))
    if not np.isfinite(cost[-1]):
        raise NotScalable("more layers take another course")
    shift = width - 1
    inserted: list[tuple[int, int, int]] = []
    sloped: dict[int, int] = {}
    for place in range(len(one), -1, -1):
        before = int(came_from[place][shift])
        if before != shift:
            inserted.append((place, place + before, shift - before))
            shift = before
        if place and one[place - 1] != more[place - 1 + shift]:
            sloped[place - 1] = int(more[place - 1 + shift][-1] - one[place - 1][-1])
    return inserted[::-1], sloped

"""A tape folded along a model's layers and solved for batch, length and rank: a few kilobytes for any of them.

A stack of equal layers repeats itself in each phase of a run, so a tape of few layers and the places where a further
layer adds its events tell the tape of any depth. Storages are named by what does not depend on depth: one that appears
is the next, one that goes is reported by its distance from the newest, or from the last that went of the same phase.
The state of an optimizer follows from the adapter's tensors, so a tape holds these and serves every optimizer of
:data:`STATES`; a tape is of two micro-batches, and those that wait while more are accumulated are added.
:mod:`.folding` makes them, and this module, which needs no torch, unfolds them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .scaling import ScalableTape
from .tape import CLOSE, FREE, OPEN, Kernel, Tape

Token = tuple[Any, ...]
"""What happens, by its first word:

- ``phase name``, ``start`` (of a step), ``empty`` (the cache), ``close`` (a kernel);
- ``alloc category stream workspace form power factor slope``: a storage of
  ``FORMS[form](batch, sequence) · rank ** power · (factor + slope · layers)`` bytes;
- ``near distance slope``: the storage so far from the newest goes;
- ``far phase distance slope``: the storage so far from the last that went of those that appeared in this phase;
- ``open rule ((form, power, factor), …)``: a kernel and the shape it runs on;
- ``state count itemsize``: what the optimizer keeps of a tensor with ``count · rank`` elements;
- ``clip``: what clipping takes to sum up the gradients.

``layers`` are those added to the folded tape, in its period.
"""

States = Callable[[int, int], list[int]]

PAGED_FROM, BLOCK_8BIT, MIN_8BIT = 100_000, 256, 4096
"""As in :mod:`.optimizers`, which imports torch; a test holds both against each other."""
CHUNK = 65_536
"""Elements that a gradient's norm is summed up by (``ATen/native/cuda/ForeachReduceOp.cu``)."""
SHARED_8BIT = 1024
"""Bytes of each of the two tables that 8-bit states share."""


def _bitsandbytes(bits: int, paged: bool) -> States:
    def of(count: int, itemsize: int) -> list[int]:
        small = bits == 32 or count < MIN_8BIT
        out = [] if paged and count >= PAGED_FROM else [count * (4 if small else 1)] * 2
        return out if small else out + [-(-count // BLOCK_8BIT) * 4] * 2

    return of


STATES: dict[str, States] = {
    "paged_adamw_8bit": _bitsandbytes(8, True),
    "paged_adamw_32bit": _bitsandbytes(32, True),
    "paged_adamw": _bitsandbytes(32, True),
    "adamw_8bit": _bitsandbytes(8, False),
    "adamw_bnb_8bit": _bitsandbytes(8, False),
    "adamw_torch_fused": lambda count, itemsize: [4, count * itemsize, count * itemsize],
}
"""Bytes of each storage that an optimizer keeps of a tensor with so many elements of so many bytes; none of these
takes more while it steps."""


@dataclass(frozen=True, eq=False)
class Folded:
    """A folded tape.

    Attributes:
        tokens: the vocabulary.
        course: places in it, in order.
        layers: (start, end, place in ``course``): the stretch of ``blocks`` that each further period of layers adds.
        blocks: places in the vocabulary.
        repeats: periods that the model has beyond the folded tape.
        last: tokens of a sample up to which it holds.
    """

    tokens: list[Token]
    course: list[int]
    layers: list[tuple[int, int, int]]
    blocks: list[int]
    repeats: int
    last: int

    def unfolded(self) -> list[int]:
        """The course at the model's depth."""
        out: list[int] = []
        done = 0
        for start, end, place in self.layers:
            out += self.course[done:place]
            out += self.blocks[start:end] * self.repeats
            done = place
        return out + self.course[done:]

    def scalable(self, rank: int, optim: str, accumulation: int = 2) -> ScalableTape:
        """The tape of this rank and optimizer, for any batch and length.

        Args:
            accumulation: micro-batches of a step, at least 2.

        Raises:
            KeyError: the optimizer is not among :data:`STATES`.
        """
        return _Unfolding(self, rank, STATES[optim], "8bit" in optim, accumulation - 2).run()


class _Unfolding:
    """Writes a tape from tokens."""

    def __init__(self, folded: Folded, rank: int, states: States, shares: bool, waiting: int) -> None:
        self.folded, self.rank, self.states, self.waiting = folded, rank, states, waiting
        self.shared = [SHARED_8BIT] * 2 if shares else []
        self.tape = Tape()
        self.forms: list[int] = []
        self.factors: list[int] = []
        self.kernel_forms: list[tuple[tuple[int, int], ...]] = []

    def alloc(self, category: str, stream: int, form: int, factor: int) -> int:
        self.forms.append(form)
        self.factors.append(factor)
        return self.tape.alloc(0, category, stream)

    def run(self) -> ScalableTape:
        folded, tape, rank, repeats = self.folded, self.tape, self.rank, self.folded.repeats
        course = folded.unfolded()
        counts = [folded.tokens[each][1] * rank for each in course if folded.tokens[each][0] == "state"]
        clip = 4 * len(counts) * max((-(-count // CHUNK) for count in counts), default=0)
        places: list[int | None] = []  # a storage's place on the tape, by its number in the tokens
        went: dict[int, int] = {}
        begun = [0]  # the number of the first storage of each phase
        waiting: list[list[int]] = []
        first_batch = 0
        events, alloc = tape.events, self.alloc
        for each in course:
            token = folded.tokens[each]
            what = token[0]
            if what == "near" or what == "far":
                if what == "near":
                    number = len(places) - token[1] - token[2] * repeats
                else:
                    last = went.get(token[1], begun[token[1]])
                    number = went[token[1]] = last + token[2] + token[3] * repeats
                place = places[number]
                assert place is not None
                events.append(place << 2 | FREE)
            elif what == "alloc":
                _, category, stream, workspace, form, power, factor, slope = token
                if workspace:
                    tape.workspaces.append(len(tape.sizes))
                size = (factor + slope * repeats) * (rank if power else 1)
                places.append(alloc(category, stream, form, size))
            elif what == "open":
                self.kernel_forms.append(
                    tuple((form, factor * (rank if power else 1)) for form, power, factor in token[2])
                )
                events.append(len(tape.kernels) << 2 | OPEN)
                tape.kernels.append(Kernel(token[1], ()))
            elif what == "close":
                events.append((len(tape.kernels) - 1) << 2 | CLOSE)
            elif what == "state":
                self.keep(token[1] * rank, token[2])
                places += [None, None]  # as it was counted: a copy, and a byte for each element
            elif what == "clip":
                places.append(alloc("activations", 0, 0, clip))
            elif what == "phase":
                if token[1] == "forward" and not waiting:
                    waiting = self.wait(first_batch)
                elif token[1] == "end":
                    events += [place << 2 | FREE for batch in reversed(waiting) for place in batch]
                tape.phase(token[1])
                begun.append(len(places))
            elif what == "start":
                tape.step_start = len(events)
                first_batch = len(tape.sizes)
            else:
                tape.empty_cache()
        return ScalableTape(tape, self.forms, self.factors, self.kernel_forms)

    def wait(self, first_batch: int) -> list[list[int]]:
        """Batches like the two that were made from this place on, which wait on the device for their turn.

        Source: ``transformers/trainer.py`` (``get_batch_samples``).
        """
        forms, factors = self.forms[first_batch:], self.factors[first_batch:]
        half = len(forms) // 2
        like = [(self.tape.categories[first_batch + place], forms[place], factors[place]) for place in range(half)]
        return [[self.alloc(category, 0, form, factor) for category, form, factor in like]
                for _ in range(self.waiting)]  # fmt: skip

    def keep(self, count: int, itemsize: int) -> None:
        """What the optimizer keeps of one tensor; 8-bit states make their shared tables first."""
        states = self.states(count, itemsize)
        if count >= MIN_8BIT:
            states, self.shared = self.shared + states, []
        for size in states:
            self.alloc("optimizer", 0, 0, size)

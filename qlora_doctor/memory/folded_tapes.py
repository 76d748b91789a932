"""The folded tapes of one setup, those that come with the package or those that an earlier question left: the tape of
any batch, length, rank and card of a kind that they were made for, without torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, cast

from .families import SMALL_MEMORY_HEAD
from .folded import STATES, Folded
from .moments import most_in_use
from .scaling import ALIGNED

if TYPE_CHECKING:
    from .kept import Outline
    from .machine import Machine
    from .scaling import ScalableTape
    from .tape import Tape

FEW = 1, 3
"""Periods of layers, beyond the folded ones, of the two stacks that tell roughly what is in use."""
RANKS = (2, 256)
"""Ranks for which the tapes hold."""
ALIGNED_ONLY = " aligned"
"""Ends the name of tapes that hold for lengths of a multiple of :data:`.scaling.ALIGNED` alone."""


def takes(rank: object, optim: object) -> bool:
    """Whether folded tapes tell of an adapter of this rank, trained by this optimizer."""
    return isinstance(rank, int) and RANKS[0] <= rank <= RANKS[1] and optim in STATES


@dataclass(frozen=True)
class FoldedTapes:
    """The tapes of one setup.

    Attributes:
        pieces: the tapes of a name (:func:`tape_key`), those of shorter lengths first; none where there are none.
        accumulation: micro-batches of a step.
        shipped: whether they come with the package.
    """

    outline: Outline
    pieces: Callable[[str], Sequence[Folded]]
    rank: int
    optim: str
    precision: str
    accumulation: int
    shipped: bool = False

    def scalable(self, machine: Machine, batch: int, sequence: int) -> ScalableTape | None:
        """The tape for a batch and a length, not yet of that size; None where none is there."""
        return self._scalable(machine, batch, sequence, None)

    def tape(self, machine: Machine, batch: int, sequence: int) -> Tape | None:
        """The tape of this batch and length; None where none is there."""
        found = self._scalable(machine, batch, sequence, None)
        return None if found is None else found.at(batch, sequence)

    def reach(self, machine: Machine, alone: bool) -> int | None:
        """Tokens of a sample up to which there are tapes for a batch of 1, or of more; None where there are none."""
        return max((piece.last for piece in self._pieces(machine, alone, ALIGNED)), default=None)

    def most_in_use(self, machine: Machine, batch: int, sequence: int) -> int | None:
        """As :func:`.moments.most_in_use`, or a little less: a line through two stacks of few layers.

        What is in use at a place of a step grows in a line with the layers, so the highest of all places grows at least
        as fast as between any two smaller depths.
        """

        def at(added: int | None) -> int | None:
            found = self._scalable(machine, batch, sequence, added)
            return None if found is None else most_in_use(found.at(batch, sequence), machine)

        piece = self._piece(machine, batch, sequence)
        if piece is None or piece.repeats <= sum(FEW):
            return at(None)
        low, high = (cast(int, at(added)) for added in FEW)
        return low + (high - low) * (piece.repeats - FEW[0]) // (FEW[1] - FEW[0])

    def _pieces(self, machine: Machine, alone: bool, sequence: int) -> Sequence[Folded]:
        key = tape_key(machine.kind(self.outline.head > SMALL_MEMORY_HEAD), self.precision, alone)
        return self.pieces(key) or (() if sequence % ALIGNED else self.pieces(key + ALIGNED_ONLY))

    def _piece(self, machine: Machine, batch: int, sequence: int) -> Folded | None:
        pieces = self._pieces(machine, batch == 1, sequence)
        return next((piece for piece in pieces if sequence <= piece.last), None)

    def _scalable(self, machine: Machine, batch: int, sequence: int, added: int | None) -> ScalableTape | None:
        piece = self._piece(machine, batch, sequence)
        return None if piece is None else _unfolded(piece, self.rank, self.optim, max(2, self.accumulation), added)


@lru_cache(maxsize=32)
def _unfolded(folded: Folded, rank: int, optim: str, accumulation: int, added: int | None) -> ScalableTape:
    """A tape with so many periods of layers beyond the folded ones; None is the model's own depth."""
    return (folded if added is None else replace(folded, repeats=added)).scalable(rank, optim, accumulation)


def tape_key(kind: Any, precision: str, alone: bool) -> str:
    """The name of a tape in its file."""
    flags = "".join(str(int(each)) for each in kind)
    return f"{precision} {flags} {'one' if alone else 'more'}"


def document_of(folded: Folded) -> list[Any]:
    """A folded tape as JSON."""
    return [folded.last, folded.repeats, folded.layers, folded.tokens, folded.course, folded.blocks]


def folded_of(document: list[Any]) -> Folded:
    """A folded tape of its JSON."""
    last, repeats, layers, tokens, course, blocks = document
    return Folded(tokens, course, layers, blocks, repeats, last)

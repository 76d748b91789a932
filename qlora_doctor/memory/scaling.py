"""One tape for all batch sizes and sequence lengths.

What a step allocates does not depend on batch and sequence in its order, only in its sizes, and each size is a constant
times one of a few products: batch, sequence, batch × sequence, batch × sequence², … Two traces whose batches and
sequences have few factors in common tell which product it is for every storage; a third tells whether that holds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from .tape import Kernel, Tape

Form = Callable[[int, int], int]

TILE = 4096
"""Tokens that trl projects onto the vocabulary at a time (``trl/kernels/chunked_logprob.py``, ``TOKEN_CHUNK_SIZE``)."""

FORMS: tuple[Form, ...] = (
    lambda b, s: 1,
    lambda b, s: b * s,
    lambda b, s: s,
    lambda b, s: b,
    lambda b, s: s * s,
    lambda b, s: b * s * s,
    lambda b, s: b * (s - 1),
    lambda b, s: b * (s + 1),
    lambda b, s: s - 1,
    lambda b, s: b * s - 1,
    lambda b, s: b * s + b * s // 10,
    lambda b, s: b * s * (-(-s // 8) * 8),
    lambda b, s: b * s * (-(-s // 16) * 16),
    lambda b, s: s * (-(-s // 16) * 16),
    lambda b, s: b * (-(-s // 128) * 128),
    lambda b, s: b * (-(-s // 32) * 32),
    lambda b, s: min(b * (s - 1), TILE),
)
"""The products that a size can grow with, likelier ones first."""

ALIGNED = 64
"""Lengths are multiples of this: others are padded on the way (a mask's rows to 16), which is another course."""
MANY = 29
"""The larger batch of two traces: a prime, so that no product grows as another does."""


class NotScalable(ValueError):
    """Two traces differ in more than sizes, or a size follows none of :data:`FORMS`."""


@dataclass
class ScalableTape:
    """A tape whose sizes are worked out for any batch and sequence.

    ``forms`` and ``factors`` hold, for each storage, the product its bytes grow with and the constant; the kernels'
    arguments also.
    """

    tape: Tape
    forms: list[int]
    factors: list[int]
    kernel_forms: list[tuple[tuple[int, int], ...]]

    def growth(self) -> tuple[int, int]:
        """How many storages grow linearly, and how many with the square of the sequence."""
        squares = sum(FORMS[form](1, 2000) > 1000 * FORMS[form](1, 2) for form in self.forms)
        constant = sum(FORMS[form](1, 2000) == FORMS[form](7, 4000) for form in self.forms)
        return len(self.forms) - squares - constant, squares

    def at(self, batch: int, sequence: int) -> Tape:
        """The tape of this batch and sequence."""
        products = [form(batch, sequence) for form in FORMS]
        sizes = [products[form] * factor for form, factor in zip(self.forms, self.factors, strict=True)]
        kernels = [
            Kernel(kernel.rule, tuple(products[form] * factor for form, factor in forms))
            for kernel, forms in zip(self.tape.kernels, self.kernel_forms, strict=True)
        ]
        return replace(self.tape, sizes=sizes, kernels=kernels, owners={})  # their shapes are those of the traces


def same_course(one: Tape, other: Tape) -> bool:
    """Whether two tapes differ in sizes only."""
    return (
        one.events == other.events
        and [kernel.rule for kernel in one.kernels] == [kernel.rule for kernel in other.kernels]
        and one.workspaces == other.workspaces
    )


def scalable(one: Tape, other: Tape, first: tuple[int, int], second: tuple[int, int]) -> ScalableTape:
    """Both traces' common form; ``first`` and ``second`` are their batches and sequences.

    Raises:
        NotScalable: they differ in more than sizes, or a size follows none of the known products.
    """
    if not same_course(one, other):
        raise NotScalable("a step takes another course with another batch or sequence")
    products = [(form(*first), form(*second)) for form in FORMS]
    known: dict[tuple[int, int], tuple[int, int]] = {}

    def solve(x: int, y: int) -> tuple[int, int]:
        if (x, y) not in known:
            known[x, y] = _solve(x, y, products)
        return known[x, y]

    solved = [solve(x, y) for x, y in zip(one.sizes, other.sizes, strict=True)]
    kernel_forms = [
        tuple(solve(x, y) for x, y in zip(k.shape, m.shape, strict=True))
        for k, m in zip(one.kernels, other.kernels, strict=True)
    ]
    return ScalableTape(one, [form for form, _ in solved], [factor for _, factor in solved], kernel_forms)


def _solve(x: int, y: int, products: list[tuple[int, int]]) -> tuple[int, int]:
    for form, (p, q) in enumerate(products):
        if x % p == 0 and x // p * q == y:
            return form, x // p
    raise NotScalable(f"a size goes from {x:,} to {y:,} bytes in no known way")

"""Fold a setup's step as it is asked about: traces of few of its layers tell that of all, in a fraction of the time.

A layer takes the time of a trace whatever its length, so four stacks of few layers cost less than the model in full;
what they tell holds for any batch, length and rank (:mod:`.folding`), and is kept for the next question. It is done
where the model is a stack of layers that repeat themselves in all that is seen of them, and believed where a deeper
stack, of another batch and length, comes out as its own trace. Everything else is traced in full.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import replace
from types import NoneType
from typing import TYPE_CHECKING, Any, cast

from ..setup.changed import with_value
from .families import SMALL_MEMORY_HEAD
from .folded import Folded
from .folded_tapes import ALIGNED_ONLY, FoldedTapes, tape_key
from .folding import COUNTED, Size, agrees, counting, folded
from .kept import Traces
from .predict import traced
from .savings import of_depth
from .scaling import ALIGNED, MANY, NotScalable
from .subject import Subject, subject_of_setup

if TYPE_CHECKING:
    from ..setup.setup import Setup
    from . import Progress
    from .machine import Machine
    from .tape import Tape

NEAR, FAR = 704, 16_384
"""Tokens of the two traces that tell what grows with the length: 704 is in no relation to a model's own sizes."""
ODD = 333
"""Tokens, beyond where a piece begins, of the trace that the others are held against: padded on the way."""
RANKS = 13, 61
"""Ranks of the two traces."""


class FewLayers:
    """Folds the step of one setup for the kinds of machines that are asked about.

    Args:
        subject: the setup's own, of which no trace was made yet.
        traces: take what is found.
    """

    def __init__(self, setup: Setup, architecture: Any, subject: Subject, traces: Traces, told: Progress) -> None:
        self._setup, self._architecture, self._traces, self._told = setup, architecture, traces, told
        self._step, self._outline = subject.step, subject.outline
        plain = subject.program is None and not _builds_its_own(subject)
        self._layers, self._rest = _signatures(subject.model if plain else None)
        self._period = _period(self._layers)
        self._count = 0

    def fold(self, machine: Machine, alone: bool, sequence: int) -> int:
        """Fold batches of 1, or of more, for machines of this kind up to a length, where it can be done.

        Returns:
            How many traces it took; 0 where it was done before, or was tried in vain.
        """
        folded = self._traces.folded
        if folded is None or not self._period:
            return 0
        key = tape_key(machine.kind(self._outline.head > SMALL_MEMORY_HEAD), folded.precision, alone)
        known = self._traces.pieces
        self._count = 0
        try:
            for begin, end in itertools.pairwise(self._bounds()):
                name = next((each for each in (key, key + ALIGNED_ONLY) if each in known), key)
                there = known.get(name)
                if there is None or (there and there[-1].last < begin <= sequence):
                    pieces = known.setdefault(name, [])  # what fails is not tried again
                    piece, aligned_only = self._piece(machine, alone, begin, end)
                    pieces.append(piece)
                    if aligned_only and name == key:
                        known[key + ALIGNED_ONLY] = known.pop(key)
        except Exception:  # what the libraries raise for few layers: a trace in full tells it, or says why it cannot
            pass
        return self._count

    def _bounds(self) -> list[int]:
        """Lengths between which a step has one course: a window needs a mask from its own length on.

        Raises:
            NotScalable: there are few lengths of one course.
        """
        text = self._architecture.config.get_text_config().to_dict()
        limit = self._outline.limit
        far = FAR if limit is None else min(FAR, limit // ALIGNED * ALIGNED)
        windows = {
            value
            for name, value in text.items()
            if ("window" in name or "chunk" in name) and type(value) is int and 0 < value < far
        }
        bounds = [0, *sorted(windows), far]
        if any(end - begin < NEAR + 2 * ALIGNED for begin, end in itertools.pairwise(bounds)):
            raise NotScalable("there are few lengths of one course")
        return bounds

    def _piece(self, machine: Machine, alone: bool, begin: int, end: int) -> tuple[Folded, bool]:
        """The folded tape of the lengths from ``begin`` on, and whether it holds for aligned ones alone.

        Raises:
            NotScalable: the tapes have no common form.
        """
        depth, period = len(self._layers), self._period
        few = 2 * period + depth % period
        start = -(-begin // ALIGNED) * ALIGNED
        last = end if end == self._bounds()[-1] else end - 1
        one, many, other = (1, 1, 1) if alone else (3, MANY, 5)
        sizes = (
            Size(few, one, start + NEAR, RANKS[0]),
            Size(few, many, last // ALIGNED * ALIGNED, RANKS[1]),
            Size(few + period, one, start + NEAR, RANKS[0]),
        )
        rank = cast(FoldedTapes, self._traces.folded).rank
        self._told(f"tracing a step of {few} and more of {depth} layers")

        def trace(size: Size) -> Tape:
            return self._trace(machine, size)

        def holds(sequence: int) -> bool:
            return agrees(piece, 2, Size(few + 2 * period, other, sequence, rank), trace)

        with counting():
            piece = folded(trace, sizes, depth, last)
            aligned_only = not holds(start + ODD)
            if (aligned_only or begin) and not holds(start or 2 * NEAR):
                raise NotScalable("a deeper stack of layers does what few do not tell")
        return piece, aligned_only

    def _trace(self, machine: Machine, size: Size) -> Tape:
        self._count += 1
        changed = with_value(self._setup, "lora.r", size.rank)
        micro = min(2, self._step.gradient_accumulation_steps)
        subject = subject_of_setup(changed, architecture=of_depth(self._architecture, size.depth), offline=True)
        if size.rank == self._setup.lora.r and _signatures(subject.model) != (self._layers[: size.depth], self._rest):
            raise NotScalable("few layers are built in another way than all")
        step = replace(subject.step, batch=size.batch, sequence=size.sequence, optim=COUNTED)
        return traced(replace(subject, step=replace(step, gradient_accumulation_steps=micro)), machine)


def _builds_its_own(subject: Subject) -> bool:
    """Whether a batch is not tokens alone, or the run is divided."""
    step = subject.step
    return step.pictures is not None or step.engine is not None or step.data_parallel


def _period(layers: list[Any]) -> int:
    """Layers after which they repeat themselves; 0 where they do not, or all of them are traced as fast."""
    depth = len(layers)
    for period in range(1, depth // 4):
        if all(layer == layers[place % period] for place, layer in enumerate(layers)):
            few = 2 * period + depth % period
            return period if 4 * few + 3 * period <= depth else 0
    return 0


_PLACES = {"layer_idx", "layer_id", "layer_index", "training"}
"""Attributes in which layers differ that do the same."""


def _signatures(model: Any) -> tuple[list[Any], Any]:
    """All that is seen of each layer but its place, and of what is no layer; none where there is no one stack."""
    import torch

    if model is None:
        return [], ()
    depth = getattr(model.config.get_text_config(), "num_hidden_layers", None)
    named = list(model.named_modules())
    stacks = [(name, each) for name, each in named if isinstance(each, torch.nn.ModuleList) and len(each) == depth]
    if len(stacks) != 1:
        return [], ()
    ((stack, layers),) = stacks
    rest = [(name, module) for name, module in named if not name.startswith(f"{stack}.")]
    return [_signature(layer.named_modules()) for layer in layers], _signature(rest)


def _signature(modules: Iterable[tuple[str, Any]]) -> list[tuple[Any, ...]]:
    found = []
    for name, module in modules:
        plain = {key: value for key, value in vars(module).items() if type(value) in _PLAIN and key not in _PLACES}
        tensors = itertools.chain(module._parameters.items(), module._buffers.items())
        shapes = [(key, each.shape, each.dtype, each.requires_grad) for key, each in tensors if each is not None]
        found.append((name, type(module), plain, shapes))
    return found


_PLAIN = {bool, int, float, str, NoneType}

"""The one figure of a run's memory that every output tells: what the allocator reserves at its most."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from . import _words as words

if TYPE_CHECKING:
    from ..facts import MemoryFacts
    from ..facts.memory import MemoryPicture


@dataclass(frozen=True)
class Needed:
    """What a run needs of a card; bytes.

    Attributes:
        size: peak reserved, over load, steps and evaluation; where only a lower bound is known, that.
        source: where it comes from; ``at least`` is what is certain where nothing is predicted.
        in_tensors: peak allocated: what of it tensors hold. None where it is not known.
        phase: the part of the run that decides, where that is not the step.
        batch, sequence: samples and tokens a sample of the training batch that it is for.
    """

    size: int
    source: Literal["measured", "predicted", "at least"]
    in_tensors: int | None = None
    phase: str | None = None
    batch: int | None = None
    sequence: int | None = None

    def told(self, card_bytes: int | None) -> str:
        """In words, with what the card offers."""
        card = f" of {words.size(card_bytes)}" if card_bytes else ""
        if self.source == "at least":
            return f"peak at least {words.size(self.size)}{card}"
        phase = f" in {self.phase}" if self.phase else ""
        covers = (
            f" for {self.batch} × {self.sequence:,} tokens" if self.batch and self.sequence and not self.phase else ""
        )
        tensors = f" ({words.size(self.in_tensors)} of it in tensors)" if self.in_tensors is not None else ""
        return f"peak {words.size(self.size)}{card} {self.source}{phase}{covers}{tensors}"


def needed(memory: MemoryFacts | None) -> Needed | None:
    """The figure: measured where a step was, unless a part of the run that was not measured is predicted to need more;
    else predicted, else a lower bound; None where nothing is known."""
    if memory is None:
        return None
    measured, predicted = _of(memory.measured, "measured"), _of(memory.predicted, "predicted", memory.peak_phase)
    if measured is not None and predicted is not None and predicted.phase == "evaluation":
        return max(measured, predicted, key=lambda figure: figure.size)
    if measured is not None or predicted is not None:
        return measured or predicted
    return None if memory.certain_bytes is None else Needed(memory.certain_bytes, "at least")


def _of(
    picture: MemoryPicture | None, source: Literal["measured", "predicted"], phase: str | None = None
) -> Needed | None:
    if picture is None or picture.peak_allocated_bytes is None:
        return None
    phase = phase if phase in ("load", "evaluation", "generation", "save") else None
    if picture.peak_reserved_bytes is None:
        return Needed(picture.peak_allocated_bytes, source, None, phase, picture.batch, picture.sequence)
    allocated = picture.peak_allocated_bytes
    return Needed(picture.peak_reserved_bytes, source, allocated, phase, picture.batch, picture.sequence)

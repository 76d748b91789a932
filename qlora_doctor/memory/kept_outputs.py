"""What an evaluation with compute_metrics keeps on the card: the outputs of every batch, joined anew after each.

``Trainer.evaluation_loop`` adds a batch's logits to what it has by concatenation (``EvalLoopContainer``), so for a
moment both and their sum are there; ``eval_accumulation_steps`` moves them to the host from time to time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .tape import ALLOC, FREE, Tape

if TYPE_CHECKING:
    from ..setup.setup import Setup


@dataclass(frozen=True)
class KeptOutputs:
    """How much of an evaluation stays on the card.

    Attributes:
        rows: of the evaluation; None where they are not counted.
        accumulated: batches after which all goes to the host (``eval_accumulation_steps``); None for never.
    """

    rows: int | None
    accumulated: int | None

    def batches(self, batch: int) -> int:
        """Batches that are on the card at once."""
        known = [self.accumulated] if self.accumulated else []
        if self.rows:
            known.append(-(-self.rows // batch))
        return max(1, min(known, default=1))


def kept_outputs_of(setup: Setup) -> KeptOutputs | None:
    """What the evaluations of a setup keep; None where that is their loss alone."""
    from ..core.rows import count_rows
    from ..setup.paths import resolve

    training = setup.training
    if not training.compute_metrics or training.extra.get("predict_with_generate"):
        return None
    file = resolve(setup, setup.data.eval)
    accumulated = training.extra.get("eval_accumulation_steps")
    rows = None if file is None else count_rows(file)
    return KeptOutputs(rows, accumulated if isinstance(accumulated, int) and accumulated > 0 else None)


def keep(tape: Tape, begin: int, kept: list[int], batches: int, *, to_host: bool) -> None:
    """Write the batches that follow the one that a tape has from ``begin`` on, and what is joined of all of them.

    Args:
        kept: the storages of its outputs.
        batches: how many there are in all.
        to_host: the cache is emptied afterwards, as where results go to the host in between.
    """
    batch = tape.events[begin:]
    own = {event >> 2 for event in batch if event & 3 == ALLOC}
    left = _alive(batch) - set(kept)
    _free(tape, sorted(left))
    joined, last = list(kept), list(kept)
    for count in range(2, batches + 1):
        renamed: dict[int, int] = {}
        for event in batch:
            kind, index = event & 3, event >> 2
            if kind == ALLOC:
                renamed[index] = tape.alloc(tape.sizes[index], tape.categories[index], tape.streams.get(index, 0))
            elif kind == FREE:
                if index in own:
                    tape.free(renamed[index])
            else:
                tape.events.append(event)
        _free(tape, [renamed[index] for index in sorted(left)])
        if last != joined:  # ``logits`` named the batch before until now
            _free(tape, last)
        last = [renamed[index] for index in kept]
        whole = []
        for old, index in zip(joined, kept, strict=True):
            whole.append(tape.alloc(tape.sizes[index] * count, tape.categories[index]))
            tape.free(old)
        joined = whole
    _free(tape, joined if last == joined else [*joined, *last])
    if to_host:
        tape.empty_cache()


def _alive(events: list[int]) -> set[int]:
    alive: set[int] = set()
    for event in events:
        if event & 3 == ALLOC:
            alive.add(event >> 2)
        elif event & 3 == FREE:
            alive.discard(event >> 2)
    return alive


def _free(tape: Tape, indices: list[int]) -> None:
    for index in indices:
        tape.free(index)

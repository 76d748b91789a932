"""What a loss of one's own teaches where no labels reach the model, read from the gradient that comes to the logits.

The gradient of a cross entropy at a place is ``w (p - y)``: the model's probabilities without the label's one. Its only
entry of the other sign is the label's, and ``w`` is what the place counts in the loss.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from ..core.labels import IGNORED

POSITIONS, AT_ONCE = 256, 32
"""Places that are looked at closely, and how many at a time: each is a row of the vocabulary."""
_MOST = 0.9
"""Share of the places that have to be as a cross entropy makes them."""
_MASKED = 0.7
"""Share of the places with one token from which on they are a mask's: BERT's recipe masks 80% of them."""


@dataclass(frozen=True)
class Learnt:
    """What one backward teaches.

    Attributes:
        ids: of the batch, on the host.
        labels: shape (rows, length), on the host: the token that each place is held against, at the place that it is
            the token of where the loss moves it by one, as labels are given to a model; IGNORED where none counts.
        unmoved: each place is held against its own token.
        mean: mean loss of a label, against the next token; ``own`` that against the labels as they are.
        total: what the places have in the loss together, which is the loss where it is their cross entropy.
        count: labels that count.
        whole: nothing was left out of the means.
    """

    ids: torch.Tensor
    labels: torch.Tensor
    unmoved: bool
    mean: float
    own: float
    total: float
    count: int
    whole: bool


def learnt(logits: torch.Tensor, gradient: torch.Tensor, ids: torch.Tensor) -> Learnt | None:
    """What a backward teaches; None where its gradient is none of a cross entropy of one sign.

    Args:
        logits: of the forward, shape (rows, length, vocabulary).
        gradient: of the loss by them.
        ids: that the forward was given, shape (rows, length).
    """
    least, at_least = gradient.min(-1)
    most, at_most = gradient.max(-1)
    below = -least >= most
    known = torch.stack([torch.where(below, at_least, at_most), below.long(), ((least != 0) | (most != 0)).long()])
    labels, negative, counted = known.cpu()
    rows, columns = torch.nonzero(counted, as_tuple=True)
    count = len(rows)
    share = float(negative[rows, columns].float().mean()) if count else 0.5
    if not count or 1 - _MOST < share < _MOST:
        return None
    ids = ids.cpu()
    there = ids[rows, columns]
    if count > 3 and int(there.unique(return_counts=True)[1].max()) > _MASKED * count:
        return None  # places of a mask, which stand for other tokens: no causal loss
    unmoved = _is_unmoved(labels, ids, counted.bool())
    step = -(-count // POSITIONS)
    rows, columns = rows[::step], columns[::step]
    following = ids[rows, (columns + 1).clamp(max=ids.shape[1] - 1)]
    sums, plain = torch.zeros(3, dtype=torch.float64), 0
    for row, column, label, after in zip(*(each.split(AT_ONCE) for each in (rows, columns, labels[rows, columns],
                                                                              following)), strict=True):  # fmt: skip
        place = row.to(logits.device), column.to(logits.device)
        came = gradient[place].float() * (1 if share > 0.5 else -1)
        log = logits[place].float().log_softmax(-1)
        here, then = label[:, None].to(log.device), after[:, None].to(log.device)
        own = log.gather(1, here)[:, 0].cpu()
        weight = came.gather(1, here)[:, 0].cpu() / (own.exp() - 1).clamp(max=-1e-6)
        plain += int(((came < 0).sum(-1) == 1).sum())
        sums += torch.stack([-own.sum(), -log.gather(1, then).cpu().sum(), (-own * weight).sum()]).double()
    if plain < _MOST * len(rows):
        return None
    own_loss, next_loss, total = (sums / len(rows)).tolist()
    if not unmoved:
        labels = labels.roll(1, 1)
        counted = counted.roll(1, 1)
        counted[:, 0] = 0
    return Learnt(
        ids,
        labels.masked_fill(counted == 0, IGNORED),
        unmoved,
        next_loss if unmoved else own_loss,
        own_loss,
        total * count * (1 if share > 0.5 else -1),
        count,
        step == 1,
    )


def _is_unmoved(labels: torch.Tensor, ids: torch.Tensor, counted: torch.Tensor) -> bool:
    """Whether places are held against their own tokens; repeated tokens are equal at both places."""
    counted = counted[:, :-1]
    own, after = (labels[:, :-1] == ids[:, :-1])[counted], (labels[:, :-1] == ids[:, 1:])[counted]
    return bool(len(own)) and float(own.float().mean()) >= _MOST and float(after.float().mean()) < 0.5


class Unlabelled:
    """Waits for the gradients of logits that were made without labels."""

    def __init__(self, guard: Any) -> None:
        self._guard = guard
        self._waiting: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self._number = 0
        self.found: list[Learnt] = []

    def wait(self, logits: Any, ids: Any) -> None:
        """Look at the gradient of these logits when it comes.

        They are held until then: the loss of one's own holds them as well.
        """
        fits = isinstance(logits, torch.Tensor) and isinstance(ids, torch.Tensor) and logits.dim() == 3
        if not fits or logits.shape[:2] != ids.shape or not logits.requires_grad or hasattr(logits, "_local_tensor"):
            return
        self._number += 1
        number, look = self._number, self._guard(self._came)
        self._waiting = {number: (logits.detach(), ids)}
        logits.register_hook(lambda gradient: look(number, gradient))

    def _came(self, number: int, gradient: torch.Tensor) -> None:
        held = self._waiting.pop(number, None)
        if held is None:
            return
        with torch.no_grad():
            found = learnt(held[0], gradient, held[1])
        if found is not None:
            self.found.append(found)

    def drop(self) -> None:
        """Hold nothing any more."""
        self._waiting.clear()
        self.found.clear()

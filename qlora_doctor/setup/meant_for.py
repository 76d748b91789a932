"""A setup for a card that is named beside it."""

from __future__ import annotations

import re

from ..core.errors import UsageError
from ..tables.cards import UnknownCard, find_card, parse_memory
from .changed import with_value
from .setup import Setup


def meant_for(setup: Setup, card: str) -> Setup:
    """The setup with this card in place of its own: a name, a size such as ``24GiB``, or several as in ``2xrtx-4090``.

    Raises:
        UsageError: it is none of these.
    """
    count, card = counted(card)
    if count is not None:
        setup = with_value(setup, "hardware.count", count)
    try:
        find_card(card)
    except UnknownCard as error:
        try:
            parse_memory(card)
        except ValueError:
            raise UsageError(str(error), remedy="--gpu 24GiB stands for any card, --gpu 2xrtx-4090 for two.") from error
        return with_value(with_value(setup, "hardware.gpu", None), "hardware.memory", card)
    return with_value(with_value(setup, "hardware.memory", None), "hardware.gpu", card)


def counted(card: str) -> tuple[int | None, str]:
    """``2xrtx-4090`` → (2, "rtx-4090"); a name alone has no count."""
    several = re.fullmatch(r"(\d+)\s*[x×]\s*(\D.*|\d+ ?[GM]i?B)", card.strip())
    return (int(several[1]), several[2]) if several else (None, card)

"""A setup for a card that is named beside it."""

from __future__ import annotations

from ..core.errors import UsageError
from ..tables.cards import UnknownCard, find_card, parse_memory
from .changed import with_value
from .setup import Setup


def meant_for(setup: Setup, card: str) -> Setup:
    """The setup with this card, by its name or by a size such as ``24GiB``, in place of its own.

    Raises:
        UsageError: it is neither.
    """
    try:
        find_card(card)
    except UnknownCard as error:
        try:
            parse_memory(card)
        except ValueError:
            raise UsageError(str(error), remedy="--gpu 24GiB stands for any card.") from error
        return with_value(with_value(setup, "hardware.gpu", None), "hardware.memory", card)
    return with_value(with_value(setup, "hardware.memory", None), "hardware.gpu", card)

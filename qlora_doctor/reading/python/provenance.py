"""What a value rests on: the default of an argument, the kind of the card."""

from __future__ import annotations

from .values import Known, Listing, Mapping, Name, Value

INNER = "set in "
"""How the words for a default begin that nothing outside the script replaces."""


def is_outer(given: str | None) -> bool:
    """True where a value is a default that a command line may replace."""
    return given is not None and not given.startswith(INNER)


def marked(value: Value, whose: str | None, by_card: bool) -> Value:
    """The value, resting on something that is a default, or chosen by the card, as well."""
    if not (by_card or whose) or not isinstance(value, Known | Name):
        return value
    whose, by_card = value.given or whose, value.by_card or by_card
    if isinstance(value, Known):
        return Known(value.node, whose, by_card, data=value.data)
    return Name(value.node, whose, by_card, dotted=value.dotted)


def resting_on(value: Value, *others: Value) -> Value:
    """The value, which others led to."""
    outer = [other.given for other in others if is_outer(other.given)]
    return marked(value, outer[0] if outer else None, any(other.by_card for other in others))


def given(value: Value, whose: str) -> Value:
    """The value, said to be a default that a caller or a command line may replace."""
    if isinstance(value, Known):
        return Known(value.node, whose, value.by_card, data=value.data)
    if isinstance(value, Name):
        return Name(value.node, whose, value.by_card, dotted=value.dotted)
    if isinstance(value, Listing):
        return Listing(value.node, whose, items=list(value.items), exact=value.exact)
    if isinstance(value, Mapping):
        return Mapping(value.node, whose, items=dict(value.items), exact=value.exact)
    return value

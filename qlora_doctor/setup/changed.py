"""A setup with one value changed, as if its file had said so."""

from __future__ import annotations

from typing import Any

from ..core.errors import UsageError
from .setup import SECTIONS, Origin, Setup

_BARE = ("lora", "training", "quantization", "model", "hardware")
"""Sections that a name without one is looked for in, in this order."""


def with_value(setup: Setup, path: str, value: Any) -> Setup:
    """A copy in which ``path`` (``lora.r``, or ``r`` where the name is in one section) has this value.

    Raises:
        UsageError: there is no such key, or it does not take the value.
    """
    section, name = _place(path)
    model = getattr(setup, section)
    stored = model.model_dump()
    if name in SECTIONS[section].model_fields:
        stored[name] = value
    else:
        stored["extra"] = {**stored["extra"], name: value}
    try:
        changed = SECTIONS[section].model_validate(stored)
    except ValueError:
        raise UsageError(f"{section}.{name} does not take {value!r}.") from None
    origins = {**setup.origins, f"{section}.{name}": Origin(source="explicit")}
    return setup.model_copy(update={section: changed, "origins": origins})


def _place(path: str) -> tuple[str, str]:
    """Section and name.

    Raises:
        UsageError: there is no such key.
    """
    from ..tables import known_arguments
    from ..tables.keys import closest_of

    passed_on = {
        "model": known_arguments.MODEL,
        "quantization": known_arguments.QUANTIZATION,
        "lora": known_arguments.LORA,
        "training": known_arguments.TRAINING,
    }

    def names(section: str) -> frozenset[str]:
        return frozenset(SECTIONS[section].model_fields) - {"extra"} | frozenset(passed_on.get(section, ()))

    section, dot, name = path.rpartition(".")
    sections = (section,) if dot else _BARE
    for each in sections:
        if each in SECTIONS and name in names(each):
            return each, name
    every = frozenset(key for each in sections if each in SECTIONS for key in names(each))
    closest = closest_of(name, every) if every else None
    raise UsageError(f"There is no key {path!r}.", remedy=f"Did you mean {closest}?" if closest else "--set lora.r=32")

"""What a file says beyond Setup: arguments passed on under their libraries' names, and keys that nobody translates."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from ..core.pointers import join_pointer
from ..reading.dialects import dialect_named
from ..reading.document import Document
from ..setup.setup import Setup
from ..tables import known_arguments
from .express import values_of


@dataclass
class Extras:
    """Arguments that Setup does not model, under their libraries' names."""

    training: dict[str, Any] = field(default_factory=dict)
    others: dict[str, dict[str, Any]] = field(default_factory=dict)


def strangers(setup: Setup) -> dict[str, Any]:
    """Keys of the source file that set nothing in Setup, and what they say."""
    document: Document | None = setup._document
    if document is None or document.format == "text" or not isinstance(document.data, dict):
        return {}
    if setup.dialect == "native":
        return {key.key: None for key in setup.unknown_keys}
    values = values_of(setup)
    # Keys that are only spoken of (a remark, a condition on the machine) have origins as well, and set nothing.
    told = {o.place.pointer or "" for path, o in setup.origins.items() if o.place is not None and path in values}
    for path in values if setup._keys_of is not None else ():
        told |= {join_pointer(own.key.split(".")) for own in (setup._keys_of(path) if setup._keys_of else ())}
    skipped: frozenset[str] = getattr(dialect_named(setup.dialect), "IMPLIED_BY_FORM", frozenset())
    unread = {key.key for key in (*setup.unknown_keys, *setup.removed_keys)}
    found = {}
    for pointer, value in _leaves(document.data):
        key = pointer.strip("/").replace("/", ".")
        said = any(pointer == each or pointer.startswith(each + "/") for each in told if each)
        if not (key in unread or not said) or key.split(".")[0] in skipped or value in (None, False, "", [], {}):
            continue
        found[key] = value
    return found


def _leaves(data: Any, above: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in data.items():
        pointer = above + join_pointer([str(key)])
        if isinstance(value, dict) and value:
            yield from _leaves(value, pointer)
        else:
            yield pointer, value


def extras_of(setup: Setup) -> Extras:
    """What is passed on under a library's own name."""
    training = dict(setup.training.extra)
    if setup.traits.hf_names:
        others_here = strangers(setup)
        training |= {key: value for key, value in others_here.items() if key in known_arguments.TRAINING}
    others = {
        name: dict(getattr(setup, name).extra)
        for name in ("model", "quantization", "lora")
        if getattr(setup, name).extra
    }
    return Extras(training, others)

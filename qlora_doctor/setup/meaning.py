"""What a Setup stands for: what is written, the dialect's default, or the library's where both are silent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .resolved import Resolved
from .setup import SECTIONS, Setup

_NOT_CARRIED = frozenset(
    {
        "model.trust_remote_code",
        "training.trainer",
        "training.method",
        "training.prepare_for_kbit_training",
        "training.eval_strategy",
    }
)
"""Silent paths that a conversion leaves silent: every target does the same, or decides by what it is."""


@dataclass(frozen=True)
class Meaning:
    """What one path stands for.

    Attributes:
        value: as Setup has it.
        explicit: the file says it.
        key: where it is said, dotted as the file has it; else the canonical path.
    """

    value: Any
    explicit: bool
    key: str


def meanings(setup: Setup) -> dict[str, Meaning]:
    """Every canonical path whose value is known; what depends on a version that is not known is left out."""
    found = {}
    for section, model in SECTIONS.items():
        for field in model.model_fields:
            path = f"{section}.{field}"
            if field == "extra" or setup.is_unknown(path):
                continue
            value = getattr(getattr(setup, section), field)
            value = standing(setup, path) if value is None else value
            if value is not None:
                origin = setup.origins.get(path)
                found[path] = Meaning(value, origin is not None and origin.source == "explicit", key_of(setup, path))
    return found


def key_of(setup: Setup, path: str) -> str:
    """How the user's file calls a path; its canonical name where the file does not set it."""
    origin = setup.origins.get(path)
    pointer = origin.place.pointer if origin is not None and origin.place is not None else None
    return pointer.strip("/").replace("/", ".") if pointer else path


def unknowns(setup: Setup) -> dict[str, list[str]]:
    """Why a value cannot be known → the paths of which that is so."""
    found: dict[str, list[str]] = {}
    for path, origin in setup.origins.items():
        if origin.source == "unknown":
            found.setdefault(origin.note or "It cannot be known from this file.", []).append(path)
    return found


def standing(setup: Setup, path: str) -> Any:
    """The library's default for a silent path; None where there is none, or it depends on the version."""
    resolved = Resolved(setup)
    of_four_bit = path.startswith("quantization.bnb_4bit_")
    if path in _NOT_CARRIED or (of_four_bit and not resolved["quantization.load_in_4bit"]):
        return None
    return resolved[path] if resolved.written(path) is None else None

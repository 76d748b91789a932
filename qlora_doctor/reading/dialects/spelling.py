"""How a canonical value may be written: the inverse of ``values``, as candidates that are held against the reader."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from .values import Unreadable

_DTYPES = {
    "bfloat16": ("bfloat16", "bf16", "bf16-true"),
    "float16": ("float16", "fp16", "16-true"),
    "float32": ("float32", "fp32", "32-true"),
}
_WORDS: dict[tuple[str, bool], tuple[Any, ...]] = {
    ("quantization.load_in_4bit", True): (4, "int4", "4bit", "qlora"),
    ("quantization.load_in_8bit", True): (8, "int8", "8bit"),
    ("training.bf16", True): ("bf16", "bfloat16"),
    ("training.fp16", True): ("fp16", "float16"),
}
"""What trainers that have one key for several switches write in it."""


def spellings(path: str, value: Any, convert: Callable[[Any], Any] | None = None, written: Any = None) -> Iterator[Any]:
    """Ways to write a value, the likeliest first; ``None`` stands for leaving the key out.

    Args:
        path: the canonical path.
        value: what Setup is to have there.
        convert: the key's own conversion; a spelling that it does not bring to the value is left out.
        written: what stands there now, whose manner is kept where it can be.
    """
    candidates = list(_candidates(path, value))
    if value != "all-linear":  # a word for the whole, which PEFT knows as a text and not inside a list
        candidates.sort(key=lambda candidate: not _alike(candidate, written))
    told: list[Any] = []
    for candidate in candidates:
        fits = candidate is None or convert is None or _converts(convert, candidate, value)
        if fits and not any(type(other) is type(candidate) and other == candidate for other in told):
            told.append(candidate)
            yield candidate


def _candidates(path: str, value: Any) -> Iterator[Any]:
    if isinstance(value, bool):
        yield value
        yield not value  # a switch that turns it off
        yield from _WORDS.get((path, value), ())
        if not value:
            yield None
        return
    if isinstance(value, str) and value in _DTYPES:
        for name in _DTYPES[value]:
            yield name
            yield f"torch.{name}"
        return
    yield value
    if isinstance(value, list) and all(isinstance(name, str) and "," not in name for name in value):
        yield ",".join(value)
        yield ", ".join(value)
    elif value == "all-linear":
        yield "all"
        yield ["all-linear"]
    elif isinstance(value, dict) and set(value) == {"use_reentrant"}:
        yield value["use_reentrant"]
    elif isinstance(value, float) and value.is_integer():
        yield int(value)


def _alike(candidate: Any, written: Any) -> bool:
    """True where a candidate is written in the manner of what stands there: its type, and a dtype's kind of name."""
    if written is None or type(candidate) is not type(written):
        return False
    if not isinstance(written, str):
        return True
    if written.startswith("torch.") != candidate.startswith("torch."):
        return False
    if ", " in written or ", " in candidate:
        return (", " in written) == (", " in candidate)
    plain = written.removeprefix("torch.")
    kinds = [[names[kind] for names in _DTYPES.values()] for kind in range(3)]
    kind = next((kind for kind in kinds if plain in kind), None)
    return kind is None or candidate.removeprefix("torch.") in kind


def _converts(convert: Callable[[Any], Any], candidate: Any, value: Any) -> bool:
    try:
        found = convert(candidate)
    except (Unreadable, ValueError, TypeError, AttributeError):
        return False
    return bool(found == value) and isinstance(found, bool) == isinstance(value, bool)

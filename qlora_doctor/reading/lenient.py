"""A value against a type of Setup: read leniently, as the libraries' own argument parsers do, or explained in words.

The types are few (texts, numbers, truth values, lists, mappings, choices), so that this takes microseconds where a
pydantic validator of a section takes milliseconds to be built.
"""

from __future__ import annotations

import math
import types
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Literal, Union, get_args, get_origin

_TRUE = {"true", "yes", "on", "y", "t", "1"}
_FALSE = {"false", "no", "off", "n", "f", "0"}


class Mismatch(ValueError):
    """The value is not of the type."""


def read_as(annotation: Any, value: Any) -> Any:
    """The value as this type has it: ``"16"`` and ``16.0`` are the whole number 16, ``"no"`` is false.

    A truth value is no number, and a number must be finite.

    Raises:
        Mismatch: it cannot be read so.
    """
    # What fits as it is comes first: in `int | float` 0.5 stays a float, in `bool | str` a text stays a text.
    for branch in sorted(_branches(annotation), key=lambda branch: not _is(branch, value)):
        try:
            return _READERS[_kind(branch)](branch, value)
        except (ValueError, OverflowError):
            continue
    raise Mismatch(describe_type(annotation))


def describe_type(annotation: Any) -> str:
    """A type in words: ``int | None`` → "a whole number"."""
    branches = _branches(annotation)
    if len(branches) > 1:
        return " or ".join(dict.fromkeys(describe_type(branch) for branch in branches))
    annotation = branches[0]
    kind = _kind(annotation)
    if kind == "choice":
        return "one of " + ", ".join(str(value) for value in get_args(annotation))
    if kind == "list":
        inner = describe_type(get_args(annotation)[0])
        return "a list of " + {"a text": "texts", "a whole number": "whole numbers"}.get(inner, "values")
    words = {"text": "a text", "whole": "a whole number", "number": "a number", "truth": "true or false"}
    return words.get(kind, "a mapping" if kind == "mapping" else "a value")


def describe_value(value: Any) -> str:
    """A value in words, short: "the text 'fast'"."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f"the text {value[:60]!r}" + ("…" if len(value) > 60 else "")
    if isinstance(value, int | float):
        return f"the number {str(value)[:40]}"
    if isinstance(value, list):
        strange = [inner for inner in value if not isinstance(inner, str)]
        return "an empty list" if not value else "a list" + (f" with {describe_value(strange[0])}" if strange else "")
    return {type(None): "nothing", dict: "a mapping"}.get(type(value), f"a {type(value).__name__}")


@lru_cache(maxsize=512)
def _branches(annotation: Any) -> tuple[Any, ...]:
    """The types of a union, without None: silence is dealt with before a value is read."""
    if get_origin(annotation) in (Union, types.UnionType):
        return tuple(part for part in get_args(annotation) if part is not type(None))
    return (annotation,)


_PLAIN = {str: "text", int: "whole", float: "number", bool: "truth", list: "list", dict: "mapping"}


@lru_cache(maxsize=512)
def _kind(annotation: Any) -> str:
    origin = get_origin(annotation) or annotation
    return "choice" if origin is Literal else _PLAIN.get(origin, "any")


def _is(annotation: Any, value: Any) -> bool:
    """True where the value has this type already."""
    origin = get_origin(annotation) or annotation
    if origin not in _PLAIN or not isinstance(value, origin) or (origin is int and isinstance(value, bool)):
        return False
    if not isinstance(value, list):
        return True
    inner = (get_args(annotation) or (Any,))[0]
    return _kind(inner) == "any" or _all_plain(inner, value) or all(_is(inner, each) for each in value)


def _all_plain(annotation: Any, values: list[Any]) -> bool:
    """True where all are of a plain type, subclasses left out: quick, for lists of a million."""
    return annotation in (str, int, bool) and set(map(type, values)) <= {annotation}


def _text(annotation: Any, value: Any) -> str:
    if not isinstance(value, str):
        raise Mismatch
    return value


def _whole(annotation: Any, value: Any) -> int:
    number = _number(annotation, value)
    if number != int(number):
        raise Mismatch
    return value if isinstance(value, int) else int(number)


def _number(annotation: Any, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise Mismatch
    number = float(value)
    if not math.isfinite(number):
        raise Mismatch
    return number


def _truth(annotation: Any, value: Any) -> bool:
    if isinstance(value, bool):
        return value
    word = str(value).strip().lower() if isinstance(value, str | int) else ""
    if word in _TRUE:
        return True
    if word in _FALSE:
        return False
    raise Mismatch


def _list(annotation: Any, value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise Mismatch
    (inner,) = get_args(annotation) or (Any,)
    if _all_plain(inner, value):
        return list(value)
    return [read_as(inner, each) for each in value]


def _mapping(annotation: Any, value: Any) -> dict[Any, Any]:
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise Mismatch
    _, inner = get_args(annotation) or (str, Any)
    return {key: read_as(inner, each) for key, each in value.items()}


def _choice(annotation: Any, value: Any) -> Any:
    for choice in get_args(annotation):
        if value == choice and type(value) is type(choice):
            return choice
    raise Mismatch


def _anything(annotation: Any, value: Any) -> Any:
    return value


_READERS: dict[str, Callable[[Any, Any], Any]] = {
    "text": _text,
    "whole": _whole,
    "number": _number,
    "truth": _truth,
    "list": _list,
    "mapping": _mapping,
    "choice": _choice,
    "any": _anything,
}

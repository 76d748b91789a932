"""Values of the rule language: facts by name, the unknown, and what may be done with them.

Nothing here can call into an object: a name is looked up among a model's declared fields or a mapping's keys, and the
filters are the ones of ``FILTERS``.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping
from functools import cache, lru_cache
from typing import Any

from pydantic import BaseModel

from ..core import numbers

LARGEST_EXPONENT = 64
LARGEST_BASE = 1e6


class EvaluationError(Exception):
    """An expression met values that it cannot work on."""


class Unknown:
    """The value of a fact that nobody has seen; whatever is computed from it is unknown as well.

    Attributes:
        names: dotted names of the facts that are missing.
    """

    __slots__ = ("names",)

    def __init__(self, *names: str) -> None:
        self.names = frozenset(names)

    def __repr__(self) -> str:
        return f"Unknown({', '.join(sorted(self.names))})"

    def __bool__(self) -> bool:
        raise EvaluationError(f"{', '.join(sorted(self.names))} is unknown and neither true nor false")


def unknown_of(*values: Any) -> Unknown | None:
    """What is unknown among these values, together; None where all of them are known."""
    missing = [value for value in values if isinstance(value, Unknown)]
    return Unknown(*(name for value in missing for name in value.names)) if missing else None


def member(value: Any, name: Any, path: str) -> Any:
    """A field, key or item of a value; None and what is absent are unknown under the name ``path``."""
    if isinstance(value, Unknown):
        return Unknown(path)
    found: Any = None
    if isinstance(value, BaseModel):
        found = getattr(value, name) if name in _fields_of(type(value)) else None
    elif isinstance(value, Mapping):
        found = value.get(name)
    elif isinstance(value, list | tuple) and isinstance(name, int):
        found = value[name] if -len(value) <= name < len(value) else None
    return Unknown(path) if found is None else found


@cache
def _fields_of(model: type[BaseModel]) -> frozenset[str]:
    return frozenset(model.model_fields)


@lru_cache(maxsize=4096)
def _steps(path: str) -> tuple[str, ...]:
    return tuple(path.split("."))


def lookup(facts: Any, path: str) -> Any:
    """The fact with this dotted name, such as ``step.optimizer.frozen_parameters``, or an ``Unknown``."""
    value = facts
    for part in _steps(path):
        value = member(value, part, path)
    return value


def binary(symbol: str, left: Any, right: Any) -> Any:
    """Arithmetic on numbers, ``+`` also on texts and lists; powers are bounded so that no page can hang the tool."""
    if (missing := unknown_of(left, right)) is not None:
        return missing
    numbers = isinstance(left, int | float) and isinstance(right, int | float)
    if not numbers and symbol != "+":
        raise EvaluationError(f"'{symbol}' works on numbers, not on {_kind(left)} and {_kind(right)}")
    if symbol == "**" and (abs(right) > LARGEST_EXPONENT or abs(left) > LARGEST_BASE):
        raise EvaluationError(f"{left} ** {right} is too large")
    try:
        return _OPERATORS[symbol](left, right)
    except (ArithmeticError, TypeError) as error:
        raise EvaluationError(str(error)) from error


def compare(symbol: str, left: Any, right: Any) -> Any:
    """A comparison, unknown where either side is."""
    if (missing := unknown_of(left, right)) is not None:
        return missing
    try:
        return _COMPARISONS[symbol](left, right)
    except TypeError as error:
        raise EvaluationError(str(error)) from error


def apply_filter(name: str, value: Any, arguments: list[Any], options: dict[str, Any]) -> Any:
    """The value through a filter; an unknown stays unknown, except through ``default``."""
    if isinstance(value, Unknown):
        return arguments[0] if name == "default" and arguments else value
    if (missing := unknown_of(*arguments, *options.values())) is not None:
        return missing
    try:
        result = FILTERS[name](value, *arguments, **options)
    except (TypeError, ValueError, ArithmeticError, IndexError, AttributeError) as error:
        raise EvaluationError(f"the filter '{name}' cannot work on {_kind(value)}: {error}") from error
    return Unknown(f"{name} of nothing") if result is None else result


def as_text(value: Any) -> str:
    """A value as it stands in a message; floats lose their binary noise."""
    if isinstance(value, Unknown):
        return "unknown"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list | tuple):
        return ", ".join(as_text(item) for item in value)
    return str(value)


def listed(values: Iterable[Any], limit: int = 4) -> str:
    """The first items with the number of those left out: ``a, b, c, d and 12 more``."""
    items = [as_text(value) for value in values]
    shown = ", ".join(items[:limit])
    return f"{shown} and {len(items) - limit} more" if len(items) > limit else shown


def plural(count: float, word: str, words: str | None = None) -> str:
    """A count with its noun: ``1 layer``, ``2 layers``."""
    return f"{count:,.0f} {word if count == 1 else words or word + 's'}"


def _attribute(path: str | None) -> Callable[[Any], Any]:
    if path is None:
        return lambda item: item
    return lambda item: lookup(item, path)


def _map(values: Iterable[Any], *, attribute: str) -> list[Any]:
    return [value for value in map(_attribute(attribute), values) if not isinstance(value, Unknown)]


def _where(values: Iterable[Any], attribute: str, *wanted: Any) -> list[Any]:
    return [item for item in values if lookup(item, attribute) in wanted]


def _without(values: Iterable[Any], attribute: str, *unwanted: Any) -> list[Any]:
    return [item for item in values if lookup(item, attribute) not in unwanted]


def _sum(values: Iterable[Any], attribute: str | None = None) -> Any:
    return sum(_map(values, attribute=attribute) if attribute else values)


def _max(values: Iterable[Any], attribute: str | None = None) -> Any:
    return max(values, key=_attribute(attribute), default=None)


def _min(values: Iterable[Any], attribute: str | None = None) -> Any:
    return min(values, key=_attribute(attribute), default=None)


def _sort(values: Iterable[Any], attribute: str | None = None) -> list[Any]:
    return sorted(values, key=_attribute(attribute))


def _round(value: float, digits: int = 0) -> float:
    return round(value, digits) if digits > 0 else round(value)


def _kind(value: Any) -> str:
    return type(value).__name__


def _contains(left: Any, right: Any) -> bool:
    return bool(operator.contains(right, left))


_OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
    "//": operator.floordiv,
    "%": operator.mod,
    "**": operator.pow,
}
_COMPARISONS: dict[str, Callable[[Any, Any], Any]] = {
    "eq": operator.eq,
    "ne": operator.ne,
    "gt": operator.gt,
    "gteq": operator.ge,
    "lt": operator.lt,
    "lteq": operator.le,
    "in": _contains,
    "notin": lambda left, right: not _contains(left, right),
}

FILTERS: dict[str, Callable[..., Any]] = {
    "abs": abs,
    "round": _round,
    "int": int,
    "float": float,
    "length": len,
    "count": len,
    "sum": _sum,
    "max": _max,
    "min": _min,
    "first": lambda values: next(iter(values), None),
    "last": lambda values: values[-1] if values else None,
    "sort": _sort,
    "unique": lambda values: list(dict.fromkeys(values)),
    "map": _map,
    "where": _where,
    "without": _without,
    "keys": lambda values: list(values.keys()),
    "values": lambda values: list(values.values()),
    "join": lambda values, between="": between.join(as_text(value) for value in values),
    "listed": listed,
    "replace": lambda text, old, new: text.replace(old, new),
    "lower": lambda text: text.lower(),
    "upper": lambda text: text.upper(),
    "starts": lambda text, *beginnings: text.startswith(beginnings),
    "bytes": numbers.size,
    "human": numbers.amount,
    "thousands": lambda value: numbers.exact(round(value)),
    "percent": numbers.percent,
    "plural": plural,
    "short": lambda value: f"{value:.3g}",
    "default": lambda value, _otherwise: value,
}
"""Every filter that a page may use; ``where`` (``without``) keeps items whose attribute is one (none) of the values."""

TESTS: dict[str, Callable[[Any], bool]] = {
    "known": lambda value: not isinstance(value, Unknown),
    "unknown": lambda value: isinstance(value, Unknown),
    "string": lambda value: isinstance(value, str),
    "number": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
    "true": lambda value: value is True,
    "false": lambda value: value is False,
    "list": lambda value: isinstance(value, list | tuple),
    "mapping": lambda value: isinstance(value, Mapping),
}
"""Every test that may follow ``is``."""

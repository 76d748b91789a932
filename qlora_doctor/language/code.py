"""Expressions and templates as plain nested lists: what the evaluator walks, and what can be kept as JSON.

An instruction is a list that begins with its word; the words are those of ``expression``. ``compiling`` makes them.
"""

from __future__ import annotations

from typing import Any, TypeAlias

Code: TypeAlias = "list[Any]"


def fact_names(code: Any) -> set[str]:
    """Dotted names of the facts, params and loop variables in this code."""
    return _names(code, needed=False)


def needed_names(code: Any) -> set[str]:
    """Of ``fact_names``, those that have to be known: not what ``default`` stands in for or ``is known`` asks about."""
    return _names(code, needed=True)


def _names(code: Any, needed: bool) -> set[str]:
    if not isinstance(code, list) or not code:
        return set()
    if code[0] == "fact":
        return {code[1]}
    if code[0] == "const" or (needed and code[0] == "test" and code[1] in ("known", "unknown")):
        return set()
    parts = code[3] if needed and code[:2] == ["filter", "default"] else code
    children = [*parts, *(value for part in parts if isinstance(part, dict) for value in part.values())]
    return {name for child in children for name in _names(child, needed)}

"""Dotted names of facts against the types of their models: does a name exist, and what is it."""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

Scope = Mapping[str, Any]
"""Names that an expression may use, each with its type annotation."""


class LanguageError(ValueError):
    """A page's expression or template that is not allowed, or that names what does not exist."""


def field_type(kind: Any, path: str) -> Any:
    """The type of a dotted name below a model.

    Raises:
        LanguageError: it has no such field.
    """
    for part in path.split("."):
        kind = field_of(kind, part, path)
    return kind


def field_of(kind: Any, name: str, path: str) -> Any:
    """The type of one field of a type; ``path`` is the whole name, for the message.

    Raises:
        LanguageError: it has no such field.
    """
    kind = known_part(kind)
    if kind is Any:
        return Any
    if isinstance(kind, Mapping):
        if name not in kind:
            raise LanguageError(f"There is no {path or name!r}; there are {', '.join(sorted(kind))}.")
        return kind[name]
    if typing.get_origin(kind) is dict:
        return typing.get_args(kind)[1]
    if typing.get_origin(kind) is None and isinstance(kind, type) and issubclass(kind, BaseModel):
        if name not in kind.model_fields:
            raise LanguageError(f"There is no fact {path or name!r}; {kind.__name__} has no {name!r}.")
        return kind.model_fields[name].annotation
    raise LanguageError(f"{path or name!r}: {getattr(kind, '__name__', kind)} has no fields.")


def known_part(kind: Any) -> Any:
    """``X`` of ``X | None``; a union of several types is not followed further."""
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        parts = [part for part in typing.get_args(kind) if part is not type(None)]
        return parts[0] if len(parts) == 1 else Any
    return kind

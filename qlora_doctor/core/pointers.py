"""JSON pointers (RFC 6901): steps from the top of a document to a value, ``~`` and ``/`` within a step escaped."""

from __future__ import annotations

from collections.abc import Iterable


def escaped(step: str) -> str:
    """One step as it stands in a pointer."""
    return step.replace("~", "~0").replace("/", "~1")


def split_pointer(pointer: str) -> list[str]:
    """The steps of a pointer, unescaped."""
    return [step.replace("~1", "/").replace("~0", "~") for step in pointer.split("/")[1:]]


def join_pointer(steps: Iterable[str]) -> str:
    """Steps → pointer."""
    return "".join("/" + escaped(step) for step in steps)


def dotted(pointer: str) -> str:
    """The steps with dots between them, as a key is named in a sentence."""
    return ".".join(split_pointer(pointer))

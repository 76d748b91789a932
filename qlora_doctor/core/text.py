"""Text from files made safe where it is read: what UTF-8 has no bytes for is written out.

JSON, YAML and Python write a lone half of a surrogate pair as ``\\ud800``, and Python reads such a thing into names of
files that are no UTF-8. No document, no pipe and no terminal takes it.
"""

from __future__ import annotations

import hashlib
from typing import Any, TypeVar

from pydantic import BaseModel

T = TypeVar("T")


def safe(text: str) -> str:
    """The text with lone surrogates as the escapes that they were written as; the same object where there are none."""
    if text.isascii():
        return text
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-8", "backslashreplace").decode("utf-8")
    return text


def cleaned(value: T) -> T:
    """A value with every text in it safe: mappings (their keys too), lists, tuples, models; the same where all is.

    The caller sees to it that the value is not nested deeper than Python's stack; what files hold is bounded where
    it is read.
    """
    return _cleaned(value)  # type: ignore[no-any-return]


def _cleaned(value: Any) -> Any:
    if isinstance(value, str):
        return safe(value) if type(value) is str else value
    if isinstance(value, dict):
        pairs = [(_cleaned(key), _cleaned(inner)) for key, inner in value.items()]
        same = all(a is key and b is inner for (a, b), (key, inner) in zip(pairs, value.items(), strict=True))
        return value if same else dict(pairs)
    if isinstance(value, list | tuple):
        items = [_cleaned(item) for item in value]
        if all(new is old for new, old in zip(items, value, strict=True)):
            return value
        return items if isinstance(value, list) else type(value)(items)
    if isinstance(value, BaseModel):
        fields = {name: new for name, old in value.__dict__.items() if (new := _cleaned(old)) is not old}
        return value.model_copy(update=fields) if fields else value
    return value


def template_digest(template: str | None) -> str:
    """SHA-256 of a chat template, ``none`` of none; spaces around it do not count, for a file ends in a line break."""
    return hashlib.sha256(template.strip().encode()).hexdigest() if template is not None else "none"

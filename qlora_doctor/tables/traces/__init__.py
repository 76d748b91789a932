"""The traces that come with the package, as files: one for each variant, and what they have in common.

``index.json`` holds the versions that were traced, what a setup says that was (:func:`memory.shipped.signature`), and
from how many tokens on bitsandbytes' own kernel runs no longer, by type, kind of card and shape. ``make traces`` writes
all of it. Light: no torch.
"""

from __future__ import annotations

import json
import zlib
from functools import cache
from importlib import resources
from typing import Any


@cache
def index() -> dict[str, Any]:
    """What all traces have in common."""
    found: dict[str, Any] = json.loads(_folder().joinpath("index.json").read_text("utf-8"))
    return found


@cache
def read(file: str) -> dict[str, Any] | None:
    """The content of a file; None where there is none."""
    try:
        content = _folder().joinpath(file).read_bytes()
    except OSError:
        return None
    document: dict[str, Any] = json.loads(zlib.decompress(content))
    return document


def packed(document: dict[str, Any]) -> bytes:
    """The bytes of a file."""
    return zlib.compress(json.dumps(document, separators=(",", ":")).encode(), 9)


def _folder() -> Any:
    return resources.files(__name__)

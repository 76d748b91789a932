"""Versions of packages, as they are compared everywhere."""

from __future__ import annotations

import re


def version_tuple(version: str | None) -> tuple[int, ...] | None:
    """``2.13.0+cpu`` → (2, 13, 0); None where there is no version."""
    if version is None:
        return None
    found = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(int(part) for part in found[0].split(".")) if found else None

"""Versions of packages, as they are compared everywhere."""

from __future__ import annotations

import re
from functools import cache


def version_tuple(version: str | None) -> tuple[int, ...] | None:
    """``2.13.0+cpu`` → (2, 13, 0); None where there is no version."""
    if version is None:
        return None
    found = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(int(part) for part in found[0].split(".")) if found else None


PACKAGES = ("torch", "transformers", "peft", "bitsandbytes", "accelerate", "trl")
"""The packages whose versions decide a step's memory."""


@cache
def installed_versions() -> dict[str, str]:
    """Versions of :data:`PACKAGES` on this machine, without importing them; a package that is missing is left out."""
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found

"""What each key of the native config means, in one or two sentences: for editors, the schema and the docs."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import yaml

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def meaning(path: str) -> str | None:
    """The meaning of a canonical path such as ``lora.r``; None where the table has none."""
    return all_meanings().get(path)


@cache
def all_meanings() -> dict[str, str]:
    """Canonical path → meaning (Markdown)."""
    text = Path(__file__).with_name("meanings.yaml").read_text(encoding="utf-8")
    sections: dict[str, dict[str, str]] = yaml.load(text, Loader=_LOADER)["meanings"]
    return {f"{section}.{key}": told for section, keys in sections.items() for key, told in keys.items()}

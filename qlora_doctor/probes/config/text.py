"""The text of a config, for what only its words tell."""

from __future__ import annotations

from pathlib import Path

from ...setup.setup import Setup

_LIMIT = 4 << 20


def text_of(setup: Setup) -> str | None:
    """What the file says; None where there is none, or a very long one."""
    if setup._document is not None:
        text: str = setup._document.text
        return text if len(text) <= _LIMIT else None
    try:
        file = Path(setup.file) if setup.file is not None else None
        if file is None or not file.is_file() or file.stat().st_size > _LIMIT:
            return None
        return file.read_text("utf-8", errors="replace")
    except OSError:
        return None

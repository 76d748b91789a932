"""The text of a log, whatever wrote it."""

from __future__ import annotations

import codecs
from pathlib import Path

from ...core.errors import UsageError


class Unreadable(UsageError):
    """A file that is no log, or none that can be read."""


def read_text(path: Path) -> str:
    """The text of a log, whatever bytes are in it.

    Raises:
        Unreadable: it cannot be opened.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise Unreadable(f"{path} cannot be read: {error.strerror or error}.") from error
    return decoded(data)


def decoded(data: bytes) -> str:
    """UTF-8 with what is broken in it replaced, or UTF-16 where it begins so: PowerShell redirects in that."""
    is_wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return data.decode("utf-16" if is_wide else "utf-8-sig", "replace")

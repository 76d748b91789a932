"""The text of a log, whatever wrote it."""

from __future__ import annotations

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
        return path.read_bytes().decode("utf-8", "replace")
    except OSError as error:
        raise Unreadable(f"{path} cannot be read: {error.strerror or error}.") from error

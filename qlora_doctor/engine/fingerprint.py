"""What identifies a finding from run to run."""

from __future__ import annotations

import hashlib
from pathlib import Path


def fingerprint(rule: str, file: str | None, pointer: str | None) -> str:
    """16 hexadecimal digits of the SHA-256 of rule, file and JSON pointer.

    Neither line numbers nor measured values go in, so that an edit elsewhere or another run of the same setup does not
    make an old finding look new. A file below the working directory counts by its relative path, with ``/``.
    """
    text = "|".join((rule, _posix(file), pointer or ""))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _posix(file: str | None) -> str:
    if file is None:
        return ""
    path = Path(file)
    if path.is_absolute() and path.is_relative_to(Path.cwd()):
        path = path.relative_to(Path.cwd())
    return path.as_posix().replace("\\", "/")

"""Files written whole or not at all, and small ones read without a fault."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any


def write_whole(path: Path, content: bytes) -> None:
    """Write a file beside its place and rename it over; a link keeps pointing at it, and the mode stays.

    Raises:
        OSError: it cannot be written.
    """
    path = path.resolve()
    handle, beside = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.chmod(beside, _mode_of(path))  # noqa: PTH101 (a descriptor's path, as mkstemp gives it)
        os.replace(beside, path)  # noqa: PTH105
    except BaseException:
        Path(beside).unlink(missing_ok=True)
        raise


def _mode_of(path: Path) -> int:
    """The mode of the file that is replaced, or that of a new file."""
    try:
        return path.stat().st_mode & 0o777
    except OSError:
        mask = os.umask(0)
        os.umask(mask)
        return 0o666 & ~mask


def json_mapping(file: Path, most_bytes: int) -> dict[str, Any] | None:
    """The mapping in a JSON file; None where it is absent, larger than ``most_bytes``, damaged or something else."""
    try:
        if file.stat().st_size > most_bytes:
            return None
        record = json.loads(file.read_text("utf-8-sig"))
    except (OSError, ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def hub_cache(name: str) -> Path:
    """Where the hub's cache of this machine keeps a model of this name, be it there or not.

    Source: huggingface_hub, "Understand caching".

    Raises:
        RuntimeError: the user has no home folder.
    """
    root = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE")
    if root is None:
        home = os.environ.get("HF_HOME") or f"{os.environ.get('XDG_CACHE_HOME') or '~/.cache'}/huggingface"
        root = f"{home}/hub"
    return Path(root).expanduser() / f"models--{name.replace('/', '--')}"


def in_hub_cache(name: str, revision: str | None) -> Path | None:
    """The snapshot that transformers would take from the hub's cache on this machine.

    Source: huggingface_hub, "Understand caching": models--ORG--NAME/refs/REVISION → snapshots/COMMIT.
    """
    repository = hub_cache(name)
    try:
        commit = (repository / "refs" / (revision or "main")).read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        commit = revision or ""
    return repository / "snapshots" / commit if commit else None

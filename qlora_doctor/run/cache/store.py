"""Where results are kept: in memory for the run, and in the user's cache folder for the next.

Each entry is a file of its own that is written beside its place and renamed into it: whoever reads it meanwhile reads
the old one or the new one, and two runs that know the same write the same. An entry that cannot be read, for whatever
reason, is none. Nothing here is needed: a folder that is read-only, or a full disk, costs time and no result.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...core.files import write_whole
from ...core.folders import user_cache
from ...core.report import StageRecord
from ...facts import Facts

LIMIT = 256 << 20
"""Bytes that the folder may hold; what was not used for longest goes first. An entry is some 10 to 200 KB."""
VARIABLE = "QLORA_DOCTOR_CACHE"
"""Environment variable: the folder, or ``off``."""


@dataclass(frozen=True)
class Kept:
    """How a stage ended, and the facts that it reported, by subject."""

    record: StageRecord
    facts: Mapping[str, Any]


class Store:
    """Results by key.

    Args:
        folder: where they are kept for other runs; None keeps them for this run alone.
        limit: bytes that the folder may hold.
    """

    def __init__(self, folder: Path | None, *, limit: int = LIMIT) -> None:
        self._folder, self._limit = folder, limit
        self._known: dict[str, Kept] = {}
        self._written = False
        self.trouble: str | None = None
        """Why something could not be kept."""

    def get(self, key: str) -> Kept | None:
        """What is kept under a key; None where nothing is, or nothing that can be read."""
        if key in self._known:
            return self._known[key]
        if self._folder is None:
            return None
        path = self._folder / f"{key}.json"
        try:
            kept = _decode(path.read_bytes())
        except (OSError, ValueError, TypeError, KeyError):
            return None
        self._known[key] = kept
        with contextlib.suppress(OSError):
            os.utime(path)  # used just now
        return kept

    def put(self, key: str, kept: Kept) -> None:
        """Keep a result."""
        self._known[key] = kept
        if self._folder is None or self.trouble is not None:
            return
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_whole(self._folder / f"{key}.json", _encode(kept))
        except OSError as error:
            self.trouble = f"{self._folder} cannot be written: {error.strerror or error}."
            return
        self._written = True

    def close(self) -> None:
        """Make room where too much is kept, and take away what killed runs left half-written."""
        if self._folder is None or not self._written:
            return
        with contextlib.suppress(OSError):
            _prune(self._folder, self._limit)


def cache_folder() -> Path | None:
    """Where results are kept unless the user says otherwise; None where the environment turns it off or has no home."""
    said = os.environ.get(VARIABLE)
    if said is not None and said.lower() in ("", "off", "0", "no", "false"):
        return None
    try:
        return Path(said).expanduser() if said is not None else user_cache() / "facts"
    except RuntimeError:  # a user without a home
        return None


def pages_folder(results: Path | None) -> Path | None:
    """Where rule pages that were read are kept: beside the results, and nowhere where these are not kept."""
    return results / "rules" if results is not None else None


def _encode(kept: Kept) -> bytes:
    """One line with the digest of the second: half an entry, or one with a wrong bit, is then seen to be none."""
    facts = {name: value.model_dump(mode="json") for name, value in kept.facts.items()}
    content = json.dumps(
        {"record": kept.record.model_dump(mode="json"), "facts": facts}, separators=(",", ":")
    ).encode()
    return hashlib.sha256(content).hexdigest().encode() + b"\n" + content


def _decode(entry: bytes) -> Kept:
    """The result of an entry.

    Raises:
        ValueError, TypeError, KeyError: it is none.
    """
    digest, _, content = entry.partition(b"\n")
    if hashlib.sha256(content).hexdigest().encode() != digest:
        raise ValueError("the entry is damaged")
    values = json.loads(content)
    facts = Facts.model_validate(values["facts"])
    return Kept(StageRecord.model_validate(values["record"]), {name: getattr(facts, name) for name in values["facts"]})


def _prune(folder: Path, limit: int) -> None:
    entries = sorted(_entries(folder), reverse=True)
    newest = entries[0][0] if entries else 0.0
    kept = 0
    for used, size, path in entries:
        half_written = path.suffix == ".tmp" and used < newest - 3600
        kept += size
        if half_written or kept > limit:
            with contextlib.suppress(OSError):
                path.unlink()


def _entries(folder: Path) -> Iterator[tuple[float, int, Path]]:
    """(last used, bytes, path) of each file; another run may take some away meanwhile."""
    for path in folder.iterdir():
        if path.suffix in (".json", ".traces", ".tmp"):
            with contextlib.suppress(OSError):
                status = path.stat()
                yield status.st_mtime, status.st_size, path

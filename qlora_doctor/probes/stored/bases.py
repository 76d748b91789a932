"""The base of an adapter as far as it is on this machine, and which commit of it that is."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...core.files import in_hub_cache

_COMMIT = re.compile(r"[0-9a-f]{7,40}")
_RECORD = Path(".cache", "huggingface", "download", "config.json.metadata")
"""What ``hf download --local-dir`` keeps of a file: its first line is the commit (huggingface_hub)."""


def base_folder(given: Path | None, config: Mapping[str, Any] | None) -> Path | None:
    """The folder that is given, else the one that the adapter names, else its snapshot in the hub's cache."""
    if given is not None:
        return given
    named = (config or {}).get("base_model_name_or_path")
    if not isinstance(named, str) or not named.strip():
        return None
    if Path(named).is_dir():
        return Path(named)
    if not re.fullmatch(r"[\w.-]+(?:/[\w.-]+)?", named):
        return None
    revision = (config or {}).get("revision")
    cached = in_hub_cache(named, revision if isinstance(revision, str) and revision else None)
    return cached if cached is not None and (cached / "config.json").is_file() else None


def commit_of(folder: Path | None) -> str | None:
    """The commit that a folder of a base holds; None where nothing tells it."""
    if folder is None:
        return None
    resolved = folder.resolve()
    if resolved.parent.name == "snapshots" and _COMMIT.fullmatch(resolved.name):
        return resolved.name
    try:
        first = (folder / _RECORD).read_text("utf-8").split("\n", 1)[0].strip()
    except (OSError, UnicodeDecodeError):
        return None
    return first if _COMMIT.fullmatch(first) else None


def revision_difference(recorded: str | None, folder: Path | None) -> str | None:
    """What is wrong where a recorded revision is not the folder's commit, ``none`` where it is; None where unknown.

    A branch or a tag is a commit where the hub's cache, in which the folder lies, keeps what it stands for.
    """
    commit = commit_of(folder)
    if not recorded or commit is None or folder is None:
        return None
    wanted = recorded.strip().lower()
    if _COMMIT.fullmatch(wanted) is None:
        try:
            wanted = (folder.resolve().parent.parent / "refs" / recorded).read_text("utf-8").strip()
        except (OSError, UnicodeDecodeError):
            return None
    if commit.startswith(wanted) or wanted.startswith(commit):
        return "none"
    return f"the adapter was trained on revision {recorded} of the base, and the one that is here is commit {commit}"

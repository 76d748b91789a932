"""Where the tool keeps what it may lose: results of checks, rule pages once read, records of runs."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def user_cache() -> Path:
    """The tool's folder in the user's cache, as each system has it.

    Raises:
        RuntimeError: the user has no home.
    """
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or "~/AppData/Local"
    elif sys.platform == "darwin":
        base = "~/Library/Caches"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "qlora-doctor"

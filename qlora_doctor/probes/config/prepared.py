"""Prepared data that is older than the file it was made of: the trainer takes it all the same."""

from __future__ import annotations

from pathlib import Path

from ...setup.paths import resolve
from ...setup.setup import Setup

_MOST = 1000


def stale_prepared(setup: Setup) -> str | None:
    """The folder and the newer file, in words; ``none`` where there is none, None where nothing is prepared.

    axolotl knows prepared data by the config's words, not by the file's content (0.19: ``utils/data/shared.py``,
    ``generate_dataset_hash_from_config``); LLaMA-Factory takes what ``tokenized_path`` holds whatever else is named.
    """
    named = [each for each in setup.named_data if each.role == "train"]
    if not named:
        return None
    key = setup.traits.prepared_key
    written = named[0].settings.get(key) if key is not None else None
    folder = resolve(setup, written) if isinstance(written, str) else None
    if folder is None or not folder.is_dir():
        return None
    try:
        made = _newest(folder)
        if made is None:
            return None
        for each in named:
            for name in each.files or ([each.name] if each.name else []):
                file = resolve(setup, name)
                if file is not None and file.is_file() and file.stat().st_mtime > made:
                    return f"{written} is older than {name}"
    except OSError:
        return None
    return "none"


def _newest(folder: Path) -> float | None:
    """When the youngest prepared table was written."""
    times = []
    for number, path in enumerate(folder.rglob("*")):
        if number > _MOST:
            break
        if path.suffix in (".arrow", ".json") and path.is_file():
            times.append(path.stat().st_mtime)
    return max(times, default=None)

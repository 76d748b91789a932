"""Where the files that a config names are: paths are written relative to the config's own folder."""

from __future__ import annotations

import re
from pathlib import Path

from .setup import Setup

_HUB_ID = re.compile(r"[\w.-]+(?:/[\w.-]+)?\Z", re.ASCII)
_OF_SWIFT = re.compile(
    r"(?:(?:HF|MS|hf|ms)::)?(?P<name>.+?)(?::(?P<subset>[^:/\\#]+))?(?:#(?P<rows>\d+))?\Z", re.DOTALL
)


def train_data(setup: Setup) -> tuple[str, str | None, int | None]:
    """What ``data.train`` names: a path or id, a subset, and the rows that are taken of it.

    ms-swift writes all three into one word, ``HF::id:subset#500`` (DatasetSyntax in swift/llm/dataset/loader.py).
    """
    written = setup.data.train or ""
    found = _OF_SWIFT.match(written) if setup.traits.subset_in_name else None
    if found is None or resolve(setup, written) is not None:
        return written, None, None
    return found["name"], found["subset"], int(found["rows"]) if found["rows"] else None


def resolve(setup: Setup, written: str | None) -> Path | None:
    """The file or folder that a value of the config names, or None where there is none of that name.

    Looked for beside the config first, then in the working directory, where the libraries themselves would look.
    """
    if not written or "\0" in written:
        return None
    try:
        path = Path(written).expanduser()
    except RuntimeError:  # ~name of nobody here
        path = Path(written)
    folders = [Path()] if setup.file is None or path.is_absolute() else [Path(setup.file).parent, Path()]
    for folder in folders:
        try:
            if (folder / path).exists():
                return folder / path
        except OSError:  # a name too long, a folder that may not be read
            continue
    return None


def looks_like_path(written: str) -> bool:
    """True where a model's name can only be meant as a path: no hub id starts, continues or is as long as this."""
    return written.startswith((".", "/", "~", "\\")) or len(written) > 96 * 2 or _HUB_ID.match(written) is None


def model_kind(setup: Setup) -> str | None:
    """What ``model`` is: ``folder``, ``table``, ``hub``, ``adapter``, ``missing`` or ``elsewhere``; None: unknown.

    A native config is written for a check, on the machine that has the model. A trainer's own file is read anywhere:
    a path in it that is not here is one of another machine, or is filled by a download before the run.
    """
    written = setup.model.name_or_path
    if written is None or setup.is_unknown("model.name_or_path"):
        return None
    found = resolve(setup, written)
    if found is not None and found.is_dir():
        is_adapter = (found / "adapter_config.json").is_file() and not (found / "config.json").is_file()
        return "adapter" if is_adapter else "folder"
    if looks_like_path(written) or (setup.traits.folders_only and found is None):
        return "missing" if setup.dialect == "native" else "elsewhere"
    from ..tables.architectures import find_architecture

    return "table" if find_architecture(written) is not None else "hub"

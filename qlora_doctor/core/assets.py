"""Finds the data folders ``rules/`` and ``reports/``: inside the installed package, or beside it in a checkout."""

from __future__ import annotations

from functools import cache
from pathlib import Path


@cache
def asset_folder(name: str) -> Path:
    """Path of a data folder, ``rules`` or ``reports``.

    Raises:
        FileNotFoundError: neither the wheel nor a checkout holds it (a broken installation).
    """
    package = Path(__file__).resolve().parents[1]
    installed = package / f"_{name}"
    if installed.is_dir():
        return installed
    # A bare `<parent>/rules` could be anybody's folder in site-packages: only a checkout has our pyproject beside it.
    checkout = package.parent
    if (checkout / "pyproject.toml").is_file() and (checkout / name).is_dir():
        return checkout / name
    raise FileNotFoundError(f"The folder {name}/ is missing from this installation; reinstall qlora-doctor.")

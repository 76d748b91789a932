"""Settings of how a run is spread over cards, which stand in the config or in a JSON file that it names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .paths import resolve
from .setup import Setup


def deepspeed_settings(setup: Setup) -> dict[str, Any] | None:
    """DeepSpeed's config; None where there is none, or where it cannot be read."""
    return _settings(setup, setup.training.deepspeed)


def fsdp_settings(setup: Setup) -> dict[str, Any] | None:
    """``fsdp_config``, empty where nothing is written; None where it cannot be read."""
    return _settings(setup, setup.training.fsdp_config or {})


def zero_settings(setup: Setup) -> dict[str, Any]:
    """``zero_optimization`` of DeepSpeed's config; empty where there is none."""
    section = (deepspeed_settings(setup) or {}).get("zero_optimization")
    return section if isinstance(section, dict) else {}


def _settings(setup: Setup, written: Any) -> dict[str, Any] | None:
    if written is None or isinstance(written, dict):
        return written
    path = resolve(setup, str(written))
    try:
        data = json.loads(Path(path).read_text("utf-8-sig")) if path is not None else None
    except (OSError, ValueError, RecursionError):
        return None
    return data if isinstance(data, dict) else None

"""The JSON files of a stored model or adapter."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

_LIMIT = 16 << 20
"""Bytes of a config at most."""


def read_json(path: Path) -> tuple[dict[str, Any] | None, str]:
    """(the object, ``none``), or (None, why it cannot be used)."""
    try:
        if path.stat().st_size > _LIMIT:
            return None, f"{path.name} is larger than {_LIMIT >> 20} MiB."
        document = json.loads(path.read_text("utf-8-sig"))
    except FileNotFoundError:
        return None, f"There is no {path.name}."
    except OSError as error:
        return None, f"{path.name} cannot be read: {error.strerror or error}."
    except (ValueError, RecursionError) as error:
        return None, f"{path.name} is no JSON: {str(error).splitlines()[0]}."
    return (document, "none") if isinstance(document, dict) else (None, f"{path.name} is no JSON object.")

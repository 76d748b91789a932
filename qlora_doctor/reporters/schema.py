"""JSON schemas of what others rely on: the report and the facts.

``python -m qlora_doctor.reporters.schema`` writes them to ``reports/schema``. Within version 1 fields are only added.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from ..core.assets import asset_folder
from ..core.report import SCHEMA_VERSION, Report
from ..facts import Facts

SCHEMAS: dict[str, type[BaseModel]] = {"report": Report, "facts": Facts}
_MAJOR = SCHEMA_VERSION.split(".")[0]


def schema(name: str) -> dict[str, Any]:
    """The schema of a document as it is written (JSON Schema 2020-12).

    Args:
        name: ``report`` or ``facts``.

    Raises:
        KeyError: there is no such schema.
    """
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": f"urn:qlora-doctor:{file_name(name)}"}
    return head | SCHEMAS[name].model_json_schema(mode="serialization")


def file_name(name: str) -> str:
    """Where it is kept below ``reports/schema``."""
    return f"{name}-v{_MAJOR}.schema.json"


def text(name: str) -> str:
    """The schema as it is kept."""
    return json.dumps(schema(name), indent=2, ensure_ascii=False) + "\n"


def write(folder: Path) -> list[Path]:
    """Write every schema and say where."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name in SCHEMAS:
        path = folder / file_name(name)
        path.write_text(text(name), encoding="utf-8", newline="\n")
        paths.append(path)
    return paths


if __name__ == "__main__":
    for written in write(asset_folder("reports") / "schema"):
        print(written)

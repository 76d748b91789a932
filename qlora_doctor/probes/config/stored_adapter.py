"""A stored adapter that a config continues: what its adapter_config.json records, without PEFT.

PEFT writes ``base_model_name_or_path`` (the name that the base was loaded by) and ``revision`` when it attaches, and
compares neither with the model that it loads the adapter into (peft 0.21: ``PeftModel.__init__``, ``from_pretrained``).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...core.files import json_mapping
from ...setup.paths import resolve
from ...setup.setup import Setup

CONFIG, WEIGHTS, PICKLED = "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"
_LIMIT = 16 << 20
"""Bytes of an adapter_config.json at most; one that names every module of a large model has some hundred thousand."""


@dataclass(frozen=True)
class StoredAdapter:
    """What lies in an adapter's folder.

    Attributes:
        base: ``base_model_name_or_path``; None where it is not recorded.
        revision: of the base; None where it is not recorded, which says nothing about the one that was loaded.
    """

    folder: Path
    base: str | None
    revision: str | None


def stored_adapter(setup: Setup) -> StoredAdapter | None:
    """The adapter that ``model.adapter`` names; None where there is none, or none that can be read here."""
    written = setup.model.adapter
    if written is None or setup.is_unknown("model.adapter"):
        return None
    folder = resolve(setup, written)
    record = json_mapping(folder / CONFIG, _LIMIT) if folder is not None else None
    if folder is None or record is None:
        return None
    return StoredAdapter(folder, _text(record.get("base_model_name_or_path")), _text(record.get("revision")))


def stored_adapter_facts(setup: Setup) -> dict[str, Any]:
    """Facts of the config's stored adapter and of the base that it was trained on."""
    if setup.is_unknown("model.adapter"):
        return {}
    if setup.model.adapter is None:
        return {"adapter_base_differs": False}
    stored = stored_adapter(setup)
    from .base_names import bases_differ, revisions_differ  # lazy: hardly a config continues an adapter

    known: dict[str, Any] = {"stored_adapter": setup.model.adapter}
    if stored is None:
        return known
    differ = bases_differ(stored.base, setup)
    if differ is False:
        differ = revisions_differ(stored.revision, setup)
        known["adapter_base_revision"] = stored.revision
    return {**known, "adapter_base": stored.base, "adapter_base_differs": differ}


def _text(value: Any) -> str | None:
    return value.strip() or None if isinstance(value, str) else None

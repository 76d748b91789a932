"""ms-swift's templates, and which of them a model gets where none is named (``benchmarks/field/list_templates.py``)."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

Slot = str | list[str] | list[int]
"""A text with ``{{QUERY}}`` and the like in it, the name of a special token's id, or ids."""


@dataclass(frozen=True)
class SwiftTemplate:
    """``TemplateMeta`` of ms-swift (4.6: ``swift/template/template_meta.py``), with its names.

    Attributes:
        chat_sep: None where the template takes one question alone.
        prompt_with_system: of the last question, where the system message stands there.
        made_by: the class that renders it.
    """

    prompt: tuple[Slot, ...]
    prefix: tuple[Slot, ...] = ()
    chat_sep: tuple[Slot, ...] | None = None
    suffix: tuple[Slot, ...] = ()
    system_prefix: tuple[Slot, ...] | None = None
    prompt_with_system: tuple[Slot, ...] | None = None
    default_system: str | None = None
    stop_words: tuple[Slot, ...] = ()
    auto_add_bos: bool = False
    agent_template: str | None = None
    is_thinking: bool = False
    thinking_prefix: str = ""
    non_thinking_prefix: str = ""
    preserve_thinking: bool | None = None
    history_thinking_prefix: str = ""
    made_by: str = "Template"

    @property
    def is_hybrid(self) -> bool:
        """Answers with and without thoughts: those without get an empty one, which is not trained."""
        return self.is_thinking and bool(self.non_thinking_prefix)


WITHOUT = SwiftTemplate(prompt=("{{QUERY}}",), suffix=(["eos_token_id"],), auto_add_bos=True)
"""``use_chat_template: false``."""


@lru_cache(maxsize=1)
def _table() -> dict[str, Any]:
    table: dict[str, Any] = json.loads(Path(__file__).with_name("swift_templates.json").read_text("utf-8"))
    return table


def swift_template(name: str) -> SwiftTemplate | None:
    """The template of a name; None of one that is not known, or rendered by code that is not followed."""
    row = _table()["templates"].get(name)
    if row is None:
        return None
    said: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in row.items()}
    said["made_by"] = said.pop("class", "Template")
    return SwiftTemplate(**said)


def loss_scale(name: str) -> dict[str, Any] | None:
    """What a loss scale weighs: a text, or a pattern, with the weight of itself and of what follows it."""
    found: dict[str, Any] | None = _table()["loss_scales"].get(name)
    return found


def template_of(model: str, model_type: str | None) -> str | None:
    """The template of a model for which none is named: by its type, its name, or its architecture alone."""
    table = _table()
    if model_type in table["types"]:
        return str(table["types"][model_type])
    cached = re.search(r"/models(?:--(?:.+?--)?|/(?:.+?--)?)(.+?)/snapshots/", model)
    name = (cached[1] if cached else model.rstrip("/").rpartition("/")[2].replace("___", ".")).lower()
    for template, names in table["models"].items():
        if name in names.split():
            return str(template)
    if model_type is not None:
        return None
    try:
        config = json.loads((Path(model) / "config.json").read_text("utf-8"))
    except (OSError, ValueError):
        return None
    architecture = str((config.get("architectures") or ["null"])[0])
    alone: str | None = table["architectures"].get(architecture, "dummy")
    return alone

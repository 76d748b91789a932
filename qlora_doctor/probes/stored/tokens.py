"""Tokenizer, special tokens and chat template of a folder against those of the base, where that is at hand."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .names import parse

_TOKENS = ("bos_token", "eos_token", "pad_token", "unk_token")
_LIMIT = 256 << 20


def token_facts(folder: Path, base: Path | None, found: Mapping[str, Any]) -> dict[str, Any]:
    """Facts of tokens; unknown where a side is missing."""
    rows = _rows(folder)
    named = found.get("base")
    if base is None and isinstance(named, str) and Path(named).is_dir():
        base = Path(named)
    base_rows = _base_rows(base, named)
    facts: dict[str, Any] = {"tokenizer_rows": rows, "base_rows": base_rows}
    if found.get("kind") == "adapter" and rows is not None and base_rows is not None:
        facts["embeddings_missing"] = rows > base_rows and not _stores_embeddings(folder)
    if base is None:
        return facts
    own, others = _object(folder / "tokenizer_config.json"), _object(base / "tokenizer_config.json")
    if own is not None and others is not None:
        facts["special_tokens_differ"] = [
            f"{name} is {_token(own.get(name))!r} here and {_token(others.get(name))!r} in the base"
            for name in _TOKENS
            if _token(own.get(name)) != _token(others.get(name))
            and not (name == "pad_token" and others.get(name) is None)
        ]
        templates = _template(folder, own), _template(base, others)
        facts["template_differs"] = None if None in templates else templates[0] != templates[1]
    return facts


def _rows(folder: Path) -> int | None:
    """The rows that the tokenizer's ids need: the largest id of vocabulary and added tokens, plus one."""
    file = folder / "tokenizer.json"
    document = _object(file)
    if document is None:
        return None
    ids = [token.get("id") for token in document.get("added_tokens") or [] if isinstance(token, dict)]
    model = document.get("model")
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    if isinstance(vocabulary, dict):
        ids += vocabulary.values()
    elif isinstance(vocabulary, list):
        ids.append(len(vocabulary) - 1)
    numbers = [each for each in ids if isinstance(each, int)]
    return max(numbers) + 1 if numbers else None


def _base_rows(base: Path | None, named: Any) -> int | None:
    config = _object(base / "config.json") if base is not None else None
    if config is None and isinstance(named, str):
        from ...tables.architectures import find_architecture

        known = find_architecture(named)
        config = known.config if known is not None else None
    size = (config or {}).get("vocab_size")
    return size if isinstance(size, int) else None


def _stores_embeddings(folder: Path) -> bool:
    from ...core.errors import StageError
    from ..config.stored_adapter import WEIGHTS
    from ..load.checkpoint import read_header

    try:
        names = [parse(name) for name in read_header(folder / WEIGHTS)]
    except StageError:
        return True  # told elsewhere
    return any(name is not None and (name.part == "token" or "embed" in name.module or name.module.endswith("wte"))
               for name in names)  # fmt: skip


def _template(folder: Path, config: Mapping[str, Any]) -> str | None:
    file = folder / "chat_template.jinja"
    if file.is_file():
        try:
            return file.read_text("utf-8")
        except (OSError, UnicodeDecodeError):
            return None
    template = config.get("chat_template")
    return template if isinstance(template, str) else None


def _token(value: Any) -> Any:
    return value.get("content") if isinstance(value, dict) else value


def _object(path: Path) -> dict[str, Any] | None:
    try:
        if path.stat().st_size > _LIMIT:
            return None
        document = json.loads(path.read_text("utf-8-sig"))
    except (OSError, ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None

"""Tokenizer, special tokens, template and stop tokens of a folder against those of the training and of the base."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...core.files import json_mapping
from .names import parse
from .trained import TOKENS, Trained, differences, template_of, token_text

_LIMIT = 256 << 20


def token_facts(
    folder: Path, base: Path | None, found: Mapping[str, Any], trained: Trained | None = None
) -> dict[str, Any]:
    """Facts of tokens; unknown where a side is missing.

    Args:
        base: the base's folder, as far as it is here.
        trained: what is known of the training's tokenizer.
    """
    rows, base_rows = _rows(folder), _base_rows(base, found.get("base"))
    facts: dict[str, Any] = {"tokenizer_rows": rows, "base_rows": base_rows}
    if found.get("kind") == "adapter" and rows is not None and base_rows is not None:
        facts |= _new_rows(folder, rows, base_rows, base)
    if trained is not None and trained.source is not None:
        facts["training_source"] = trained.source
        facts["training_differences"] = differences(trained, folder, base)
    facts["stops_missing"] = _stops_missing(folder, base, found, trained)
    if base is None:
        return facts
    own, others = _object(folder / "tokenizer_config.json"), _object(base / "tokenizer_config.json")
    if own is not None and others is not None:
        facts["special_tokens_differ"] = [
            f"{name} is {token_text(own.get(name))!r} here and {token_text(others.get(name))!r} in the base"
            for name in TOKENS
            if token_text(own.get(name)) != token_text(others.get(name))
            and not (name == "pad_token" and others.get(name) is None)
        ]
        templates = template_of(folder, own)[0], template_of(base, others)[0]
        facts["template_differs"] = None if None in templates else templates[0] != templates[1]
    return facts


def _stops_missing(
    folder: Path, base: Path | None, found: Mapping[str, Any], trained: Trained | None
) -> list[str] | None:
    """Stop tokens of the training that generation does not know, where the training has others than the base.

    An adapter is served with the generation config of its base; a merged model with its own.
    """
    place = folder if found.get("kind") == "merged" else base
    stops = _stop_ids(place) if place is not None else None
    if stops is None or place is None:
        return None
    then = trained.tokenizer if trained is not None else None
    if then is not None and then.stop_ids:
        return [f"id {each}" for each in then.stop_ids if each not in stops]
    own = _object(folder / "tokenizer_config.json")
    token = (then.special_tokens.get("eos_token") if then is not None else None) or token_text(
        (own or {}).get("eos_token")
    )
    bases = _object(base / "tokenizer_config.json") if base is not None else None
    if token is None or (base is not None and bases is None):
        return None
    if bases is not None and token_text(bases.get("eos_token")) == token:
        return []
    number = next((each for at in (folder, base) if at is not None and (each := _id_of(at, token)) is not None), None)
    return None if number is None else [] if number in stops else [f"{token} (id {number})"]


def _stop_ids(folder: Path) -> list[int] | None:
    """eos_token_id of the generation config, or of the model's own config where it has none; None without both."""
    for name in ("generation_config.json", "config.json"):
        stops = (_object(folder / name) or {}).get("eos_token_id")
        ids = [each for each in (stops if isinstance(stops, list) else [stops]) if isinstance(each, int)]
        if ids:
            return ids
    return None


def _id_of(folder: Path, token: str) -> int | None:
    document = _object(folder / "tokenizer.json") or {}
    for each in document.get("added_tokens") or []:
        if isinstance(each, dict) and each.get("content") == token and isinstance(each.get("id"), int):
            return int(each["id"])
    model = document.get("model")
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    number = vocabulary.get(token) if isinstance(vocabulary, dict) else None
    return number if isinstance(number, int) else None


def _rows(folder: Path) -> int | None:
    """The rows that the tokenizer's ids need: the largest id of vocabulary and added tokens, plus one."""
    document = _object(folder / "tokenizer.json")
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


def _new_rows(folder: Path, rows: int, base_rows: int, base: Path | None) -> dict[str, Any]:
    """Whether what tokens beyond the base's rows need is stored: their embeddings, and the head's rows beside them."""
    from ...core.errors import StageError
    from ..config.stored_adapter import WEIGHTS
    from ..load.checkpoint import read_header

    if rows <= base_rows:
        return {"embeddings_missing": False, "head_rows_missing": False}
    try:
        tensors = read_header(folder / WEIGHTS)
    except StageError:
        return {"embeddings_missing": False}  # reported elsewhere
    embeds = [(name, parts) for name in tensors if (parts := parse(name)) is not None and _embeds(parts.module)]
    whole = [
        tensors[name].shape[0] for name, parts in embeds if parts.part == "saved" and len(tensors[name].shape) == 2
    ]
    tied = (_object(base / "config.json") or {}).get("tie_word_embeddings") if base is not None else None
    heads = any(name is not None and name.module.rpartition(".")[2] in _HEADS for name in map(parse, tensors))
    return {
        "embedding_rows": max(whole, default=None),
        "embeddings_missing": (not whole and not embeds) or (bool(whole) and max(whole) < rows),
        "head_rows_missing": None if tied is None else bool(whole) and tied is False and not heads,
    }


_HEADS = ("lm_head", "embed_out", "output_layer", "output")


def _embeds(module: str) -> bool:
    last = module.rpartition(".")[2]
    return ("embed" in module or last in ("wte", "shared")) and last not in _HEADS


def _object(path: Path) -> dict[str, Any] | None:
    return json_mapping(path, _LIMIT)

"""A trainer's YAML → its rows with their conditions compiled; each name in them must be a key of the trainer's."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any

import yaml

from ...language.closed import closed
from ...language.compiling import compile_expression
from ...language.fields import LanguageError
from ..keys import key_list
from .rows import COMPILED, TRAINERS, digest_of, file_of

_ROW = {"id", "kind", "key", "about", "machine", "when", "note", "fails"}


@lru_cache
def source(trainer: str) -> dict[str, Any]:
    """The file as it is written."""
    written: dict[str, Any] = yaml.safe_load(file_of(trainer).read_text(encoding="utf-8"))
    return written


def compiled(trainer: str) -> dict[str, Any]:
    """The catalogue as plain JSON.

    Raises:
        LanguageError: a condition cannot be read, or names what is neither a key of the trainer's nor a further name.
    """
    written = source(trainer)
    known = key_list(trainer)
    keys = {*known.names, *known.removed, *written.get("more_keys", ())}
    further = {*written["names"], *written["computed"]}
    if clash := further & keys:
        raise LanguageError(f"{trainer}: {sorted(clash)} are keys of the file; name it otherwise.")
    scope = dict.fromkeys(keys | further, Any)
    names = {name: _code(f"{trainer}: {name}", text, scope) for name, text in written["names"].items()}
    rows = []
    for row in written["refusals"]:
        if strange := row.keys() - _ROW:
            raise LanguageError(f"{row['id']}: a row has no {sorted(strange)}.")
        code = closed(_code(row["id"], row["when"], scope), names)
        told = {key: row[key] for key in ("id", "kind", "key", "when", "note")}
        rows.append({**told, "about": row.get("about", "trainer"), "machine": row.get("machine"), "code": code})
    return {
        "digest": digest_of(file_of(trainer).read_bytes()),
        "point_at": written["point_at"],
        "computed": list(written["computed"]),
        "rows": rows,
    }


def _code(what: str, text: str, scope: dict[str, Any]) -> list[Any]:
    try:
        return compile_expression(text, scope)
    except LanguageError as error:
        raise LanguageError(f"{what}: {error}") from error


def write_compiled() -> None:
    """Write ``compiled.json`` again."""
    lines = [f"{json.dumps(trainer)}: {json.dumps(compiled(trainer), separators=(',', ':'))}" for trainer in TRAINERS]
    COMPILED.write_text("{" + ",\n".join(lines) + "}\n", encoding="utf-8")

"""Samples as AutoTrain's trainers of text form them (0.8.37: ``trainers/clm/utils.py``, ``train_clm_sft.py``,
``train_clm_default.py``): one column, of text or of messages.

All of it is trained, and texts are joined to blocks, so that nothing is cut. With chatml and zephyr, which give the
tokenizer other special tokens, no tokens are shown.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import Any

from ...setup.setup import NamedData
from .chat import chat_text, lost_content
from .kinds import CannotForm, FormedRow, FormedSet, NotFollowedForm

_TEMPLATES = ("tokenizer", "chatml", "zephyr")


def settings_of(named: NamedData) -> dict[str, Any]:
    """What the file says, under one name whether it is the YAML or the record beside an adapter."""
    said = {str(name).rpartition(".")[2]: value for name, value in named.settings.items()}
    columns = said.pop("column_mapping", None)
    said.update(columns if isinstance(columns, Mapping) else {})
    trainer = str(said.get("task") or f"llm-{said.get('trainer', 'default')}").replace(":", "-")
    return {"text_column": "text", "add_eos_token": True, **said, "kind": trainer.partition("-")[2] or "default"}


def form(
    named: NamedData, rows: list[tuple[int | None, dict[str, Any]]], told: FormedSet, tokenizer: Any
) -> list[FormedRow]:
    """The rows of one data set; see ``axolotl.form``."""
    settings = settings_of(named)
    if settings["kind"] not in ("sft", "default", "generic"):
        raise NotFollowedForm(f"AutoTrain's samples of {settings['kind']} are not followed.")
    column, template = str(settings["text_column"]), settings.get("chat_template")
    told.form = f"text_column {column}" + (f" through {template}" if template in _TEMPLATES else "")
    told.read.add(column)
    if column not in told.columns:
        raise CannotForm(f"AutoTrain reads the column {column!r}; there are {', '.join(told.columns)}.")
    return [_row(number, row.get(column), settings, template, tokenizer) for number, row in rows]


def _row(number: int | None, value: Any, settings: Mapping[str, Any], template: Any, tokenizer: Any) -> FormedRow:
    messages, text = None, value
    if template in _TEMPLATES:
        messages, text = _messages(value), None
        if tokenizer is not None and template == "tokenizer":
            text = chat_text(tokenizer, messages, None, None)
    elif isinstance(value, list):
        raise CannotForm(
            "the text column holds messages, and chat_template is none: AutoTrain hands them to the tokenizer as text."
        )
    answer = "\n".join(str(turn.get("content")) for turn in messages or () if turn.get("role") == "assistant")
    asked = "\n".join(str(turn.get("content")) for turn in messages or () if turn.get("role") != "assistant")
    whole = str(text if messages is None and text is not None else "")
    formed = FormedRow(
        0, number, teaches=bool(whole.strip() or messages), prompt=asked, answer=answer if messages else whole,
        identity=repr(value), messages=[dict(turn) for turn in messages] if messages else None,
    )  # fmt: skip
    if tokenizer is not None and isinstance(text, str):
        formed.ids = list(tokenizer(text)["input_ids"])
        joined = settings["kind"] == "sft"  # trl's packing puts the end token between two texts
        if joined or (settings["add_eos_token"] and settings["kind"] in ("default", "generic")):
            formed.ids += [tokenizer.eos_token_id] if tokenizer.eos_token_id is not None else []
        formed.labels = list(formed.ids)
        formed.lost = lost_content(text, messages) if messages else None
    return formed


def _messages(value: Any) -> list[dict[str, Any]]:
    if isinstance(value, str):
        try:
            value = ast.literal_eval(value)
        except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
            raise CannotForm(f"the text column is no list of messages: {error}.") from error
    if not isinstance(value, list) or not all(isinstance(turn, dict) and "role" in turn for turn in value):
        raise CannotForm("the text column is no list of messages with role and content.")
    return value

"""Samples as ms-swift forms them (4.x: ``swift/dataset/preprocessor/core.py``, ``swift/template``).

Its templates are held against each model's own, so the model's own is taken here. The loss is on the assistant's turns.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ...core.labels import IGNORED
from ...setup.setup import NamedData
from .chat import lost_content, render_chat, turn_span
from .kinds import CannotForm, FormedRow, FormedSet, NotFollowedForm

_MESSAGES = ("messages", "conversation", "conversations")
_ROLE, _CONTENT = ("role", "from"), ("content", "value")
_USER, _ANSWER = {"user", "human"}, {"assistant", "gpt", "bot"}
_OTHERS = {"system": "system", "tool": "tool", "tool_call": "assistant", "tool_response": "tool"}
QUERY = ("query", "prompt", "input", "instruction", "question", "problem")
_RESPONSE = (
    *("response", "answer", "output", "targets", "target", "answer_key", "answers", "solution", "text", "completion"),
    "content",
)
_SYSTEM = ("system", "system_prompt")


def settings_of(named: NamedData) -> dict[str, Any]:
    """What the file says, with the trainer's defaults where it is silent."""
    return {"truncation_strategy": "delete", "loss_scale": "default", **named.settings}


def prepare_tokenizer(tokenizer: Any, settings: Mapping[str, Any]) -> None:
    """Nothing is changed of it."""


def limits(settings: Mapping[str, Any]) -> tuple[int | None, str]:
    """(tokens of a row at most, what happens to a longer one)."""
    most = settings.get("max_length")
    cuts = settings["truncation_strategy"] in ("left", "right", "split")
    return (int(most) if isinstance(most, int) else None), "cut" if cuts else "drop"


def form(
    named: NamedData, rows: list[tuple[int | None, dict[str, Any]]], told: FormedSet, tokenizer: Any
) -> list[FormedRow]:
    """The rows of one data set; see ``axolotl.form``."""
    settings = settings_of(named)
    if settings.get("rlhf_type") or settings["loss_scale"] not in ("default", "last_round", "all"):
        raise NotFollowedForm("How ms-swift weighs the loss here is not followed.")
    found = []
    for number, row in rows:
        try:
            formed = _row(row, told, settings, tokenizer)
        except CannotForm as error:
            raise CannotForm(f"Row {number + 1 if number is not None else '?'}: {error}") from error
        formed.number = number
        found.append(formed)
    if told.form == "messages":
        told.roles_trained = ["assistant"]
        if not _ANSWER & told.roles.keys():
            told.asked_roles_missing = ["assistant"]
    return found


def _row(row: Mapping[str, Any], told: FormedSet, settings: Mapping[str, Any], tokenizer: Any) -> FormedRow:
    if row.get("images") or row.get("videos") or row.get("audios"):
        raise NotFollowedForm("Rows with images, video or audio go through the model's processor.")
    messages = _conversation(row, told)
    system = next((str(row[name]) for name in _SYSTEM if row.get(name)), settings.get("system"))
    told.read.update(name for name in _SYSTEM if name in row)
    if system and messages[0]["role"] != "system":
        messages.insert(0, {"role": "system", "content": system})
    how = settings["loss_scale"]
    trains = [how == "all" or message["role"] == "assistant" for message in messages]
    if how == "last_round":
        last = max((i for i, message in enumerate(messages) if message["role"] == "assistant"), default=-1)
        trains = [index == last for index in range(len(messages))]
    answer = "\n".join(m["content"] for m, yes in zip(messages, trains, strict=True) if yes)
    asked = "\n".join(m["content"] for m, yes in zip(messages, trains, strict=True) if not yes)
    formed = FormedRow(
        0, None, teaches=bool(answer.strip()), prompt=asked, answer=answer, identity=json.dumps(messages),
        messages=[dict(each) for each in messages], tools=row.get("tools"),
    )  # fmt: skip
    if tokenizer is not None:
        rendered = render_chat(tokenizer, messages, None, None)
        formed.ids = rendered.ids
        formed.labels = [IGNORED] * len(rendered.ids)
        formed.lost = lost_content(rendered.text, messages)
        for index, trained in enumerate(trains):
            span = turn_span(tokenizer, rendered, messages, index, None, None) if trained else None
            if span is None:
                continue
            start, end = span
            ends = {tokenizer.eos_token_id, *_end_marks(tokenizer)}
            stop = end + 1 if end < len(rendered.ids) and rendered.ids[end] in ends else end
            formed.labels[start:stop] = rendered.ids[start:stop]
    return formed


def _conversation(row: Mapping[str, Any], told: FormedSet) -> list[dict[str, str]]:
    column = next((name for name in _MESSAGES if isinstance(row.get(name), list)), None)
    if column is None:
        return _pair(row, told)
    told.form, turns = "messages", row[column]
    told.read.add(column)
    messages = []
    for turn in turns:
        role = next((turn[name] for name in _ROLE if isinstance(turn, dict) and name in turn), None)
        content = next((turn[name] for name in _CONTENT if isinstance(turn, dict) and name in turn), None)
        if role is None or not isinstance(content, str):
            raise CannotForm(f"a message of {column} has no role or no text.")
        told.roles[str(role)] = told.roles.get(str(role), 0) + 1
        known = "user" if role in _USER else "assistant" if role in _ANSWER else _OTHERS.get(str(role))
        if known is None:
            told.roles_unknown[str(role)] = told.roles_unknown.get(str(role), 0) + 1
        messages.append({"role": known or str(role), "content": content})
    if not messages:
        raise CannotForm(f"{column} is empty.")
    return messages


def _pair(row: Mapping[str, Any], told: FormedSet) -> list[dict[str, str]]:
    if "instruction" in row and "output" in row:
        told.form = "alpaca"
        told.read |= {"instruction", "input", "output"}
        asked = "\n".join(str(row[name]) for name in ("instruction", "input") if row.get(name))
        return [{"role": "user", "content": asked}, {"role": "assistant", "content": str(row["output"] or "")}]
    query = next((name for name in QUERY if isinstance(row.get(name), str)), None)
    response = next((name for name in _RESPONSE if isinstance(row.get(name), str)), None)
    if response is None:
        raise CannotForm(f"there is neither messages nor a query and a response; there are {', '.join(row)}.")
    told.form = "query and response"
    told.read |= {name for name in (query, response) if name}
    asked = str(row[query]) if query else ""
    return [{"role": "user", "content": asked}, {"role": "assistant", "content": str(row[response])}]


def _end_marks(tokenizer: Any) -> list[int]:
    """Tokens that end a turn in the usual templates, as far as the vocabulary has them."""
    vocabulary = tokenizer.get_vocab()
    return [vocabulary[mark] for mark in ("<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<|end|>") if mark in vocabulary]

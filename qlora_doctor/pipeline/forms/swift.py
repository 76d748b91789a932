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

MESSAGES = ("messages", "conversation", "conversations")
ROLE, CONTENT = ("role", "from"), ("content", "value")
_USER, ANSWER = {"user", "human"}, {"assistant", "gpt", "bot"}
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
    if any(_has_tools(row) for _, row in rows):
        tokenizer = None  # how these are written is not followed; what needs no tokens is told all the same
    for number, row in rows:
        try:
            formed = _row(row, told, settings, tokenizer)
        except CannotForm as error:
            raise CannotForm(f"Row {number + 1 if number is not None else '?'}: {error}") from error
        formed.number = number
        found.append(formed)
    if told.form == "messages":
        told.roles_trained = ["assistant"]
        if not ANSWER & told.roles.keys():
            told.asked_roles_missing = ["assistant"]
    return found


def of_turn(turn: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    """What a turn has under the first of these names."""
    return next((turn[name] for name in names if name in turn), None)


def _has_tools(row: Mapping[str, Any]) -> bool:
    turns: list[Any] = next((row[name] for name in MESSAGES if isinstance(row.get(name), list)), [])
    roles = [of_turn(turn, ROLE) for turn in turns if isinstance(turn, dict)]
    return bool(row.get("tools")) or any(role in ("tool", "tool_call", "tool_response") for role in roles)


def _row(row: Mapping[str, Any], told: FormedSet, settings: Mapping[str, Any], tokenizer: Any) -> FormedRow:
    if row.get("images") or row.get("videos") or row.get("audios"):
        raise NotFollowedForm("Rows with images, video or audio go through the model's processor.")
    messages = _conversation(row, told)
    system = next((str(row[name]) for name in _SYSTEM if row.get(name)), settings.get("system"))
    told.read.update(name for name in _SYSTEM if name in row)
    if system and messages[0]["role"] != "system":
        messages.insert(0, {"role": "system", "content": system})
    how = settings["loss_scale"]
    marked = [message.pop("loss", None) for message in messages]
    trains = [how == "all" or message["role"] == "assistant" for message in messages]
    if how == "last_round":
        last = max((i for i, message in enumerate(messages) if message["role"] == "assistant"), default=-1)
        trains = [index == last for index in range(len(messages))]
    trains = [yes if loss is None else bool(loss) for yes, loss in zip(trains, marked, strict=True)]
    answer = "\n".join(m["content"] for m, yes in zip(messages, trains, strict=True) if yes)
    asked = "\n".join(m["content"] for m, yes in zip(messages, trains, strict=True) if not yes)
    late = any(message["role"] == "system" for message in messages[1:])
    formed = FormedRow(
        0, None, teaches=bool(answer.strip()), prompt=asked, answer=answer, identity=json.dumps(messages),
        dropped="a role out of turn" if late else None,
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
            # The newline behind these marks is a part of what ends an answer (``suffix`` of its templates).
            following = rendered.ids[stop : stop + 1]
            if stop > end and tokenizer.decode(rendered.ids[end:stop]) in _WITH_NEWLINE and following:
                stop += tokenizer.decode(following) == "\n"
            formed.labels[start:stop] = rendered.ids[start:stop]
    return formed


def _conversation(row: Mapping[str, Any], told: FormedSet) -> list[dict[str, Any]]:
    column = next((name for name in MESSAGES if isinstance(row.get(name), list)), None)
    if column is None:
        return _pair(row, told)
    told.form, turns = "messages", row[column]
    told.read.add(column)
    messages: list[dict[str, Any]] = []
    for turn in turns:
        role, content = (of_turn(turn, names) if isinstance(turn, dict) else None for names in (ROLE, CONTENT))
        if role is None or not isinstance(content, str):
            raise CannotForm(f"a message of {column} has no role or no text.")
        told.roles[str(role)] = told.roles.get(str(role), 0) + 1
        known = "user" if role in _USER else "assistant" if role in ANSWER else _OTHERS.get(str(role))
        if known is None:
            told.roles_unknown[str(role)] = told.roles_unknown.get(str(role), 0) + 1
        role, loss = known or str(role), turn.get("loss")
        if messages and messages[-1]["role"] == role and role in ("user", "assistant"):
            messages[-1]["content"] += content
            continue
        messages.append({"role": role, "content": content, **({} if loss is None else {"loss": loss})})
    if not messages:
        raise CannotForm(f"{column} is empty.")
    return messages


def _pair(row: Mapping[str, Any], told: FormedSet) -> list[dict[str, Any]]:
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
    turns = [*_history(row, told), (asked, row[response])]
    return [
        {"role": role, "content": str(text)}
        for turn in turns
        for role, text in zip(("user", "assistant"), turn, strict=True)
    ]


def _history(row: Mapping[str, Any], told: FormedSet) -> list[tuple[str, str]]:
    """Earlier questions with their answers."""
    written = row.get("history")
    if written is None:
        return []
    told.read.add("history")
    try:
        found = json.loads(written) if isinstance(written, str) and written else written or []
        return [(str(asked), str(answer)) for asked, answer in found]
    except (TypeError, ValueError) as error:
        raise CannotForm("history is no list of questions with their answers.") from error


_WITH_NEWLINE = ("<|im_end|>", "<end_of_turn>")


def _end_marks(tokenizer: Any) -> list[int]:
    """Tokens that end a turn in the usual templates, as far as the vocabulary has them."""
    vocabulary = tokenizer.get_vocab()
    return [vocabulary[mark] for mark in ("<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<|end|>") if mark in vocabulary]

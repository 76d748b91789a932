"""Samples as ms-swift forms them (4.6: ``swift/dataset/preprocessor/core.py``): the messages of a row.

Their text, tokens and labels are of ``swift_template``. Where these are not followed, what needs no tokens is told all
the same.
"""

from __future__ import annotations

import ast
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ...core.labels import IGNORED
from ...setup.setup import NamedData
from .chat import lost_content
from .kinds import CannotForm, FormedRow, FormedSet, NotFollowedForm
from .swift_template import Encoder, Refused, encoder_of, last_question

MESSAGES = ("messages", "conversation", "conversations")
ROLE, CONTENT = ("role", "from"), ("content", "value")
ANSWER = {"assistant", "gpt", "bot"}
QUERY = ("query", "prompt", "input", "instruction", "question", "problem")
_RESPONSE = (
    *("response", "answer", "output", "targets", "target", "answer_key", "answers", "solution", "text", "completion"),
    "content",
)
_SYSTEM = ("system", "system_prompt")
_ROLES = {
    **dict.fromkeys(("user", "human"), "user"), **dict.fromkeys(ANSWER, "assistant"), "system": "system",
    **dict.fromkeys(("tool_call", "function_call"), "tool_call"),
    **dict.fromkeys(("tool", "tool_response", "function_response", "observation", "observations"), "tool"),
}  # fmt: skip
_DROPPED = ("reasoning_content", "thinking")
"""Keys of a message that ms-swift leaves out."""
_MEDIA = ("image", "images", "video", "videos", "audio", "audios")


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
    if settings.get("rlhf_type"):
        raise NotFollowedForm("How ms-swift weighs the loss here is not followed.")
    names = _renamed(told.columns or list(rows[0][1] if rows else ()), settings.get("columns"))
    made, encoder = [], None
    for number, row in rows:
        try:
            made.append(
                (number, row, _messages({names.get(key, key): value for key, value in row.items()}, told, names))
            )
        except CannotForm as error:
            raise CannotForm(f"Row {number + 1 if number is not None else '?'}: {error}") from error
    found = [_told(number, row, messages, settings) for number, row, messages in made]
    if tokenizer is not None:
        try:
            encoder = encoder_of(settings, tokenizer)
            for formed, (_, row, messages) in zip(found, made, strict=True):
                _encode(formed, row, messages, encoder)
        except NotFollowedForm as why:
            told.tokens_unseen = str(why)
            for formed in found:
                formed.ids, formed.labels, formed.lost = [], [], None
    if told.form == "messages":
        told.roles_trained = ["assistant"]
        if not ANSWER & told.roles.keys():
            told.asked_roles_missing = ["assistant"]
    return [part for formed in found for part in _cut(formed, settings)]


def _renamed(columns: Sequence[str], asked: Any) -> dict[str, str]:
    """Column → the name that it gets, first by the file's ``columns``, then by what ms-swift knows.

    Where two columns would get one name none of them does.
    """
    names = dict(asked) if isinstance(asked, Mapping) else {}
    if isinstance(asked, str):
        names = json.loads(asked)
    found = {column: str(names.get(column, column)) for column in columns}
    here = set(found.values())
    known = dict.fromkeys(_SYSTEM, "system")
    if here & set(MESSAGES):
        known |= dict.fromkeys(MESSAGES, "messages")
    else:
        queries = [
            name for name in QUERY if not ({"instruction", "input"} <= here and name in ("instruction", "input"))
        ]
        known |= dict.fromkeys(queries, "query") | dict.fromkeys(_RESPONSE, "response")
        if {"instruction", "input"} <= here and "output" in here:
            known.pop("output")
    wanted = {column: known.get(name.lower(), name) for column, name in found.items()}
    taken = Counter(wanted.values())
    return {column: wanted[column] if taken[wanted[column]] == 1 else name for column, name in found.items()}


def _messages(row: Mapping[str, Any], told: FormedSet, names: Mapping[str, str]) -> list[dict[str, Any]] | None:
    """The messages of a row whose columns have their names; None where ms-swift leaves it out.

    Raises:
        CannotForm: none of its rows is of a form that ms-swift has.
    """
    written = {name: column for column, name in names.items()}
    told.read.update(written[name] for name in ("system", "tools", *_MEDIA) if name in written)
    if any(name in row for name in MESSAGES):
        return _conversation(row, told, written)
    return _pair(row, told, written)


def _conversation(row: Mapping[str, Any], told: FormedSet, written: Mapping[str, str]) -> list[dict[str, Any]] | None:
    told.form = "messages"
    told.read.add(written.get("messages", "messages"))
    turns = row.get("messages")
    if isinstance(turns, str):
        try:
            turns = json.loads(turns)
        except ValueError:
            return None
    if not isinstance(turns, list) or not turns or not all(isinstance(turn, Mapping) for turn in turns):
        return None
    turns = [dict(turn) for turn in turns]
    system = row.get("system")
    found: list[dict[str, Any]] = [] if system is None else [{"role": "system", "content": system}]
    if not {"role", "from", "content", "value"} & turns[0].keys():
        for turn in turns:
            for role, keys in (("user", ("user", "human")), ("assistant", ("assistant", "gpt", "bot"))):
                key = next((key for key in keys if turn.get(key) is not None), None)
                if key is None:
                    return None
                told.roles[key] = told.roles.get(key, 0) + 1
                found.append({"role": role, "content": turn[key]})
        return found
    if of_turn(turns[0], ROLE) == "system":
        found = []
    roles = [str(of_turn(turn, ROLE)) for turn in turns]
    unknown = [role for role in roles if role.replace("-", "_") not in _ROLES]
    told.roles.update(Counter(told.roles) + Counter(roles))
    told.roles_unknown.update(Counter(told.roles_unknown) + Counter(unknown))
    if unknown:
        return None
    for turn, role in zip(turns, roles, strict=True):
        content, calls = of_turn(turn, CONTENT), turn.get("tool_calls")
        known = _ROLES[role.replace("-", "_")]
        marked = {key: turn[key] for key in ("loss", "loss_scale", *_DROPPED) if turn.get(key) is not None}
        if isinstance(content, list) and all(isinstance(part, Mapping) for part in content):
            if any(part.get("type") != "text" for part in content):
                found.append({"role": known, "content": "", "media": True})
                continue
            content = "".join(str(part.get("text") or "") for part in content)
        if content or not calls:
            if content is None or (not isinstance(content, str) and known not in ("tool", "tool_call")):
                return None
            text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
            found.append({"role": known, "content": text, **marked})
        for call in calls or ():
            function = call.get("function") or call
            said = {"name": function.get("name"), "arguments": function.get("arguments", {})}
            found.append({"role": "tool_call", "content": said, **marked})
    return found


def of_turn(turn: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    """What a turn has under the first of these names."""
    return next((turn[name] for name in names if name in turn), None)


def _pair(row: Mapping[str, Any], told: FormedSet, written: Mapping[str, str]) -> list[dict[str, Any]] | None:
    asked, answer, system = row.get("query"), row.get("response"), row.get("system")
    told.form = "query and response"
    if "instruction" in row and "input" in row:
        told.form = "alpaca"
        one, two = row.get("instruction"), row.get("input")
        asked, answer = (f"{one}\n{two}" if one and two else one or two), row.get("output", answer)
        told.read |= {written.get(name, name) for name in ("instruction", "input", "output") if name in row}
    if not {"query", "response", "instruction", "output"} & row.keys():
        raise CannotForm(
            f"there is neither messages nor a query and a response; there are {', '.join(written.values())}."
        )
    told.read |= {written[name] for name in ("query", "response", "history") if name in written}
    answer = answer[0] if isinstance(answer, list) and answer else answer
    try:
        history = row.get("history") or []
        turns = [*(ast.literal_eval(history) if isinstance(history, str) else history), (asked, answer)]
        found = [
            {"role": role, "content": text}
            for turn in turns
            for role, text in zip(("user", "assistant"), turn, strict=True)
            if text is not None
        ]
    except (TypeError, ValueError, SyntaxError):
        return None
    if not all(isinstance(each["content"], str) for each in found):
        return None
    return [*([] if system is None else [{"role": "system", "content": str(system)}]), *found]


def _told(
    number: int | None, row: Mapping[str, Any], messages: list[dict[str, Any]] | None, settings: Mapping[str, Any]
) -> FormedRow:
    """What is known of a row without its tokens."""
    if not messages:
        return FormedRow(
            0, number, teaches=False, dropped="it does not take the row", identity=json.dumps(row, default=str)
        )
    merged: list[dict[str, Any]] = []
    for message in messages:
        role, content = message["role"], message["content"]
        text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
        if merged and merged[-1]["role"] == role and role in ("user", "assistant"):
            merged[-1]["content"] += text
            continue
        merged.append({"role": role, "content": text, "loss": message.get("loss")})
    strategy = str(settings["loss_scale"]).split("+")[0]
    asked = last_question(merged)
    answer: list[str] = []
    prompt: list[str] = []
    for place, each in enumerate(merged):
        loss = each.pop("loss")
        of_answer = each["role"] in ("assistant", "tool_call") and (strategy != "last_round" or place > asked)
        (answer if loss or (loss is None and (strategy == "all" or of_answer)) else prompt).append(each["content"])
    late = any(each["role"] == "system" for each in merged[1:])
    return FormedRow(
        0, number, teaches=bool("\n".join(answer).strip()), prompt="\n".join(prompt), answer="\n".join(answer),
        identity=json.dumps([merged, row.get("tools")], default=str), dropped="a role out of turn" if late else None,
        messages=merged, tools=row.get("tools"),
    )  # fmt: skip


def _encode(formed: FormedRow, row: Mapping[str, Any], messages: list[dict[str, Any]] | None, encoder: Encoder) -> None:
    """Its tokens and labels; the messages are changed."""
    if not messages or formed.dropped is not None:
        return
    if any(row.get(name) for name in _MEDIA) or any(each.get("media") for each in messages):
        raise NotFollowedForm("Rows with images, video or audio go through the model's processor.")
    if row.get("chat_template_kwargs"):
        raise NotFollowedForm("Rows with chat_template_kwargs of their own are not followed.")
    plain = [dict(each) for each in messages if each["role"] != "tool_call"]
    try:
        formed.ids, formed.labels, text = encoder.encode(messages, row.get("tools"))
    except Refused as why:
        formed.dropped = str(why)
        return
    formed.lost = lost_content(text, plain)


def _cut(formed: FormedRow, settings: Mapping[str, Any]) -> list[FormedRow]:
    """A row that is too long, cut from the left or in pieces where the file says so; the rest is cut as everywhere."""
    limit, how = limits(settings)[0], settings["truncation_strategy"]
    if limit is None or len(formed.ids) <= limit or how not in ("left", "split"):
        return [formed]
    starts = [len(formed.ids) - limit] if how == "left" else range(0, len(formed.ids), limit)
    found = []
    for start in starts:
        ids, labels = formed.ids[start : start + limit], formed.labels[start : start + limit]
        lost = formed.ids[:start] if how == "left" else []
        loses = how == "left" and any(label != IGNORED for label in formed.labels[:start])
        length = len(formed.ids) if how == "left" else len(ids)
        found.append(replace(formed, ids=ids, labels=[IGNORED, *labels[1:]], cut=lost, loses=loses, length=length))
    return found

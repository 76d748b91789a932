"""Samples as torchtune's builders of data sets form them (0.6: ``torchtune/datasets``, ``data/_messages.py``).

Its tokenizers are its own and write marks of their own, so tokens are left out; the rest is reported: which columns
are read, which messages are trained, and at which rows it stops.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from ...setup.setup import NamedData
from .kinds import CannotForm, FormedRow, FormedSet, NotFollowedForm, lacks

_SHAREGPT = {"system": "system", "human": "user", "gpt": "assistant"}
_Turns = list[dict[str, str]]


def settings_of(named: NamedData) -> dict[str, Any]:
    """What the entry says, with the builder's defaults."""
    builder = str(named.settings.get("_component_", "")).rpartition(".")[2]
    return {"train_on_input": builder.startswith("alpaca"), **named.settings, "builder": builder}


def form(
    named: NamedData, rows: list[tuple[int | None, dict[str, Any]]], told: FormedSet, tokenizer: Any
) -> list[FormedRow]:
    """The rows of one data set; see ``axolotl.form``."""
    settings = settings_of(named)
    make = _maker(settings, told)
    told.form = str(settings["builder"])
    found = []
    for number, row in rows:
        where = f"Row {number + 1}" if number is not None else "A row"
        try:
            turns = make(row)
        except (KeyError, TypeError, AttributeError) as error:
            columns = ", ".join(row)
            raise CannotForm(
                f"{where} is none of torchtune's {told.form}: {lacks(error)}; its columns are {columns}."
            ) from error
        if told.form != "text_completion_dataset":
            problem = _invalid(turns)
            if problem is not None:
                raise CannotForm(f"{where}: torchtune stops, {problem}.")
        for turn in turns:
            told.roles[turn["role"]] = told.roles.get(turn["role"], 0) + 1
        found.append(_row(number, turns, bool(settings["train_on_input"]), row))
    if not settings["train_on_input"]:
        told.roles_trained = ["assistant"]
    return found


def _maker(settings: Mapping[str, Any], told: FormedSet) -> Callable[[Mapping[str, Any]], _Turns]:
    builder, mapped = settings["builder"], settings.get("column_map")
    names = dict(mapped) if isinstance(mapped, Mapping) else {}
    system = settings.get("new_system_prompt")
    first: _Turns = [{"role": "system", "content": str(system)}] if system else []
    if builder == "chat_dataset":
        column, style = str(settings.get("conversation_column")), str(settings.get("conversation_style"))
        if style not in ("sharegpt", "openai"):
            raise CannotForm(f"torchtune knows the conversation styles sharegpt and openai, and not {style}.")
        told.read.add(column)
        role, content = ("from", "value") if style == "sharegpt" else ("role", "content")

        def talk(row: Mapping[str, Any]) -> _Turns:
            turns = [
                {"role": _SHAREGPT[turn[role]] if style == "sharegpt" else turn[role], "content": str(turn[content])}
                for turn in row[column]
            ]
            return [*first, *(turn for turn in turns if not first or turn["role"] != "system")]

        return talk
    if builder == "instruct_dataset":
        asked, answered = names.get("input", "input"), names.get("output", "output")
        told.read |= {asked, answered}
        return lambda row: [*first, *_pair(row[asked], row[answered])]
    if builder in ("alpaca_dataset", "alpaca_cleaned_dataset"):
        one, two, three = (names.get(name, name) for name in ("instruction", "input", "output"))
        told.read |= {one, two, three}
        return lambda row: _pair("\n".join(str(each) for each in (row[one], row.get(two)) if each), row[three])
    if builder == "text_completion_dataset":
        text = str(settings.get("column", "text"))
        told.read.add(text)
        return lambda row: [{"role": "assistant", "content": str(row[text])}]
    raise NotFollowedForm(f"torchtune's {builder} forms the samples by code of its own.")


def _pair(asked: Any, answered: Any) -> _Turns:
    return [{"role": "user", "content": str(asked)}, {"role": "assistant", "content": str(answered)}]


def _invalid(turns: _Turns) -> str | None:
    """At which conversations torchtune stops (``validate_messages``)."""
    if len(turns) < 2:
        return f"for a conversation has two messages at least and this one has {len(turns)}"
    last = "assistant"
    for place, turn in enumerate(turns):
        role = turn["role"]
        if role == "assistant" and last not in ("user", "tool", "ipython"):
            return f"for message {place + 1} is an answer to no question"
        if role == "user" and last == "user":
            return f"for messages {place} and {place + 1} are both of the user"
        if role == "system" and place > 0:
            return f"for message {place + 1} is of the system, which comes first"
        last = role
    return None


def _row(number: int | None, turns: _Turns, trains_all: bool, row: Mapping[str, Any]) -> FormedRow:
    answer = "\n".join(turn["content"] for turn in turns if turn["role"] == "assistant")
    asked = "\n".join(turn["content"] for turn in turns if turn["role"] != "assistant")
    return FormedRow(
        0, number, teaches=trains_all or bool(answer.strip()), prompt=asked, answer=answer,
        identity=json.dumps(turns), messages=[dict(turn) for turn in turns], tools=row.get("tools"),
    )  # fmt: skip

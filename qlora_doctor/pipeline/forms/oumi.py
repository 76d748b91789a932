"""Samples as oumi's data sets of talks form them (0.8: ``core/datasets/base_sft_dataset.py``, ``datasets/sft``).

Each row becomes a conversation that goes through the tokenizer's chat template. All of it is trained, unless the
collator masks all but the assistant's turns.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ...core.labels import IGNORED
from ...setup.setup import NamedData
from .chat import chat_text, lost_content, render_chat
from .kinds import CannotForm, FormedRow, FormedSet, NotFollowedForm, lacks, places

_COMPLETIONS = "text_completions_only_with_padding"
_TRAINERS = ("TRL_SFT", "HF", "OUMI", "None")
_ALPACA_SETS = ("tatsu-lab/alpaca", "yahma/alpaca-cleaned")
_ALPACA = (
    "Below is an instruction that describes a task{more}. Write a response that appropriately completes the request."
)
_WITH_INPUT = ", paired with an input that provides further context"


def settings_of(named: NamedData) -> dict[str, Any]:
    """What the entry and the file's top say."""
    inner = named.settings.get("dataset_kwargs")
    return {**named.settings, **(inner if isinstance(inner, Mapping) else {})}


def limits(settings: Mapping[str, Any]) -> tuple[int | None, str]:
    """(tokens of a row at most, what happens to a longer one)."""
    most = settings.get("model.model_max_length")
    return (most if isinstance(most, int) else None), "cut"


def form(
    named: NamedData, rows: list[tuple[int | None, dict[str, Any]]], told: FormedSet, tokenizer: Any
) -> list[FormedRow]:
    """The rows of one data set; see ``axolotl.form``."""
    settings = settings_of(named)
    kind = str(settings.get("dataset_name"))
    if str(settings.get("training.trainer_type")).upper().replace("NONE", "None") not in _TRAINERS:
        raise NotFollowedForm("Of oumi's trainers the samples of supervised fine-tuning are followed.")
    if settings.get("assistant_only") or settings.get("return_conversations"):
        raise NotFollowedForm("oumi's assistant_only and return_conversations are not followed.")
    make = _maker(kind, settings, rows[0][1] if rows else {}, told)
    masks = settings.get("data.train.collator_name") == _COMPLETIONS
    target = settings.get("data.train.train_target")
    written = settings.get("data.train.collator_kwargs")
    marks = {name: str(value) for name, value in (written if isinstance(written, Mapping) else {}).items() if value}
    if masks and target is None:
        target = _target(marks)
    renders = tokenizer if settings.get("model.chat_template") is None else None  # one of oumi's own, by its name
    found = []
    for number, row in rows:
        try:
            messages = make(row)
        except (KeyError, TypeError, AttributeError) as error:
            where = number + 1 if number is not None else "?"
            raise CannotForm(f"Row {where} is none of oumi's {told.form}: {lacks(error)}.") from error
        found.append(_row(number, row, messages, renders, str(target) if masks else None, marks))
    told.roles_trained = ["assistant"] if masks else None
    if masks and "assistant" not in told.roles:
        told.asked_roles_missing = ["assistant"]
    return found


def _target(marks: Mapping[str, str]) -> str:
    """What is trained where the marks of answers are written and ``train_target`` is not.

    Raises:
        NotFollowedForm: the marks of questions are written too.
        CannotForm: no mark is written.
    """
    if "response_template" not in marks:
        raise CannotForm(f"oumi's {_COMPLETIONS} wants train_target, or response_template in collator_kwargs.")
    if "end_of_turn_template" in marks:
        return "all_assistant_turns"
    if "instruction_template" in marks:
        raise NotFollowedForm("oumi's masking by instruction_template is not followed.")
    return "final_assistant_turn"


def _maker(kind: str, settings: Mapping[str, Any], first: Mapping[str, Any], told: FormedSet) -> Any:
    """What makes the messages of a row, by the name of the data set's class."""

    def listed(turns: list[Mapping[str, Any]]) -> list[dict[str, Any]]:
        for turn in turns:
            told.roles[str(turn["role"])] = told.roles.get(str(turn["role"]), 0) + 1
        return [{**turn, "role": str(turn["role"])} for turn in turns]

    def pair(asked: str, answer: Any, system: str | None = None) -> list[dict[str, Any]]:
        turns = [{"role": "system", "content": system}] if system else []
        return listed([*turns, {"role": "user", "content": asked}, {"role": "assistant", "content": str(answer)}])

    if kind in ("text_sft", "text_sft_jsonl"):
        if "messages" in first:
            told.form, column = "messages", "messages"
            told.read.add(column)
            return lambda row: listed(row[column])
        if "conversation" in first:
            told.form = "conversation"
            told.read.add("conversation")
            return lambda row: listed(row["conversation"]["messages"])
        if {"instruction", "input", "output"} <= first.keys():
            told.form = "alpaca"
            told.read |= {"instruction", "input", "output"}
            return lambda row: pair(f"{row['instruction']}\n\n{row['input']}".strip(), row["output"])
        raise CannotForm(
            "oumi's text_sft takes messages, conversation, or instruction, input and output; there are "
            f"{', '.join(first)}."
        )
    if kind == "PromptResponseDataset":
        asked = str(settings.get("prompt_column", "instruction"))
        answered = str(settings.get("response_column", "output"))
        told.form = "prompt and response"
        told.read |= {asked, answered}
        return lambda row: pair(str(row[asked]), row[answered])
    if kind == "HuggingFaceDataset":
        column = str(settings.get("messages_column", "messages"))
        told.form = "messages"
        told.read.add(column)
        return lambda row: listed(row[column])
    if kind in _ALPACA_SETS:
        told.form = "alpaca"
        told.read |= {"instruction", "input", "output"}

        def alpaca(row: Mapping[str, Any]) -> list[dict[str, Any]]:
            more = bool(row.get("input"))
            asked = f"{row['instruction']}\n\n### Input:\n{row['input']}" if more else str(row["instruction"])
            system = _ALPACA.format(more=_WITH_INPUT if more else "")
            return pair(asked, row["output"], system if settings.get("include_system_prompt", True) else None)

        return alpaca
    raise NotFollowedForm(f"oumi's data set {kind} forms the samples by code of its own.")


def _row(
    number: int | None,
    row: Mapping[str, Any],
    messages: list[dict[str, Any]],
    tokenizer: Any,
    target: str | None,
    written: Mapping[str, str],
) -> FormedRow:
    answers = [index for index, turn in enumerate(messages) if turn["role"] == "assistant"]
    told = [str(turn.get("content") or turn.get("tool_calls") or "") for turn in messages]
    answer = "\n".join(told[index] for index in answers)
    formed = FormedRow(
        0, number, teaches=bool(answer.strip()) if target else True,
        prompt="\n".join(text for index, text in enumerate(told) if index not in answers), answer=answer,
        identity=json.dumps(messages, default=str), messages=messages, tools=row.get("tools"),
    )  # fmt: skip
    if tokenizer is None:
        return formed
    rendered = render_chat(tokenizer, messages, None, row.get("tools"))
    formed.ids, formed.lost = rendered.ids, lost_content(rendered.text, messages)
    formed.labels = list(rendered.ids) if target is None else [IGNORED] * len(rendered.ids)
    for start, end in _spans(rendered.ids, target, *_marks_of(tokenizer, written)) if target is not None else ():
        formed.labels[start:end] = rendered.ids[start:end]
    return formed


_PROBE = ("<<__U__>>", "<<__A__>>")
"""Texts that are looked for in a rendered conversation, so that what stands between them is known."""


def _marks_of(tokenizer: Any, written: Mapping[str, str]) -> tuple[list[int], list[int]]:
    """The tokens of the marks as they are written, which comes first, or as the template shows them."""
    begin, end = (written.get(name) for name in ("response_template", "end_of_turn_template"))
    found = _marks(tokenizer) if begin is None else ([], [])
    encoded = [list(tokenizer.encode(text, add_special_tokens=False)) if text else None for text in (begin, end)]
    return encoded[0] or found[0], encoded[1] or found[1]


def _marks(tokenizer: Any) -> tuple[list[int], list[int]]:
    """The tokens before an answer and those behind it, as oumi finds them in a template (``builders/collators.py``):
    the end is what follows an answer in the midst of a talk and at its end alike.

    Raises:
        NotFollowedForm: they do not show.
    """
    user, answer = _PROBE
    turns = [{"role": role, "content": text} for role, text in (("user", user), ("assistant", answer))] * 2
    parts = chat_text(tokenizer, turns, None, None).replace(user, answer).split(answer)
    if len(parts) != 5:
        raise NotFollowedForm("The template changes what the messages hold.")
    head, between, after = parts[1], parts[2], parts[4]

    def encode(text: str) -> list[int]:
        return list(tokenizer.encode(text, add_special_tokens=False))

    first, second, opening = encode(after), encode(between), encode(head)
    same = next(
        (n for n, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), min(map(len, (first, second)))
    )
    end = first[:same] or second[:1]
    opening = opening[len(end) :] if opening[: len(end)] == end else opening
    begin = encode(tokenizer.decode(opening).partition("<think>")[0].rstrip("\n"))
    if not begin or not end:
        raise NotFollowedForm("The template has no marks before and after an answer.")
    return begin, end


def _spans(ids: list[int], target: str, begin: list[int], end: list[int]) -> list[tuple[int, int]]:
    """What is trained: from each mark to the end of its turn, or from the last one to the end of all."""
    starts = [place + len(begin) for place in places(ids, begin)]
    if target == "final_assistant_turn":
        return [(starts[-1], len(ids))] if starts else []
    ends = [place + len(end) for place in places(ids, end)]
    return [(start, next((stop for stop in ends if stop >= start + len(end)), len(ids))) for start in starts]

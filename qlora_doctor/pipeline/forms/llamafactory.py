"""Samples as LLaMA-Factory forms them (0.9.5: ``data/converter.py``, ``data/template.py``, ``data/processor``)."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ...core.labels import IGNORED
from ...setup.setup import NamedData
from ...tables.templates import Slot, Template, find_template
from .kinds import CannotForm, FormedRow, FormedSet, NotFollowedForm

_COLUMNS = {"prompt": "instruction", "query": "input", "response": "output", "messages": "conversations"}
_COLUMN_NAMES = (
    "prompt",
    "query",
    "response",
    "history",
    "messages",
    "system",
    "tools",
    "chosen",
    "rejected",
    "kto_tag",
)
_TAGS = {
    "role_tag": "from", "content_tag": "value", "user_tag": "human", "assistant_tag": "gpt",
    "observation_tag": "observation", "function_tag": "function_call", "system_tag": "system",
}  # fmt: skip
_MEDIA = ("images", "videos", "audios")
_SPECIAL = ("bos_token", "eos_token")
_INVALID_ROLES = "a role out of turn"
_COUNT = "no answer to its last question"


def settings_of(named: NamedData) -> dict[str, Any]:
    """What the file and the entry of dataset_info.json say, with the trainer's defaults."""
    return {"cutoff_len": 2048, "train_on_prompt": False, "mask_history": False, "stage": "sft", **named.settings}


def prepare_tokenizer(tokenizer: Any, settings: Mapping[str, Any]) -> None:
    """Make a template's first stop word the end token where it asks for that, and add what is missing."""
    template = find_template(str(settings.get("template")))
    if template is None:
        return
    stops = list(template.stop_words)
    if template.replace_eos and stops:
        first = stops.pop(0)
        if tokenizer.eos_token != first:
            tokenizer.add_special_tokens({"eos_token": first})
    if tokenizer.eos_token_id is None:
        tokenizer.add_special_tokens({"eos_token": "<|endoftext|>"})
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    if stops:
        tokenizer.add_tokens(stops, special_tokens=True)


def form(
    named: NamedData, rows: list[tuple[int | None, dict[str, Any]]], told: FormedSet, tokenizer: Any
) -> list[FormedRow]:
    """The rows of one data set; see ``axolotl.form``."""
    settings = settings_of(named)
    stage = str(settings["stage"])
    if stage not in ("sft", "pt"):
        raise NotFollowedForm(f"LLaMA-Factory's samples of stage {stage} are not followed.")
    told.form = str(settings.get("formatting") or "alpaca")
    columns = _columns(settings)
    if settings.get("ranking"):
        raise NotFollowedForm("A ranking data set is none of supervised fine-tuning.")
    # How these are written is not followed, so their tokens are left out; what needs no tokens is reported.
    written = settings.get("columns")
    media = [name for name in _MEDIA if isinstance(written, Mapping) and written.get(name)]
    told.read |= {str(written[name]) for name in media if isinstance(written, Mapping)}
    if media or _calls_tools(rows, columns, settings, told.form):
        tokenizer = None
    template = _template(settings, tokenizer) if stage == "sft" and tokenizer is not None else None
    found = []
    for number, row in rows:
        try:
            if stage == "pt":
                formed = _pretraining(row, columns, told, tokenizer, settings)
            elif told.form == "alpaca":
                formed = _finish(row, _alpaca(row, columns, told), template, settings, tokenizer)
            elif told.form in ("sharegpt", "openai"):
                read = _openai if told.form == "openai" else _sharegpt
                conversation = read(row, columns, _tags(settings, told.form), told)
                formed = _finish(row, conversation, template, settings, tokenizer)
            else:
                raise NotFollowedForm(f"LLaMA-Factory's formatting {told.form} is not followed.")
            for name in media if formed.dropped is None else ():
                _count_media(formed, row.get(str(written[name])) if isinstance(written, Mapping) else None, name)
        except CannotForm as error:
            where = f"Row {number + 1}" if number is not None else "A row"
            raise CannotForm(f"{where}: {error}") from error
        formed.number = number
        found.append(formed)
    if told.form != "alpaca" and stage == "sft":
        tags = _tags(settings, told.form)
        names = {
            value for key, value in tags.items() if key.endswith("_tag") and key not in ("role_tag", "content_tag")
        }
        told.roles_trained = [tag for tag in (tags["assistant_tag"], tags["function_tag"]) if tag]
        told.trains_all = bool(settings["train_on_prompt"])
        told.roles_unknown = {role: count for role, count in told.roles.items() if role not in names}
        if tags["assistant_tag"] not in told.roles and tags["function_tag"] not in told.roles:
            told.asked_roles_missing = [tags["assistant_tag"]]
            told.roles_trained = [tags["assistant_tag"]]
    return found


def _count_media(formed: FormedRow, given: Any, name: str) -> None:
    """Compare the marks in the messages with the files of a row, as ``mm_plugin._validate_messages`` does.

    Raises:
        CannotForm: there are more or fewer of the ones than of the others.
    """
    mark = f"<{name.removesuffix('s')}>"
    marks = sum(str(message.get("content")).count(mark) for message in formed.messages or ())
    files = len(given) if isinstance(given, list) else 0 if given is None else 1
    if marks != files:
        raise CannotForm(f"its messages have {mark} {marks} times, and its column {name} has {files} of them.")


def _calls_tools(
    rows: Sequence[tuple[int | None, Mapping[str, Any]]],
    columns: Mapping[str, str | None],
    settings: Mapping[str, Any],
    form: str,
) -> bool:
    """Whether a row defines tools, calls one or has its answer: code of each template's own writes these as text."""
    tags = _tags(settings, form)
    turns, tools = str(columns["messages"]), columns["tools"]
    of_tools = {tag for tag in (tags["function_tag"], tags["observation_tag"]) if tag}
    for _, row in rows:
        if tools is not None and row.get(tools):
            return True
        said = row.get(turns)
        for turn in said if isinstance(said, list) else ():
            if isinstance(turn, Mapping) and (
                turn.get(tags["role_tag"]) in of_tools or (form == "openai" and turn.get("tool_calls"))
            ):
                return True
    return False


def _columns(settings: Mapping[str, Any]) -> dict[str, str | None]:
    """What each column is for; with ``columns`` given, those that it does not name are none."""
    said = settings.get("columns")
    if not isinstance(said, Mapping):
        return {name: _COLUMNS.get(name) for name in _COLUMN_NAMES}
    return {name: str(said[name]) if said.get(name) else None for name in _COLUMN_NAMES}


def _tags(settings: Mapping[str, Any], form: str) -> dict[str, str]:
    said = settings.get("tags")
    if isinstance(said, Mapping):
        return {name: str(said[name]) if said.get(name) else "" for name in _TAGS}
    return dict(_TAGS)


def _template(settings: Mapping[str, Any], tokenizer: Any) -> Template | None:
    name = settings.get("template")
    if not isinstance(name, str):
        raise NotFollowedForm("Without a template LLaMA-Factory works one out from the tokenizer's own.")
    template = find_template(name)
    if template is None:
        raise NotFollowedForm(f"The template {name} is not known here.")
    if not template.plain:
        raise NotFollowedForm(f"The template {name} writes by code of its own.")
    return template


_Conversation = tuple[list[dict[str, str]], str, str | None, str | None]
"""Messages of role user, assistant, observation or function; the system message; tools; why the row is left out."""


def _value(row: Mapping[str, Any], name: str | None, told: FormedSet) -> Any:
    if name is None:
        return None
    told.read.add(name)
    if name not in row and name not in told.columns:
        raise CannotForm(f"there is no column {name!r}; there are {', '.join(row)}.")
    return row.get(name)


def _alpaca(row: Mapping[str, Any], columns: Mapping[str, str | None], told: FormedSet) -> _Conversation:
    messages: list[dict[str, str]] = []
    history = _value(row, columns["history"], told)
    for old in history if isinstance(history, list) else []:
        if isinstance(old, list | tuple) and len(old) == 2:
            messages += [{"role": "user", "content": str(old[0])}, {"role": "assistant", "content": str(old[1])}]
    parts = [_value(row, columns["prompt"], told), _value(row, columns["query"], told)]
    messages.append({"role": "user", "content": "\n".join(str(part) for part in parts if part)})
    answer = _value(row, columns["response"], told)
    if isinstance(answer, str):
        messages.append({"role": "assistant", "content": answer})
    why = None if isinstance(answer, str) else "no answer"
    return messages, _text(_value(row, columns["system"], told)), _tools(_value(row, columns["tools"], told)), why


def _sharegpt(
    row: Mapping[str, Any], columns: Mapping[str, str | None], tags: Mapping[str, str], told: FormedSet
) -> _Conversation:
    turns = _value(row, columns["messages"], told)
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        raise CannotForm(f"{columns['messages']} is no list of messages.")
    role_tag, content_tag = tags["role_tag"], tags["content_tag"]
    for turn in turns:
        missing = next((tag for tag in (role_tag, content_tag) if tag not in turn), None)
        if missing is not None:
            raise CannotForm(f"a message has no {missing!r}; it has {', '.join(turn)}.")
        told.roles[str(turn[role_tag])] = told.roles.get(str(turn[role_tag]), 0) + 1
    system = _text(_value(row, columns["system"], told))
    if turns and tags["system_tag"] and turns[0][role_tag] == tags["system_tag"]:
        system, turns = _text(turns[0][content_tag]), turns[1:]
    names = {tags["user_tag"]: "user", tags["observation_tag"]: "observation", tags["assistant_tag"]: "assistant"}
    names[tags["function_tag"]] = "function"
    messages: list[dict[str, str]] = []
    why = None
    for index, turn in enumerate(turns):
        role = names.get(str(turn[role_tag]))
        if role not in (("user", "observation") if index % 2 == 0 else ("assistant", "function")):
            why = _INVALID_ROLES
            break
        messages.append({"role": str(role), "content": _text(turn[content_tag])})
    if why is None and (len(messages) % 2 or not messages):
        why = _COUNT
    return messages, system, _tools(_value(row, columns["tools"], told)), why


_SHORT = "detailed thinking off"


def _openai(
    row: Mapping[str, Any], columns: Mapping[str, str | None], tags: Mapping[str, str], told: FormedSet
) -> _Conversation:
    """As ``_sharegpt``; calls become turns of their own, answers of tools one turn, and where there are no tools the
    system prompt says that thinking is off (``OpenAIDatasetConverter``)."""
    turns = _value(row, columns["messages"], told)
    known = [tags[name] for name in _TAGS if name not in ("role_tag", "content_tag")]
    joined: list[Any] = []
    answers: list[str] = []
    for turn in turns if isinstance(turns, list) else ():
        role = turn.get(tags["role_tag"]) if isinstance(turn, dict) else None
        if role is not None and role not in known:
            raise CannotForm(f"its role {role!r} is none of {', '.join(filter(None, known))}.")
        if role == tags["observation_tag"] and role:
            answers.append(_text(turn.get(tags["content_tag"])))
            continue
        if answers:
            text = "\n</tool_response>\n<tool_response>\n".join(answers)
            joined.append({tags["role_tag"]: tags["observation_tag"], tags["content_tag"]: text})
            answers = []
        calls = turn.get("tool_calls") if isinstance(turn, dict) else None
        if calls and role in (tags["assistant_tag"], tags["function_tag"]):
            made = [call.get("function") if isinstance(call, dict) else None for call in calls]
            turn = {tags["role_tag"]: tags["function_tag"], tags["content_tag"]: json.dumps(made, ensure_ascii=False)}
        joined.append(turn)
    if isinstance(turns, list):
        row = {**row, str(columns["messages"]): joined}
    messages, system, tools, why = _sharegpt(row, columns, tags, told)
    if tools:
        system = system + "\n" if system else system
    elif not any(f"detailed thinking {each}" in system for each in ("on", "off")):
        system = f"{system}\n{_SHORT}" if system else _SHORT
    return messages, system, tools, why


def _pretraining(
    row: Mapping[str, Any],
    columns: Mapping[str, str | None],
    told: FormedSet,
    tokenizer: Any,
    settings: Mapping[str, Any],
) -> FormedRow:
    text = _text(_value(row, columns["prompt"], told))
    formed = FormedRow(0, None, teaches=bool(text), answer=text, identity=text)
    if tokenizer is not None:
        formed.ids = list(tokenizer(text + (tokenizer.eos_token or ""), add_special_tokens=True)["input_ids"])
        formed.labels = list(formed.ids)
    return formed


def _finish(
    row: Mapping[str, Any],
    conversation: _Conversation,
    template: Template | None,
    settings: Mapping[str, Any],
    tokenizer: Any,
) -> FormedRow:
    messages, system, tools, why = conversation
    asked = "\n".join(each["content"] for each in messages if each["role"] in ("user", "observation"))
    answer = "\n".join(each["content"] for each in messages if each["role"] in ("assistant", "function"))
    identity = json.dumps([system, tools, messages]) if why is None else json.dumps(row, default=str)
    formed = FormedRow(0, None, teaches=why is None, dropped=why, prompt=asked, answer=answer, identity=identity)
    formed.messages, formed.tools = [dict(each) for each in messages], tools
    if why is None and template is not None and tokenizer is not None:
        _encode(formed, messages, system, template, settings, tokenizer)
    return formed


def _encode(
    formed: FormedRow,
    messages: list[dict[str, str]],
    system: str,
    template: Template,
    settings: Mapping[str, Any],
    tokenizer: Any,
) -> None:
    """Fill in tokens and labels: pairs of question and answer, cut so that both keep a share of cutoff_len."""
    pairs = _pairs(
        messages,
        system or str(settings.get("default_system") or template.default_system),
        template,
        settings,
        tokenizer,
    )
    formed.length = sum(len(source) + len(target) for source, target in pairs) + int(template.efficient_eos)
    limit = int(settings["cutoff_len"])
    total = int(template.efficient_eos)
    last_only = bool(settings["mask_history"])
    eos = tokenizer.eos_token_id
    for index, (source, target) in enumerate(reversed(pairs) if last_only else pairs):
        if total >= limit:
            break
        kept = _kept(len(source), len(target), limit - total)
        source, target = source[: kept[0]], target[: kept[1]]
        total += len(source) + len(target)
        if settings["train_on_prompt"]:
            asked = list(source)
        elif template.efficient_eos and index and source:
            asked = [eos, *[IGNORED] * (len(source) - 1)]
        else:
            asked = [IGNORED] * len(source)
        answered = [IGNORED] * len(target) if last_only and index else list(target)
        if last_only:
            formed.ids, formed.labels = source + target + formed.ids, asked + answered + formed.labels
        else:
            formed.ids += source + target
            formed.labels += asked + answered
    if template.efficient_eos:
        formed.ids.append(eos)
        formed.labels.append(eos)


def _kept(source: int, target: int, limit: int) -> tuple[int, int]:
    """Tokens of a question and its answer that fit, as ``infer_seqlen`` shares them out."""
    if target * 2 < limit:
        most = limit
    elif source * 2 < limit:
        most = limit - source
    else:
        most = int(limit * (target / (source + target)))
    answered = min(most, target)
    return min(max(limit - answered, 0), source), answered


def _pairs(
    messages: Sequence[Mapping[str, str]], system: str, template: Template, settings: Mapping[str, Any], tokenizer: Any
) -> list[tuple[list[int], list[int]]]:
    encoded: list[list[int]] = []
    thinks = settings.get("enable_thinking", True)
    last = len(messages) - 1
    forgets = bool(settings["mask_history"])
    for index, message in enumerate(messages):
        slots: list[tuple[Slot, str]] = []
        content = message["content"]
        answers = index % 2 == 1
        if template.thought_words and answers and (thinks is False or (forgets and index < last)):
            content = _without_thought(content, template.thought_words)
        if index == 0:
            slots += [(slot, "") for slot in template.prefix]
            if system and template.fused:
                shapes = (slot for slot in template.system if isinstance(slot, str))
                content = "".join(slot.replace("{{content}}", system) for slot in shapes) + content
            elif system:
                slots += [(slot, system) for slot in template.system]
        shape = template.user if message["role"] in ("user", "observation") else template.assistant
        encoded.append(_ids([*slots, *((slot, content) for slot in shape)], tokenizer))
        if template.thought_words and answers and (not forgets or index == last):
            opens, closes = template.thought_words
            if opens.strip() not in content and closes.strip() not in content:
                thought = list(tokenizer.encode(opens + closes, add_special_tokens=False))
                if thinks:
                    encoded[-1] = thought + encoded[-1]
                else:
                    encoded[-2] = encoded[-2] + thought
    return [(encoded[index], encoded[index + 1]) for index in range(0, len(encoded) - 1, 2)]


def _without_thought(content: str, thought: tuple[str, str]) -> str:
    pattern = f"{re.escape(thought[0])}(.*?){re.escape(thought[1])}"
    return re.sub(pattern, "", content, flags=re.DOTALL).lstrip("\n")


def _ids(slots: Sequence[tuple[Slot, str]], tokenizer: Any) -> list[int]:
    ids: list[int] = []
    for slot, content in slots:
        if isinstance(slot, str):
            text = slot.replace("{{content}}", content, 1)
            ids += tokenizer.encode(text, add_special_tokens=False) if text else []
        elif "token" in slot:
            ids.append(tokenizer.convert_tokens_to_ids(slot["token"]))
        else:
            special = getattr(tokenizer, f"{slot['special']}_id") if slot["special"] in _SPECIAL else None
            ids += [special] if special is not None else []
    return ids


def _text(value: Any) -> str:
    return value if isinstance(value, str) else "" if value is None else json.dumps(value, ensure_ascii=False)


def _tools(value: Any) -> str | None:
    return _text(value) or None

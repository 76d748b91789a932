"""What conversations hold: calls of tools, and the order of who speaks."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ...pipeline.forms import FormedRow

_ROLES = {
    "human": "user", "gpt": "assistant", "model": "assistant", "bot": "assistant", "chatbot": "assistant",
    "function": "call", "function_call": "call", "tool_call": "call", "observation": "tool", "ipython": "tool",
    "tool_response": "tool", "developer": "system",
}  # fmt: skip
_IN_TEXT = re.compile(r"<tool_call>\s*(.*?)\s*</tool_call>", re.DOTALL)
_SHOWN = 80


def talk_facts(rows: Sequence[FormedRow]) -> dict[str, Any]:
    """Facts of the rows that are conversations; nothing where none is."""
    talks = [row for row in rows if row.messages]
    if not talks:
        return {}
    broken: list[str] = []
    undefined: list[str] = []
    disorder: list[str] = []
    calls = 0
    for row in talks:
        defined = _defined(row.tools)
        for text, name in _calls(row.messages or ()):
            calls += 1
            if name is None:
                broken.append(text[:_SHOWN])
            elif defined and name not in defined:
                undefined.append(name)
        why = out_of_order([str(message.get("role", "")) for message in row.messages or ()])
        if why is not None:
            disorder.append(why)
    return {
        "tool_calls": calls,
        "tool_calls_broken": len(broken),
        "tool_call_broken": broken[0] if broken else None,
        "tool_calls_undefined": len(undefined),
        "tool_undefined": undefined[0] if undefined else None,
        "rows_out_of_order": len(disorder),
        "out_of_order": disorder[0] if disorder else None,
    }


def out_of_order(roles: Sequence[str]) -> str | None:
    """What is wrong with the order of the roles of a conversation, in words; None where nothing is.

    A greeting of the assistant before the first question is in order, and so are several calls and their results.
    """
    known = [_ROLES.get(role.lower(), role.lower()) for role in roles]
    before: str | None = None
    for number, role in enumerate(known):
        if role == "system" and number:
            return f"a system message at place {number + 1}"
        if role == before and role in ("user", "assistant"):
            return f"two messages of {role} one after another"
        before = role if role != "system" else None
    return "a question at its end without an answer" if before == "user" else None


def _calls(messages: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str | None]]:
    """(text, name) of each call; the name is None where it is no valid call."""
    for message in messages:
        role = _ROLES.get(str(message.get("role", "")).lower(), "")
        content = message.get("content")
        for call in message.get("tool_calls") or () if isinstance(message.get("tool_calls"), list) else ():
            yield _of_object(call)
        if role == "call" and isinstance(content, str) and content.strip():
            yield from _of_text(content)
        elif isinstance(content, str) and "<tool_call>" in content:
            for match in _IN_TEXT.finditer(content):
                # Others are a family that writes calls as tags, or prose that speaks of the marks.
                if match[1].startswith(("{", "[")):
                    yield from _of_text(match[1])


def _of_text(text: str) -> Iterator[tuple[str, str | None]]:
    inner = _IN_TEXT.findall(text)
    for each in inner or [text.rpartition("</think>")[2].strip()]:
        try:
            found = json.loads(each)
        except (ValueError, RecursionError):
            yield each, None
            continue
        for call in found if isinstance(found, list) else [found]:
            yield _of_object(call)


def _of_object(call: Any) -> tuple[str, str | None]:
    function = call.get("function", call) if isinstance(call, Mapping) else None
    text = json.dumps(function, ensure_ascii=False, default=str)
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        return text, None
    arguments = function.get("arguments", function.get("parameters"))
    if isinstance(arguments, str) and arguments.strip():
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError):
            return arguments, None
        if not isinstance(arguments, Mapping):
            return text, None
    return text, function["name"]


def _defined(tools: Any) -> set[str]:
    """Names of the tools that a row defines; empty where it defines none that can be read."""
    if isinstance(tools, str):
        try:
            tools = json.loads(tools)
        except (ValueError, RecursionError):
            return set()
    names = set()
    for tool in tools if isinstance(tools, list | tuple) else ():
        inner = tool.get("function", tool) if isinstance(tool, Mapping) else None
        if isinstance(inner, Mapping) and isinstance(inner.get("name"), str):
            names.add(inner["name"])
    return names

"""How ms-swift writes tools, their calls and their results (4.6: ``swift/agent_template``): hermes and llama3."""

from __future__ import annotations

import ast
import json
from collections.abc import Sequence
from typing import Any

from ...tables.swift_templates import SwiftTemplate

_ACTION, _INPUT, _SEEN = "Action:", "Action Input:", "Observation:"
_HERMES = """{system}

# Tools

You may call one or more functions to assist with the user query.

You are provided with function signatures within <tools></tools> XML tags:
<tools>
{tools}
</tools>

For each function call, return a json object with function name and arguments within <tool_call></tool_call> XML tags:
<tool_call>
{{"name": <function-name>, "arguments": <args-json-object>}}
</tool_call>"""
_LLAMA = """Given the following functions, please respond with a JSON for a function call with its proper arguments \
that best answers the given prompt.

Respond in the format {{"name": function name, "parameters": dictionary of argument name and its value}}. \
Do not use variables.

{tools}

{asked}"""


def parsed(text: Any) -> Any:
    """JSON, or what Python writes, as an object; None where it is neither."""
    if not isinstance(text, str):
        return text
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        try:
            return ast.literal_eval(text)
        except Exception:
            return None


def call_of(content: Any) -> dict[str, Any]:
    """A call's name and arguments; raises ``KeyError``, ``TypeError`` or ``AssertionError`` where it has none."""
    found = parsed(content)
    arguments = found.get("arguments") if found.get("arguments") is not None else found.get("parameters")
    arguments = parsed(arguments)
    assert arguments is not None
    return {"name": found["name"], "arguments": arguments}


def _json(value: Any, **how: Any) -> str:
    return json.dumps(value, ensure_ascii=False, **how)


def _observed(answer: str, results: Sequence[str]) -> tuple[str, list[Any]] | None:
    """ReAct's form, which every other gives way to where the answer has its words."""
    if _ACTION not in answer or _INPUT not in answer:
        return None
    if not answer.endswith(_SEEN):
        answer += _SEEN if answer.endswith("\n") else f"\n{_SEEN}"
    found: list[Any] = []
    for number, result in enumerate(results):
        found += [*([_SEEN] if number else []), result, *([] if result.endswith("\n") else ["\n"])]
    return answer, found


def _responses(results: Sequence[str]) -> str:
    return "\n".join(f"<tool_response>\n{result}\n</tool_response>" for result in results)


class _Hermes:
    @staticmethod
    def tools(tools: Sequence[Any], system: str | None, question: dict[str, Any]) -> str:
        return _HERMES.format(system=system or "", tools="\n".join(_json(tool) for tool in tools))

    @staticmethod
    def calls(calls: Sequence[dict[str, Any]]) -> str:
        return "\n".join(f"<tool_call>\n{_json(call)}\n</tool_call>" for call in calls)

    @staticmethod
    def results(answer: str, results: Sequence[str], template: SwiftTemplate) -> tuple[str, list[Any]]:
        text = _responses(results)
        asked = [slot.replace("{{QUERY}}", text) if isinstance(slot, str) else slot for slot in template.prompt]
        return _observed(answer, results) or (answer, [*(template.chat_sep or ()), *asked])

    @staticmethod
    def alone(results: Sequence[str], template: SwiftTemplate) -> str:
        """Results without a call, as a question."""
        before = [str(slot).partition("{{QUERY}}")[0] for slot in template.prompt]
        return "".join(map(str, (*(template.chat_sep or ()), before[0], _responses(results))))


class _Llama:
    @staticmethod
    def tools(tools: Sequence[Any], system: str | None, question: dict[str, Any]) -> str:
        listed = "\n\n".join(_json(tool, indent=4) for tool in tools)
        question["content"] = _LLAMA.format(tools=listed, asked=question["content"])
        return system or ""

    @staticmethod
    def calls(calls: Sequence[dict[str, Any]]) -> str:
        return "\n".join(_json({"name": call["name"], "parameters": call["arguments"]}) for call in calls)

    @staticmethod
    def results(answer: str, results: Sequence[str], template: SwiftTemplate) -> tuple[str, list[Any]]:
        turns = [f"<|start_header_id|>tool<|end_header_id|>\n\n{result}<|eot_id|>" for result in results]
        asked = ["<|eot_id|>", *turns, "<|start_header_id|>assistant<|end_header_id|>\n\n"]
        return _observed(answer, results) or (answer, asked)


AGENTS: dict[str, Any] = {"hermes": _Hermes, "llama3": _Llama}

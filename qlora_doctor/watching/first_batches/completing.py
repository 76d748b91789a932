"""Made-up completions that reward functions of many kinds distinguish.

Of a row's own columns, in the forms that answers are asked for in: bare, in tags, boxed, behind a mark, as JSON and as
code; and in the form of each pattern and mark that stands in the functions themselves.
"""

from __future__ import annotations

import importlib
import json
import re
import types
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

_MOST = 48
_DEPTH = 4
_ANSWERS = 6
_WORDS = "I look at each part of the question in turn, and write down what follows from it. "


def completions_for(row: Mapping[str, Any], functions: Sequence[Any]) -> list[str]:
    """Completions of a row's prompt, as unlike each other as can be; always the same for the same row."""
    answers = _answers(row)
    written = list(dict.fromkeys(text for function in functions for text in _written(function)))
    made: list[str] = ["I do not know.", "", _WORDS * 40]
    for answer in answers:
        made += [answer, f"The answer is {answer}."]
    for answer in answers:
        made += [form.replace("ANSWER", answer) for form in (*_own_forms(written), *_FORMS)]
        for pattern in written:
            example = matching(pattern, answer)
            if example is not None:
                made.append(example)
    made += [_WORDS + each for each in answers]
    return list(dict.fromkeys(made))[:_MOST]


_FORMS = (
    "<think>\nFirst this.\n</think>\n<answer>\nANSWER\n</answer>",
    "<think>First this.</think><answer>ANSWER</answer>",
    "So it is $\\boxed{ANSWER}$.",
    "It follows.\n#### ANSWER",
    "Answer: ANSWER",
    "```python\nANSWER\n```",
    '{"answer": "ANSWER"}',
)


def _answers(row: Mapping[str, Any]) -> list[str]:
    """What may be the right answer: each other column, whole and what is usually taken out of it."""
    found: list[str] = []
    for name, value in row.items():
        if name in ("prompt", "completion", "completion_ids") or value is None:
            continue
        text = value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)
        found.append(text.strip()[:2000])
        if "####" in text:
            found.insert(0, text.split("####")[-1].strip())
        if boxed := re.search(r"\\boxed\{([^{}]*)\}", text):
            found.insert(0, boxed[1])
    return list(dict.fromkeys([*found[: _ANSWERS - 1], "42"]))


def _own_forms(written: Sequence[str]) -> Iterator[str]:
    """Forms out of the marks that stand in the functions."""
    tags = list(dict.fromkeys(tag for text in written for tag in re.findall(r"<(\w{1,24})>", text)))
    if tags:
        yield "\n".join(f"<{tag}>\nANSWER\n</{tag}>" for tag in tags) + "\n"
        yield "".join(f"<{tag}>ANSWER</{tag}>" for tag in tags)
    marks = [text for text in written if 0 < len(text) <= 40 and not re.search(r"[\\(\[*]", text) and text.strip()]
    words = [text for text in marks if text.isidentifier()]
    if words:
        yield json.dumps(dict.fromkeys(words, "ANSWER"))
    if marks:
        yield " ".join(marks) + " ANSWER"
    for mark in marks[:6]:
        yield f"{mark} ANSWER"


# -- what stands in a function


def _written(function: Any, depth: int = _DEPTH) -> Iterator[str]:
    """Texts that stand in a function and in the functions of its module that it calls, patterns among them."""
    function = getattr(function, "func", function)  # functools.partial
    function = getattr(function, "__wrapped__", function)
    function = getattr(function, "__func__", function)
    if not isinstance(function, types.FunctionType):
        function = type(function).__dict__.get("__call__")
        if not isinstance(function, types.FunctionType):
            return
    cells = [_content(cell) for cell in function.__closure__ or ()]
    yield from _in_code(function.__code__, {**function.__globals__}, depth)
    for value in cells:
        yield from _in_value(value, depth)


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not yet filled
        return None


def _in_code(code: types.CodeType, names: Mapping[str, Any], depth: int) -> Iterator[str]:
    for value in code.co_consts:
        if isinstance(value, str):
            yield value
        elif isinstance(value, tuple | frozenset):
            yield from (each for each in value if isinstance(each, str))
        elif isinstance(value, types.CodeType):
            yield from _in_code(value, names, depth)
    for name in code.co_names:
        if name in names:
            yield from _in_value(names[name], depth)


def _in_value(value: Any, depth: int) -> Iterator[str]:
    if isinstance(value, re.Pattern) and isinstance(value.pattern, str):
        yield value.pattern
    elif isinstance(value, str) and len(value) <= 200:
        yield value
    elif isinstance(value, list | tuple | set) and len(value) <= 20:
        for each in value:
            yield from _in_value(each, 0)
    elif isinstance(value, types.FunctionType) and depth > 0 and "site-packages" not in value.__code__.co_filename:
        yield from _written(value, depth - 1)


# -- a text that a pattern matches


def matching(pattern: str, answer: str) -> str | None:
    """A text that a pattern matches, with the answer where it takes any text; None where none was made."""
    if not re.search(r"[\\(\[.*+?]", pattern):
        return None
    try:
        made = _Example(answer).of(_parser().parse(pattern, re.DOTALL))
        return made if re.search(pattern, made, re.DOTALL) else None
    except (re.error, RecursionError, OverflowError, KeyError, ValueError, StopIteration):
        return None


def _parser() -> Any:
    try:
        return importlib.import_module("re._parser")
    except ImportError:  # Python 3.10
        return importlib.import_module("sre_parse")


_OF_CATEGORY = {"CATEGORY_DIGIT": "7", "CATEGORY_WORD": "a", "CATEGORY_SPACE": " ", "CATEGORY_NOT_DIGIT": "a"}
_OF_CATEGORY |= {"CATEGORY_NOT_SPACE": "a", "CATEGORY_NOT_WORD": " "}


class _Example:
    """Follows a parsed pattern."""

    def __init__(self, answer: str) -> None:
        self.answer = answer
        self.groups: dict[int, str] = {}

    def of(self, parsed: Any) -> str:
        return "".join(self._one(str(op), value) for op, value in parsed)

    def _one(self, op: str, value: Any) -> str:
        if op == "LITERAL":
            return chr(value)
        if op == "NOT_LITERAL":
            return "a" if value != ord("a") else "b"
        if op == "ANY":
            return "a"
        if op == "IN":
            return _of_class(value)
        if op in ("MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT"):
            return self._repeated(*value)
        if op == "SUBPATTERN":
            made = self.of(value[-1])
            if value[0] is not None:
                self.groups[value[0]] = made
            return made
        if op == "ATOMIC_GROUP":
            return self.of(value)
        if op == "BRANCH":
            return self.of(value[1][0])
        return self.groups[value] if op == "GROUPREF" else ""

    def _repeated(self, least: int, most: int, inner: Any) -> str:
        if len(inner) == 1 and most > 8:
            one = str(inner[0][0])
            if one in ("ANY", "NOT_LITERAL") or (one == "IN" and _admits(inner[0][1], self.answer)):
                return self.answer
        return self.of(inner) * min(max(least, 1), most, 50)


def _admits(members: Any, text: str) -> bool:
    return bool(text) and all(_is_in(members, letter) for letter in text)


def _is_in(members: Any, letter: str) -> bool:
    negated: bool = str(members[0][0]) == "NEGATE"
    within = any(_is_member(str(op), value, letter) for op, value in members[negated:])
    return bool(within != negated)


def _is_member(op: str, value: Any, letter: str) -> bool:
    if op == "LITERAL":
        return bool(ord(letter) == value)
    if op == "RANGE":
        return bool(value[0] <= ord(letter) <= value[1])
    kind: str = str(value).removeprefix("CATEGORY_")
    own = {"DIGIT": letter.isdigit(), "SPACE": letter.isspace(), "WORD": letter.isalnum() or letter == "_"}
    return bool(own[kind.removeprefix("NOT_")]) != kind.startswith("NOT_")


def _of_class(members: Any) -> str:
    if str(members[0][0]) == "NEGATE":
        return next(letter for letter in "a1 .Z\n" if _is_in(members, letter))
    op, value = str(members[0][0]), members[0][1]
    if op == "LITERAL":
        return chr(value)
    return chr(value[0]) if op == "RANGE" else _OF_CATEGORY[str(value)]

"""A script's command line against the options that it declares, as argparse reads it."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from .source import Written
from .starts import Argument, Start
from .values import Known, Listing, Unknown, Value, same

_NUMBER = re.compile(r"-[\d.]")
Convert = Callable[[str, ast.AST], Value]


@dataclass
class Option:
    """One option of a parser.

    Attributes:
        dest: the name of its value.
        flags: how it is written; none for what is given by position.
        takes: words that follow: ``none``, ``one``, ``many``, or ``any`` (one, several or none, as they stand).
        convert: the word → its value.
        constant: its value where no word follows.
        listed: its value is a list also where one word follows.
    """

    dest: str
    flags: tuple[str, ...]
    takes: str
    convert: Convert
    constant: Value | None = None
    listed: bool = False


@dataclass
class Given:
    """What one command line sets.

    Attributes:
        values: by the option's dest.
        whole: every word was understood; otherwise what is not set may be set all the same.
    """

    values: dict[str, Value]
    whole: bool = True


def parse(start: Start, options: Iterable[Option]) -> Given:
    """One command line against the options; a unique beginning of a long flag stands for it, as in argparse."""
    options = list(options)
    by_flag = {flag: option for option in options for flag in option.flags}
    waiting = [option for option in options if not option.flags]
    given = Given({})
    words = list(start.words)
    at = 0
    while at < len(words):
        word = words[at]
        at += 1
        if word.text is None:
            given.whole = False  # $EXTRA, "$@": it may be any option
            continue
        if not _is_flag(word.text):
            if waiting:
                option = waiting.pop(0)
                given.values[option.dest] = _converted(option, [word], word)
            continue
        flag, equals, inline = word.text.partition("=")
        found = _option_of(flag, by_flag)
        if found is None:
            continue
        taken = [Argument(inline, word.place)] if equals else []
        most = {"none": 0, "one": 1}.get(found.takes, len(words))
        while not equals and at < len(words) and len(taken) < most and _is_value(words[at]):
            taken.append(words[at])
            at += 1
        given.values[found.dest] = _converted(found, taken, word)
    return given


def merged_value(dest: str, default: Value | None, all_given: list[Given], files: list[str]) -> Value | None:
    """What an option is over all the ways in which the script is started; None where none of them sets it."""
    set_by = [each.values.get(dest) for each in all_given]
    if all(value is None for value in set_by):
        if all(each.whole for each in all_given):
            return None
        return Unknown(default.node if default is not None else None, why=f"The command line in {files[0]} decides.")
    first = next(value for value in set_by if value is not None)
    values = [value if value is not None else default for value in set_by]
    if all(value is not None and same(first, value) for value in values):
        return first
    named = ", ".join(dict.fromkeys(files))
    why = f"It is started in several ways ({named[:120]}), and they differ."
    texts = tuple(
        {value.data: value for value in values if isinstance(value, Known) and isinstance(value.data, str)}.values()
    )
    return Unknown(first.node, why=why, either=texts if all(isinstance(value, Known) for value in values) else ())


def natural(text: str, node: ast.AST) -> Value:
    """A word as the number, truth value or text that it looks like."""
    if re.fullmatch(r"[-+]?\d{1,18}", text):
        return Known(node, data=int(text))
    if re.fullmatch(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d{1,3})?", text):
        return Known(node, data=float(text))
    if text.lower() in ("true", "false"):
        return Known(node, data=text.lower() == "true")
    return Known(node, data=None if text == "None" else text)


def _is_flag(text: str) -> bool:
    return text.startswith("-") and len(text) > 1 and _NUMBER.match(text) is None


def _is_value(word: Argument) -> bool:
    return word.text is None or not _is_flag(word.text)


def _option_of(flag: str, by_flag: dict[str, Option]) -> Option | None:
    if flag in by_flag:
        return by_flag[flag]
    if not flag.startswith("--"):
        return None
    begun = {id(option): option for known, option in by_flag.items() if known.startswith(flag)}
    return next(iter(begun.values())) if len(begun) == 1 else None


def _converted(option: Option, words: list[Argument], at: Argument) -> Value:
    node = Written((words[0] if words else at).place)
    if not words:
        return _placed(option.constant, node) if option.constant is not None else Known(node, data=True)
    if any(word.text is None for word in words):
        return Unknown(node, why="A variable of the command line decides.")
    values = [option.convert(str(word.text), Written(word.place)) for word in words]
    if option.takes == "many" or option.listed or len(values) > 1:
        return Listing(node, items=values)
    return values[0]


def _placed(value: Value, node: ast.AST) -> Value:
    return Known(node, data=value.data) if isinstance(value, Known) else value

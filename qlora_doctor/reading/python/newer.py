"""Python that is newer than the one running, made readable for its parser: lines and columns stay as they are.

What cannot be put in older words becomes an f-string of the same length whose value nobody knows.
"""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Iterator

_STRING = re.compile(r"(?i)(?<![\w])([rbuft]{0,2})('''|\"\"\"|'|\")")
_TYPE = re.compile(r"^([ \t]*)type[ \t]+\w+[ \t]*(?:\[[^\]\n]*\])?[ \t]*=(?!=)", re.MULTILINE)
_GENERIC = re.compile(r"^([ \t]*(?:async[ \t]+def|def|class)[ \t]+\w+)(\[[^\n]*?\])(?=[ \t]*[(:])", re.MULTILINE)
_EXCEPT = re.compile(r"^([ \t]*except\*?)[ \t]+([\w.]+(?:[ \t]*,[ \t]*[\w.]+)+)[ \t]*:", re.MULTILINE)
_WORD = re.compile(r"\w+")
_MOST_STRINGS = 20_000


def in_older_words(code: str) -> str:
    """The code with what came after Python 3.11 written otherwise: f-strings (PEP 701), t-strings, ``type`` statements,
    type parameters, ``except A, B``."""
    code = _f_strings(code)
    code = _TYPE.sub(lambda m: f"{m[1]}_" + " " * (len(m[0]) - len(m[1]) - 2) + "=", code)
    code = _GENERIC.sub(lambda m: m[1] + " " * len(m[2]), code)
    return _EXCEPT.sub(lambda m: f"{m[1]} ({m[2]}):", code)


def _f_strings(code: str) -> str:
    pieces: list[str] = []
    done = 0
    for begin, prefix, end in _strings(code):
        text = code[begin:end]
        if not prefix & {"f", "t"} or (prefix == {"f"} and _parses(text)):
            continue
        pieces += [code[done:begin], _older(text)]
        done = end
    return "".join([*pieces, code[done:]])


def _older(text: str) -> str:
    """One f-string, as long as it was."""
    quote = text.index("'") if '"' not in text.split("'")[0] and "'" in text else text.index('"')
    prefix, mark = text[:quote].lower().replace("t", "f"), text[quote]
    other = "'" if mark == '"' else '"'
    plain = prefix + text[quote:]
    inside = text[quote + 1 : -1]
    for each in (plain, f"{prefix}{other}{inside}{other}" if other not in inside else plain):
        if len(each) == len(text) and _parses(each):
            return each
    blank = re.sub(r"[^\n]", " ", text)
    if "\n" in text:  # no f-string of one pair of quotes goes over lines
        return f"(_{blank[2:-1]})"
    return f'f"{{_}}{blank[6:]}"' if len(text) > 6 else text


def _strings(code: str) -> Iterator[tuple[int, set[str], int]]:
    """(begin, letters before the quotes, end) of each string that stands in no comment and no other string."""
    at = count = 0
    while at < len(code) and count < _MOST_STRINGS:
        if code[at] == "#":
            line_end = code.find("\n", at)
            at = line_end if line_end >= 0 else len(code)
            continue
        found = _STRING.match(code, at)
        if found is None:
            word = _WORD.match(code, at)
            at = word.end() if word is not None else at + 1
            continue
        count += 1
        prefix = set(found[1].lower())
        end = _end(code, found.end(), found[2], formatted=bool(prefix & {"f", "t"}), depth=0)
        yield found.start(), prefix, end
        at = end


def _end(code: str, at: int, quotes: str, *, formatted: bool, depth: int) -> int:
    """Behind the end of a string whose text begins here; an expression within braces may hold any string."""
    while at < len(code):
        if code[at] == "\\":
            at += 2
        elif code.startswith(quotes, at):
            return at + len(quotes)
        elif formatted and code.startswith("{{", at):
            at += 2
        elif formatted and code[at] == "{" and depth < 16:
            at = _expression_end(code, at + 1, depth + 1)
        elif code[at] == "\n" and len(quotes) == 1 and not formatted:
            return at
        else:
            at += 1
    return at


def _expression_end(code: str, at: int, depth: int) -> int:
    """Behind the closing brace of an expression in an f-string."""
    open_brackets = 0
    while at < len(code):
        found = _STRING.match(code, at)
        if found is not None:
            inner = bool(set(found[1].lower()) & {"f", "t"})
            at = _end(code, found.end(), found[2], formatted=inner, depth=depth)
            continue
        if code[at] in "([{":
            open_brackets += 1
        elif code[at] in ")]":
            open_brackets -= 1
        elif code[at] == "}":
            if open_brackets <= 0:
                return at + 1
            open_brackets -= 1
        at += 1
    return at


def _parses(text: str) -> bool:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True

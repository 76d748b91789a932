"""Values in the text of a program: a literal argument of a call in a script or a notebook, an option of a command line.

A place says where an argument stands, or, of what is not said, the call that would take it. An edit counts only where
the reader, given the new text, understands what was asked for and nothing else differently.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..core.place import Place
from ..reading.document import document_of, read_document
from ..setup.setup import Setup
from .express import complaints, reread, same, values_of
from .patch import CannotEdit

_ARGUMENT = re.compile(r"(\w+\s*=\s*)(.+)\Z", re.DOTALL)
_OPTION = re.compile(r"(--?[\w.-]+[ =]+)(\S+)\Z")
_WORD = re.compile(r"[\w./:+-]+\Z")


def is_program(setup: Setup) -> bool:
    """Whether the setup was read from a script, a notebook or a command line."""
    return setup.dialect == "python" or (setup._document is not None and setup._document.format == "text")


def text_of(setup: Setup) -> str:
    """The program as it stands."""
    assert setup.file is not None
    return setup._document.text if setup._document is not None else read_document(Path(setup.file)).text


def understood(setup: Setup, text: str) -> Setup:
    """The Setup of a changed text, by the reader of the first one.

    Raises:
        CannotEdit: the reader refuses it.
    """
    assert setup.file is not None
    return reread(setup, document_of(Path(setup.file), text))


def rewritten(setup: Setup, values: Mapping[str, Any]) -> str:
    """The text in which canonical paths have these values.

    Raises:
        CannotEdit: a value is no literal there, there is no call that takes it, or the reader would not understand it.
    """
    text = text_of(setup)
    for path, value in values.items():
        text = _with(understood(setup, text), text, path, value)
    then = understood(setup, text)
    before, after = values_of(setup), values_of(then)
    said = {path for path, origin in setup.origins.items() if origin.source == "explicit" and path in before}
    if any(not same(after[path], value) for path, value in values.items()):
        raise CannotEdit("the program would not mean it")
    if any(not same(before[path], after[path]) for path in said - values.keys()):
        raise CannotEdit("the edit would change something else")
    if not complaints(then) <= complaints(setup):
        raise CannotEdit("the trainer would refuse it")
    return text


def _with(setup: Setup, text: str, path: str, value: Any) -> str:
    """The text with one value."""
    start, end = _span(text, setup.place(path))
    shell = setup.dialect != "python"
    name = path.rpartition(".")[2]
    written = _spelled(value, text, shell)
    origin = setup.origins.get(path)
    if origin is not None and origin.source == "explicit":
        said = (_OPTION if shell else _ARGUMENT).match(text[start:end])
        if said is None or not _is_literal(said[2], shell):
            raise CannotEdit(f"the value of {name} is no literal")
        return text[: start + said.start(2)] + written + text[end:]
    if not shell:
        start, end = _last_argument(setup, text, (start, end))
    line = text[text.rfind("\n", 0, start) + 1 :].partition("\n")[0]
    lead = "\n" + line[: len(line) - len(line.lstrip())]
    alone = line.strip().rstrip(",\\ ") == text[start:end]
    if shell:
        return f"{text[:end]}{' ' + chr(92) + lead if alone else ' '}--{name} {written}{text[end:]}"
    return f"{text[:end]},{lead if alone else ' '}{name}={written}{text[end:]}"


def _last_argument(setup: Setup, text: str, call: tuple[int, int]) -> tuple[int, int]:
    """Where the last argument of a call stands, of those that are known."""
    known = [_span(text, origin.place) for origin in setup.origins.values() if origin.place is not None]
    inside = [(start, end) for start, end in known if call[0] <= start and end <= call[1]]
    arguments = [(start, end) for start, end in inside if _ARGUMENT.match(text[start:end])]
    if not arguments:
        raise CannotEdit("the call has no argument beside which it would stand")
    return max(arguments, key=lambda span: span[1])


@lru_cache(maxsize=4)
def _starts(text: str) -> list[int]:
    """Where its lines start, which end at LF."""
    return [0, *(found.end() for found in re.finditer("\n", text))]


def _span(text: str, place: Place | None) -> tuple[int, int]:
    """Where a place begins and ends in the text."""
    if place is None or not (place.line and place.column and place.end_line and place.end_column):
        raise CannotEdit("it is not known where it stands")
    starts = _starts(text)
    return starts[place.line - 1] + place.column - 1, starts[place.end_line - 1] + place.end_column - 1


def _is_literal(text: str, shell: bool) -> bool:
    if shell:
        return _WORD.match(text) is not None
    try:
        ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return False
    return True


def _spelled(value: Any, text: str, shell: bool) -> str:
    if shell:
        word = str(value).lower() if isinstance(value, bool) else str(value)
        if isinstance(value, list | dict) or value is None or not _WORD.match(word):
            raise CannotEdit("a command line has no plain word for it")
        return word
    double = text.count('"') > text.count("'") and not text.lstrip().startswith("{")  # a notebook's lines are JSON
    return json.dumps(value) if isinstance(value, str) and double else repr(value)

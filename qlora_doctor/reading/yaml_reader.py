"""YAML text → plain data, in one pass over PyYAML's events.

PyYAML's own loaders build a node graph by recursion in C: a few thousand open brackets end the process, aliases may
unfold to any size, and a repeated key is dropped silently. Events come from a state machine that does none of
that, so the data is built from them here; what a scalar means (YAML 1.1) is still decided by PyYAML's own resolver and
constructor, because that is what the trainers read with.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import yaml

from ..core.pointers import escaped

MAX_DEPTH = 64
MAX_NODES = 2_000_000
"""Values that aliases may unfold to."""

_LONGEST_NUMBER = 1000
_EXPONENT = re.compile(r"[-+]?(?:\d[\d_]*\.?[\d_]*|\.\d[\d_]*)[eE][-+]?\d+\Z")
_STANDARD = "tag:yaml.org,2002:"
_SCALAR_TAGS = {_STANDARD + name for name in ("str", "int", "float", "bool", "null", "timestamp", "binary")}
_CONTAINER_TAGS = {None, "!", _STANDARD + "map", _STANDARD + "seq", _STANDARD + "set", _STANDARD + "omap"}
_MISSING = object()
_CONSTRUCTOR = yaml.constructor.SafeConstructor()
"""Its scalars are built without any state."""


class YamlProblem(Exception):
    """The text is no YAML that a config may be; line and column count from 1."""

    def __init__(self, message: str, line: int | None = None, column: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.line = line
        self.column = column


@dataclass
class YamlContent:
    """What the text holds; the lists are JSON pointers."""

    data: Any = None
    duplicates: list[str] = field(default_factory=list)
    """Keys that stand twice in a mapping with different values."""
    repeats: list[str] = field(default_factory=list)
    """Keys that stand twice with the same value."""
    string_numbers: list[str] = field(default_factory=list)


@dataclass(slots=True)
class _Frame:
    """A container that is being filled."""

    value: Any
    anchor: str | None
    key: Any = _MISSING
    merged: list[Any] = field(default_factory=list)
    nodes: int = 1

    @property
    def step(self) -> str:
        name = len(self.value) if isinstance(self.value, list) else self.key
        return escaped(str(name))


def read_yaml(text: str) -> YamlContent:
    """Read one YAML document.

    Raises:
        YamlProblem: a syntax error, a tag beyond plain data, too deep a nesting, or aliases that unfold without end.
    """
    builder = _Builder()
    try:
        builder.take(yaml.parse(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader)))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        what = (error.problem or error.context or "it cannot be read").strip()
        line, column = (mark.line + 1, mark.column + 1) if mark else (None, None)
        if mark and text.splitlines()[mark.line : mark.line + 1] and _indented_by_tab(text.splitlines()[mark.line]):
            what = "a tab stands where YAML wants spaces"
        raise YamlProblem(what, line, column) from error
    except yaml.YAMLError as error:  # the reader's error has no mark: a control character
        raise YamlProblem(str(error).strip().splitlines()[0].rstrip(".")) from error
    builder.compare_repeated()
    return builder.content


def _indented_by_tab(line: str) -> bool:
    return "\t" in line[: len(line) - len(line.lstrip())]


class _Builder:
    """Fills containers as their events arrive."""

    def __init__(self) -> None:
        self.content = YamlContent()
        self._stack: list[_Frame] = []
        self._anchors: dict[str, tuple[Any, int]] = {}
        self._documents = 0
        self._event: Any = None
        self._twice: list[tuple[dict[Any, Any], Any, Any, str]] = []
        self._actions = {
            yaml.ScalarEvent: self._scalar,
            yaml.MappingStartEvent: lambda event: self._open({}, event),
            yaml.SequenceStartEvent: lambda event: self._open([], event),
            yaml.MappingEndEvent: self._close,
            yaml.SequenceEndEvent: self._close,
            yaml.AliasEvent: self._alias,
            yaml.DocumentStartEvent: self._document,
        }

    def take(self, events: Iterable[Any]) -> None:
        """Take all events; the loop is the reader's hot path, so what is common is done in it."""
        actions, stack, scalar, missing, plain = self._actions, self._stack, yaml.ScalarEvent, _MISSING, _plain
        for event in events:
            kind = type(event)
            if kind is scalar and event.tag is None and event.anchor is None and event.implicit[0] and stack:
                value, is_number = plain(event.value)
                if not is_number and value is not missing and value != "<<":
                    frame = stack[-1]
                    frame.nodes += 1
                    container, key = frame.value, frame.key
                    if type(container) is list:
                        container.append(value)
                    elif key is missing:
                        self._event = event
                        self._take_key(frame, value)
                    elif key is _MERGE:
                        self._event = event
                        self._take_value(frame, value)
                    else:
                        container[key] = value
                        frame.key = missing
                    continue
            action = actions.get(kind)
            if action is not None:
                self._event = event
                action(event)

    def compare_repeated(self) -> None:
        """Sort the keys that stand twice by whether the last value is another one than those before it."""
        differ: dict[str, bool] = {}
        for mapping, key, before, pointer in self._twice:
            last = mapping[key]
            is_same = bool(before == last) and isinstance(before, bool) == isinstance(last, bool)
            differ[pointer] = differ.get(pointer, False) or not is_same
        self.content.duplicates = [pointer for pointer, differs in differ.items() if differs]
        self.content.repeats = [pointer for pointer, differs in differ.items() if not differs]

    def problem(self, message: str) -> YamlProblem:
        mark = self._event.start_mark
        return YamlProblem(message, mark.line + 1, mark.column + 1)

    def _document(self, event: Any) -> None:
        self._documents += 1
        if self._documents > 1:
            raise self.problem("a second document starts here (---); a config is a single one")

    def _open(self, value: Any, event: Any) -> None:
        if event.tag not in _CONTAINER_TAGS:
            raise self.problem(f"the tag {_short(event.tag)} asks for an object, and a config is plain data")
        if len(self._stack) >= MAX_DEPTH:
            raise self.problem(f"it is nested more than {MAX_DEPTH} levels deep")
        self._stack.append(_Frame(value, event.anchor))

    def _close(self, event: Any) -> None:
        frame = self._stack.pop()
        for source in reversed(frame.merged):  # the first source wins, the mapping's own keys win over all
            for key, value in source.items():
                frame.value.setdefault(key, value)
        self._put(frame.value, frame.anchor, frame.nodes)

    def _alias(self, event: Any) -> None:
        if event.anchor not in self._anchors:
            raise self.problem(f"the alias *{event.anchor} refers to nothing that stands before it")
        value, nodes = self._anchors[event.anchor]
        self._put(value, None, nodes)

    def _scalar(self, event: Any) -> None:
        frame = self._stack[-1] if self._stack else None
        is_key = frame is not None and frame.key is _MISSING and isinstance(frame.value, dict)
        tag = event.tag
        if tag is None or tag == "!":
            value, is_number = _plain(event.value) if tag is None and event.implicit[0] else (event.value, False)
        elif tag in _SCALAR_TAGS:
            value, is_number = self._tagged(tag, event.value), False
        else:
            raise self.problem(f"the tag {_short(tag)} asks for an object, and a config is plain data")
        if value is _MISSING:
            raise self.problem(f"{event.value[:40]!r} cannot be read as the value that it looks like")
        if is_number and not is_key:
            self.content.string_numbers.append(self._pointer())
        if is_key and value == "<<" and event.implicit[0]:
            value = _MERGE
        self._put(value, event.anchor, 1)

    def _tagged(self, tag: str, text: str) -> Any:
        return _construct(tag, text)

    def _put(self, value: Any, anchor: str | None, nodes: int) -> None:
        """Hand a finished value to the container that waits for it."""
        if anchor is not None:
            self._anchors[anchor] = (value, nodes)
        if not self._stack:
            self.content.data = value
            return
        frame = self._stack[-1]
        frame.nodes += nodes
        if frame.nodes > MAX_NODES:
            raise self.problem(f"its aliases unfold to more than {MAX_NODES:,} values")
        if isinstance(frame.value, list):
            frame.value.append(value)
        elif frame.key is _MISSING:
            self._take_key(frame, value)
        else:
            self._take_value(frame, value)

    def _take_key(self, frame: _Frame, key: Any) -> None:
        if isinstance(key, dict | list):
            raise self.problem("a mapping or a list cannot be a key")
        if key is not _MERGE and key in frame.value:
            frame.key = key
            self._twice.append((frame.value, key, frame.value[key], self._pointer()))
        frame.key = key

    def _take_value(self, frame: _Frame, value: Any) -> None:
        if frame.key is _MERGE:
            sources = value if isinstance(value, list) else [value]
            if not all(isinstance(source, dict) for source in sources):
                raise self.problem("<< merges mappings, and this is none")
            frame.merged.extend(reversed(sources))
        else:
            frame.value[frame.key] = value
        frame.key = _MISSING

    def _pointer(self) -> str:
        return "".join(f"/{frame.step}" for frame in self._stack)


class _Merge:
    """Stands for the key ``<<``."""

    def __str__(self) -> str:
        return "<<"


_MERGE = _Merge()


@lru_cache(maxsize=4096)
def _plain(text: str) -> tuple[Any, bool]:
    """What an unquoted scalar means in YAML 1.1, and whether it is a number to everybody but YAML 1.1."""
    if text.isascii() and text.isdigit() and text[0] != "0" and len(text) < 19:  # the commonest number, without regexes
        return int(text), False
    resolvers = yaml.SafeLoader.yaml_implicit_resolvers
    for tag, pattern in [*resolvers.get(text[:1], ()), *resolvers.get(None, ())]:
        if pattern.match(text):
            return ("<<", False) if tag.endswith(":merge") else (_construct(tag, text), False)
    return text, _EXPONENT.match(text) is not None


def _construct(tag: str, text: str) -> Any:
    """A scalar's value by PyYAML's safe constructor; ``_MISSING`` where it refuses."""
    constructor = _CONSTRUCTOR
    build = constructor.yaml_constructors.get(tag)
    if build is None:
        return text
    if len(text) > _LONGEST_NUMBER and tag.endswith((":int", ":float")):
        return _MISSING  # a number in base 60 may have any length, and any text shows none
    try:
        return build(constructor, yaml.ScalarNode(tag, text))
    except (ValueError, KeyError, IndexError, OverflowError, yaml.YAMLError):
        return _MISSING


def _short(tag: str) -> str:
    return "!!" + tag[len(_STANDARD) :] if tag.startswith(_STANDARD) else tag

"""A shell script → its simple commands, with variables filled in where the script makes them constant.

Nothing is run. What depends on the environment, on arguments, on another program or on the way that a condition goes is
not known, and a word with such a part says so. Covers what launch scripts use of POSIX sh and bash: quotes,
continuation lines, assignments, arrays, ``${name:-default}``, integer arithmetic, blocks, here-documents, redirections.
"""

from __future__ import annotations

import ast
import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache

from .blocks import DECLARES, READS, Event, assigned_in, events
from .words import Part, Scanner, Written

MOST_SCRIPT = 512 * 1024
"""Characters; no launch script is longer."""
_BESIDE = {"function", "subshell"}
"""Blocks that do not go on from where the line above them ended."""
_DEEPEST = 4
_MOST_WORDS, _LONGEST = 1000, 10_000
"""Of a variable: one that is put together from itself again and again would have no end."""


@dataclass(frozen=True)
class Word:
    """One word of a command.

    Attributes:
        text: what the command gets; where that is not known, the word as it is written.
        known: True where all of it is constant.
        start, end: where it stands in the script, as offsets.
    """

    text: str
    known: bool
    start: int
    end: int


@dataclass(frozen=True)
class Command:
    """A simple command: ``NAME=value program argument …``."""

    words: tuple[Word, ...]
    environment: dict[str, Word]
    """What the script sets for it: before its name, or by ``export``."""


@dataclass
class Script:
    """A script's commands in the order in which they stand."""

    text: str
    commands: list[Command]
    comments: list[tuple[int, str]]
    """Offset and text, from ``#`` on."""
    texts: list[Word]
    """Constant texts of several words, which may be command lines that something else starts."""

    @cached_property
    def _starts(self) -> list[int]:
        return [0, *(match.end() for match in re.finditer("\n", self.text))]

    def place(self, offset: int) -> tuple[int, int]:
        """(line, column) of an offset, from 1."""
        line = bisect_right(self._starts, offset)
        return line, offset - self._starts[line - 1] + 1

    def line(self, number: int) -> str:
        """A line of the script, without its end."""
        start = self._starts[number - 1]
        return self.text[start:].partition("\n")[0].rstrip("\r") if start < len(self.text) else ""


@lru_cache(maxsize=4)
def read_script(text: str) -> Script:
    """The commands of a script, as far as they can be known without running it. Never fails."""
    scanner = Scanner(text)
    interpreter = _Interpreter(text, list(events(scanner)))
    return Script(text, list(interpreter.commands()), scanner.comments, interpreter.texts)


_Value = tuple[Word, ...] | None
"""The words of a variable (of a plain one: one); None where they are not known."""


class _Interpreter:
    """Follows constants through the script."""

    def __init__(self, text: str, events: list[Event]) -> None:
        self._text, self._events = text, events
        self._values: dict[str, _Value] = {}
        self._exported: set[str] = set()
        self.texts: list[Word] = []
        self._times = Counter(name for event in events if event.kind == "command" for name in assigned_in(event.words))

    def commands(self) -> Iterator[Command]:
        """The commands, with what is known of their words."""
        outside: list[dict[str, _Value]] = []
        for event in self._events:
            if event.kind == "enter":
                if event.block in _BESIDE:
                    outside.append(dict(self._values))
                self._forget(event)
            elif event.kind == "leave":
                if event.block in _BESIDE and outside:
                    self._values = outside.pop()
                self._values.update(dict.fromkeys(event.assigned))
            elif (command := self._command(event)) is not None:
                yield command

    def _forget(self, block: Event) -> None:
        """A loop may have come round, a function may be called from anywhere: what they set is not known within."""
        if block.block == "loop":
            self._values.update(dict.fromkeys(block.assigned))
        elif block.block == "function":
            self._values.update({name: None for name, times in self._times.items() if times > 1})

    def _command(self, event: Event) -> Command | None:
        words = event.words
        first = words[0].literal
        if first in READS or first in ("case", "function"):
            self._values.update(dict.fromkeys(assigned_in(words)))
            return None
        declares = first in DECLARES
        environment: dict[str, Word] = {}
        settings: list[tuple[str, _Value]] = []
        rest = words[1:] if declares else words
        at = 0
        for word in rest:
            match = word.assignment
            if match is None and not declares:
                break
            at += 1
            if declares and first == "export":
                self._exported.add(match[1] if match is not None else word.literal or "")
            if match is None:
                continue
            value = self._assigned(word, match)
            settings.append((match[1], value))
            self._keep_texts(value or ())
            if value is not None and len(value) == 1:
                environment[match[1]] = value[0]
        if declares or at == len(rest):
            for name, value in settings:
                long = value is not None and (len(value) > _MOST_WORDS or any(len(w.text) > _LONGEST for w in value))
                self._values[name] = None if event.conditional or long else value
            return None
        expanded = [field for word in rest[at:] for field in self._expanded(word)]
        self._keep_texts(expanded)
        return Command(tuple(expanded), {**self._exports(), **environment}) if expanded else None

    def _exports(self) -> dict[str, Word]:
        """Exported variables of one word; of others it is only known that they are set."""
        found = {}
        for name in self._exported & self._values.keys():
            value = self._values[name]
            found[name] = value[0] if value is not None and len(value) == 1 else Word("", False, 0, 0)
        return found

    def _keep_texts(self, words: Iterable[Word]) -> None:
        self.texts += [word for word in words if word.known and " " in word.text]

    def _assigned(self, word: Written, match: re.Match[str]) -> _Value:
        name, index, adds = match[1], match[2], match[3]
        if index:
            return None
        if word.elements is not None:
            value: _Value = tuple(field for element in word.elements for field in self._expanded(element))
        else:
            first = word.parts[0]
            parts = (Part("text", first.text[match.end() :], True), *word.parts[1:])
            quoted = tuple(Part(p.kind, p.text, True, p.default, p.assigns) for p in parts)  # no field is split here
            value = tuple(self._expanded(Written(quoted, word.start, word.end)))
        if not adds:
            return value
        before = self._values.get(name)
        if before is None or value is None:
            return None
        if word.elements is not None:
            return (*before, *value)
        last = before[-1] if before else Word("", True, word.start, word.start)
        text = last.text + "".join(part.text for part in value)
        return (*before[:-1], Word(text, last.known and all(part.known for part in value), word.start, word.end))

    def _expanded(self, word: Written, depth: int = 0) -> list[Word]:
        """The fields of a word: none for an empty array, several for a list of arguments in one variable."""
        fields: list[Word] = []
        text, known, begun = "", True, False

        def close() -> None:
            nonlocal text, known, begun
            if begun:
                shown = text if known else self._text[word.start : word.end]
                fields.append(Word(shown, known, word.start, word.end))
            text, known, begun = "", True, False

        for part in word.parts:
            if part.kind == "list":
                elements = self._values.get(part.text)
                if elements is None:
                    text, known, begun = text, False, True
                elif len(word.parts) <= 2:  # "${A[@]}" stands alone, but for the empty text that its quotes are
                    return list(elements)
                else:
                    text += " ".join(element.text for element in elements)
                    known, begun = known and all(element.known for element in elements), True
                continue
            value, is_known = self._value(part, depth)
            if not is_known:
                known, begun = False, True
            elif part.quoted or part.kind == "text":
                text, begun = text + value, True
            else:
                for number, piece in enumerate(re.split(r"\s+", value)):
                    if number:
                        close()
                    if piece:
                        text, begun = text + piece, True
        close()
        return fields

    def _value(self, part: Part, depth: int) -> tuple[str, bool]:
        """(text, known) of a part."""
        if part.kind == "text":
            return part.text, True
        if part.kind == "sum":
            return self._sum(part.text)
        if part.kind == "unknown":
            return "", False
        name = part.text
        value = self._values.get(name)
        if value is not None and len(value) == 1:
            if value[0].known and not value[0].text and part.default:
                return self._default(part, depth)
            return value[0].text, value[0].known
        if part.default is not None and name not in self._times:  # set nowhere here; the environment may still do so
            return self._default(part, depth)
        return "", False

    def _default(self, part: Part, depth: int) -> tuple[str, bool]:
        if depth >= _DEEPEST or part.default is None:
            return "", False
        inner = Scanner('"' + part.default.replace('"', "") + '"').word()
        fields = self._expanded(Written(inner.parts, 0, 0), depth + 1)
        if len(fields) != 1 or not fields[0].known:
            return "", False
        if part.assigns:
            self._values[part.text] = (fields[0],)
        return fields[0].text, True

    def _sum(self, written: str) -> tuple[str, bool]:
        """Integer arithmetic on constants."""

        def filled(match: re.Match[str]) -> str:
            value = self._values.get(match[1] or match[2])
            return value[0].text if value is not None and len(value) == 1 and value[0].known else "?"

        sentence = re.sub(r"\$?\{?\b([A-Za-z_]\w*)\b\}?|\$\{([A-Za-z_]\w*)\}", filled, written[:200]).strip()
        if not re.fullmatch(r"[\d\s+*/%()-]+", sentence) or "**" in sentence:
            return "", False
        try:
            return str(_computed(ast.parse(sentence.replace("/", "//").strip(), mode="eval").body)), True
        except (SyntaxError, ValueError, ZeroDivisionError, RecursionError, MemoryError, OverflowError):
            return "", False


def _computed(node: ast.expr) -> int:
    """A sum of whole numbers; division goes towards zero, as the shell's does."""
    if isinstance(node, ast.Constant) and isinstance(node.value, int):
        return node.value
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_computed(node.operand)
    if isinstance(node, ast.BinOp):
        left, right = _computed(node.left), _computed(node.right)
        if isinstance(node.op, ast.FloorDiv | ast.Mod):
            quotient = abs(left) // abs(right) * (1 if (left < 0) == (right < 0) else -1)
            return quotient if isinstance(node.op, ast.FloorDiv) else left - quotient * right
        operations = {ast.Add: left + right, ast.Sub: left - right, ast.Mult: left * right}
        if type(node.op) in operations:
            return operations[type(node.op)]
    raise ValueError("not a sum")

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
from dataclasses import dataclass, field
from functools import cached_property, lru_cache

_PLAIN = re.compile(r"[^ \t\n\r\f\v'\"\\$`;&|<>()]+")
_IN_QUOTES = re.compile(r"[^\"\\$`]+")
_BLANK = re.compile(r"(?:[ \t\r\f\v]|\\\r?\n)+")
_OPERATOR = re.compile(r"&&|\|\||;;&|;;|;&|\|&|&>>|&>|>>|>&|>\||<&|<<<|<<-|<<|<>|[;&|<>()\n]")
_NAME = re.compile(r"[A-Za-z_]\w*")
_ASSIGNMENT = re.compile(r"([A-Za-z_]\w*)(\[[^\]]*\])?(\+?)=")
_BRACED = re.compile(r"([A-Za-z_]\w*|\d+|[@*#?!$-])(?:\[([@*])\])?(?:(:?[-=])(.*))?\Z", re.DOTALL)
_REDIRECTIONS = {"<", ">", ">>", ">&", ">|", "<&", "<<<", "<>", "&>", "&>>"}
_OPENS = {"if": "if", "for": "loop", "while": "loop", "until": "loop", "select": "loop", "case": "case"}
_CLOSES = {"fi": "if", "done": "loop", "esac": "case", "}": "function"}
_BETWEEN = {"then", "else", "elif", "do", "!", "time"}
_READS = {"for", "select", "read", "unset", "mapfile", "readarray", "getopts"}
"""Commands that set the names behind them, to something that is not known."""
_DECLARES = {"export", "declare", "local", "readonly", "typeset"}
MOST_SCRIPT = 512 * 1024
"""Characters; no launch script is longer."""
_BESIDE = {"function", "subshell"}
"""Blocks that do not go on from where the line above them ended."""
_DEEPEST = 4
_MOST_WORDS, _LONGEST = 1000, 10_000
"""Of a variable: one that is put together from itself again and again would have no end."""
_MOST_BLOCKS = 100


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
    """The commands of a script, as far as they can be told without running it. Never fails."""
    scanner = _Scanner(text)
    events = list(_events(scanner))
    interpreter = _Interpreter(text, events)
    return Script(text, list(interpreter.commands()), scanner.comments, interpreter.texts)


# -- words and operators


@dataclass(frozen=True)
class _Part:
    """A piece of a word: ``text``, ``name`` (a variable), ``list`` (all of an array), ``sum`` or ``unknown``."""

    kind: str
    text: str
    quoted: bool
    default: str | None = None
    assigns: bool = False


@dataclass(frozen=True)
class _Written:
    """A word as it stands in the script, before variables are filled in."""

    parts: tuple[_Part, ...]
    start: int
    end: int
    elements: tuple[_Written, ...] | None = None
    """Of ``NAME=(…)``."""

    @property
    def literal(self) -> str | None:
        """The text of a word without quotes and variables."""
        only = len(self.parts) == 1 and self.parts[0].kind == "text" and not self.parts[0].quoted
        return self.parts[0].text if only else None

    @property
    def assignment(self) -> re.Match[str] | None:
        """The beginning ``NAME=`` of an assignment."""
        first = self.parts[0] if self.parts else None
        return _ASSIGNMENT.match(first.text) if first and first.kind == "text" and not first.quoted else None


class _Scanner:
    """Text → words and operators."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.comments: list[tuple[int, str]] = []
        self._bodies: list[tuple[str, bool]] = []

    def tokens(self) -> Iterator[_Written | str]:
        """Words, and operators as texts."""
        text, size = self.text, len(self.text)
        while self.at < size:
            if blank := _BLANK.match(text, self.at):
                self.at = blank.end()
                continue
            if text[self.at] == "#":
                end = text.find("\n", self.at)
                end = size if end < 0 else end
                self.comments.append((self.at, text[self.at : end]))
                self.at = end
                continue
            if operator := _OPERATOR.match(text, self.at):
                self.at = operator.end()
                if operator[0] == "\n":
                    self._skip_bodies()
                elif operator[0] in ("<<", "<<-"):
                    self._begin_body(operator[0] == "<<-")
                    continue
                yield operator[0]
                continue
            begun = self.at
            word = self.word()
            if self.at == begun:  # a character that begins nothing, such as a lone carriage return
                self.at += 1
                continue
            yield word

    def word(self) -> _Written:
        """The word that begins here."""
        text, size, start = self.text, len(self.text), self.at
        parts: list[_Part] = []
        elements = None
        while self.at < size:
            character = text[self.at]
            if plain := _PLAIN.match(text, self.at):
                parts.append(_Part("text", plain[0], False))
                self.at = plain.end()
            elif character == "'":
                end = text.find("'", self.at + 1)
                end = size if end < 0 else end
                parts.append(_Part("text", text[self.at + 1 : end], True))
                self.at = min(size, end + 1)
            elif character == '"':
                self.at += 1
                parts += self._quoted()
            elif character == "\\":
                self._escape(parts)
            elif character in "$`":
                parts.append(self._expansion(False))
            elif character == "(" and self._begins_array(parts):
                elements = self._array()
            else:
                break
        return _Written(tuple(_joined(parts)), start, self.at, elements)

    def _escape(self, parts: list[_Part]) -> None:
        if after := re.compile(r"\\\r?\n").match(self.text, self.at):
            self.at = after.end()
        else:
            parts.append(_Part("text", self.text[self.at + 1 : self.at + 2], True))
            self.at = min(len(self.text), self.at + 2)

    def _quoted(self) -> list[_Part]:
        """What stands in double quotes, up to and past the closing one."""
        text, size = self.text, len(self.text)
        parts = [_Part("text", "", True)]
        while self.at < size and text[self.at] != '"':
            if plain := _IN_QUOTES.match(text, self.at):
                parts.append(_Part("text", plain[0], True))
                self.at = plain.end()
            elif text[self.at] == "\\":
                escaped = text[self.at + 1 : self.at + 2]
                kept = "" if escaped == "\n" else escaped if escaped in '$`"\\' else "\\" + escaped
                parts.append(_Part("text", kept, True))
                self.at = min(size, self.at + 2)
            else:
                parts.append(self._expansion(True))
        self.at = min(size, self.at + 1)
        return parts

    def _expansion(self, quoted: bool) -> _Part:
        """What a ``$`` or a backquote begins."""
        text, start = self.text, self.at
        if text[start] == "`":
            end = _closing(text, start + 1, "`", "`")
            self.at = end
            return _Part("unknown", text[start:end], quoted)
        following = text[start + 1 : start + 2]
        if text.startswith("$((", start):
            self.at = _closing(text, start + 3, "(", ")")
            inner = text[start + 3 : self.at - 1]
            self.at = min(len(text), self.at + 1)
            return _Part("sum", inner, quoted)
        if following == "(":
            self.at = _closing(text, start + 2, "(", ")")
            return _Part("unknown", text[start : self.at], quoted)
        if following == "{":
            self.at = _closing(text, start + 2, "{", "}")
            return _braced(text[start : self.at], quoted)
        if name := _NAME.match(text, start + 1):
            self.at = name.end()
            return _Part("name", name[0], quoted)
        if following and following in "0123456789@*#?$!-":
            self.at = start + 2
            return _Part("unknown", text[start : self.at], quoted)
        self.at = start + 1
        return _Part("text" if following not in ("'", '"') else "unknown", "$", quoted)

    def _begins_array(self, parts: list[_Part]) -> bool:
        return len(parts) == 1 and not parts[0].quoted and _ASSIGNMENT.fullmatch(parts[0].text) is not None

    def _array(self) -> tuple[_Written, ...]:
        self.at += 1
        elements: list[_Written] = []
        for token in self.tokens():
            if token == ")":
                break
            if isinstance(token, _Written):
                elements.append(token)
        return tuple(elements)

    def _begin_body(self, indented: bool) -> None:
        if blank := _BLANK.match(self.text, self.at):
            self.at = blank.end()
        if self.at < len(self.text) and not _OPERATOR.match(self.text, self.at):
            self._bodies.append(("".join(part.text for part in self.word().parts), indented))

    def _skip_bodies(self) -> None:
        """Pass over the here-documents that the line before has begun."""
        for mark, indented in self._bodies:
            while self.at < len(self.text):
                end = self.text.find("\n", self.at)
                end = len(self.text) if end < 0 else end
                line = self.text[self.at : end].rstrip("\r")
                self.at = min(len(self.text), end + 1)
                if (line.lstrip("\t") if indented else line) == mark:
                    break
        self._bodies = []


def _joined(parts: list[_Part]) -> Iterator[_Part]:
    """Neighbouring plain texts as one part."""
    held: _Part | None = None
    for part in parts:
        if held is not None and part.kind == held.kind == "text" and part.quoted == held.quoted:
            held = _Part("text", held.text + part.text, held.quoted)
            continue
        if held is not None:
            yield held
        held = part
    if held is not None:
        yield held


_STOPS = re.compile(r"[\\'\"`(){}]")


def _closing(text: str, at: int, opens: str, closes: str) -> int:
    """The offset behind the bracket that closes what begins at ``at``; the end where none does."""
    depth = 1
    while stop := _STOPS.search(text, at):
        character, at = stop[0], stop.end()
        if character == "\\":
            at += 1
        elif character == closes:
            depth -= 1
            if depth == 0:
                return at
        elif character == opens:
            depth += 1
        elif character == "'":
            end = text.find("'", at)
            at = len(text) if end < 0 else end + 1
    return len(text)


def _braced(written: str, quoted: bool) -> _Part:
    """``${name}``, ``${name:-default}``, ``${name[@]}``; anything else that braces can do is not known."""
    match = _BRACED.match(written[2:-1])
    if match is None or (match[2] and match[3]):
        return _Part("unknown", written, quoted)
    if match[2]:
        return _Part("list", match[1], quoted)
    if not _NAME.fullmatch(match[1]) and match[3] is None:
        return _Part("unknown", written, quoted)
    return _Part("name", match[1], quoted, match[4], bool(match[3]) and match[3].endswith("="))


# -- commands and blocks


@dataclass
class _Event:
    """A simple command, or a block that begins (``enter``) or ends (``leave``)."""

    kind: str
    words: list[_Written] = field(default_factory=list)
    block: str = ""
    conditional: bool = False
    assigned: set[str] = field(default_factory=set)


def _events(scanner: _Scanner) -> Iterator[_Event]:
    """Commands in order, between the blocks that they stand in."""
    open_blocks: list[_Event] = []
    words: list[_Written] = []
    conditional = skip_next = False

    def end() -> Iterator[_Event]:
        nonlocal words
        if words:
            event = _Event("command", words, conditional=conditional)
            for name in _assigned_in(words):
                for block in open_blocks:
                    block.assigned.add(name)
            words = []
            yield event

    def enter(block: str) -> Iterator[_Event]:
        event = _Event("enter", block=block)
        if len(open_blocks) < _MOST_BLOCKS:
            open_blocks.append(event)
        yield event

    def leave(block: str) -> Iterator[_Event]:
        if open_blocks and open_blocks[-1].block == block:
            yield _Event("leave", block=block, assigned=open_blocks.pop().assigned)

    for token in scanner.tokens():
        if isinstance(token, str):
            if token in _REDIRECTIONS:
                if words and words[-1].end == scanner.at - len(token) and (words[-1].literal or "x").isdigit():
                    words.pop()  # the descriptor of 2>file
                skip_next = True
                continue
            skip_next = False
            function = token == "(" and len(words) == 1  # name () …
            if function:
                words = []
            yield from end()
            conditional = token in ("&&", "||")
            if token == "(" and not function:
                yield from enter("subshell")
            elif token == ")":
                yield from leave("subshell")
            continue
        if skip_next:
            skip_next = False
            continue
        literal = None if words else token.literal
        if literal in _OPENS:
            yield from enter(_OPENS[literal])
            if literal in ("for", "select", "case"):
                words.append(token)
        elif literal == "{":
            yield from enter("function")
        elif literal in _CLOSES:
            yield from leave(_CLOSES[literal])
        elif literal not in _BETWEEN:
            words.append(token)
    yield from end()


def _assigned_in(words: list[_Written]) -> list[str]:
    """The names that a command sets."""
    first = words[0].literal
    if first in _READS:
        return [word.literal for word in words[1:] if word.literal and _NAME.fullmatch(word.literal)]
    names = []
    for word in words[1:] if first in _DECLARES else words:
        match = word.assignment
        if match is not None:
            names.append(match[1])
        elif first not in _DECLARES:
            break
    return names


# -- values

_Value = tuple[Word, ...] | None
"""The words of a variable (of a plain one: one); None where they are not known."""


class _Interpreter:
    """Follows constants through the script."""

    def __init__(self, text: str, events: list[_Event]) -> None:
        self._text, self._events = text, events
        self._values: dict[str, _Value] = {}
        self.texts: list[Word] = []
        self._times = Counter(name for event in events if event.kind == "command" for name in _assigned_in(event.words))

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

    def _forget(self, block: _Event) -> None:
        """A loop may have come round, a function may be called from anywhere: what they set is not known within."""
        if block.block == "loop":
            self._values.update(dict.fromkeys(block.assigned))
        elif block.block == "function":
            self._values.update({name: None for name, times in self._times.items() if times > 1})

    def _command(self, event: _Event) -> Command | None:
        words = event.words
        first = words[0].literal
        if first in _READS or first in ("case", "function"):
            self._values.update(dict.fromkeys(_assigned_in(words)))
            return None
        declares = first in _DECLARES
        environment: dict[str, Word] = {}
        settings: list[tuple[str, _Value]] = []
        rest = words[1:] if declares else words
        at = 0
        for word in rest:
            match = word.assignment
            if match is None and not declares:
                break
            at += 1
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
        return Command(tuple(expanded), environment) if expanded else None

    def _keep_texts(self, words: Iterable[Word]) -> None:
        self.texts += [word for word in words if word.known and " " in word.text]

    def _assigned(self, word: _Written, match: re.Match[str]) -> _Value:
        name, index, adds = match[1], match[2], match[3]
        if index:
            return None
        if word.elements is not None:
            value: _Value = tuple(field for element in word.elements for field in self._expanded(element))
        else:
            first = word.parts[0]
            parts = (_Part("text", first.text[match.end() :], True), *word.parts[1:])
            quoted = tuple(_Part(p.kind, p.text, True, p.default, p.assigns) for p in parts)  # no field is split here
            value = tuple(self._expanded(_Written(quoted, word.start, word.end)))
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

    def _expanded(self, word: _Written, depth: int = 0) -> list[Word]:
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

    def _value(self, part: _Part, depth: int) -> tuple[str, bool]:
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

    def _default(self, part: _Part, depth: int) -> tuple[str, bool]:
        if depth >= _DEEPEST or part.default is None:
            return "", False
        inner = _Scanner('"' + part.default.replace('"', "") + '"').word()
        fields = self._expanded(_Written(inner.parts, 0, 0), depth + 1)
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

"""A shell script's text → words and operators, as they stand there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

_PLAIN = re.compile(r"[^ \t\n\r\f\v'\"\\$`;&|<>()]+")
_IN_QUOTES = re.compile(r"[^\"\\$`]+")
_BLANK = re.compile(r"(?:[ \t\r\f\v]|\\\r?\n)+")
_OPERATOR = re.compile(r"&&|\|\||;;&|;;|;&|\|&|&>>|&>|>>|>&|>\||<&|<<<|<<-|<<|<>|[;&|<>()\n]")
NAME = re.compile(r"[A-Za-z_]\w*")
_ASSIGNMENT = re.compile(r"([A-Za-z_]\w*)(\[[^\]]*\])?(\+?)=")
_BRACED = re.compile(r"([A-Za-z_]\w*|\d+|[@*#?!$-])(?:\[([@*])\])?(?:(:?[-=])(.*))?\Z", re.DOTALL)


@dataclass(frozen=True)
class Part:
    """A piece of a word: ``text``, ``name`` (a variable), ``list`` (all of an array), ``sum`` or ``unknown``."""

    kind: str
    text: str
    quoted: bool
    default: str | None = None
    assigns: bool = False


@dataclass(frozen=True)
class Written:
    """A word as it stands in the script, before variables are filled in."""

    parts: tuple[Part, ...]
    start: int
    end: int
    elements: tuple[Written, ...] | None = None
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


class Scanner:
    """Text → words and operators."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.comments: list[tuple[int, str]] = []
        self._bodies: list[tuple[str, bool]] = []

    def tokens(self) -> Iterator[Written | str]:
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

    def word(self) -> Written:
        """The word that begins here."""
        text, size, start = self.text, len(self.text), self.at
        parts: list[Part] = []
        elements = None
        while self.at < size:
            character = text[self.at]
            if plain := _PLAIN.match(text, self.at):
                parts.append(Part("text", plain[0], False))
                self.at = plain.end()
            elif character == "'":
                end = text.find("'", self.at + 1)
                end = size if end < 0 else end
                parts.append(Part("text", text[self.at + 1 : end], True))
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
        return Written(tuple(_joined(parts)), start, self.at, elements)

    def _escape(self, parts: list[Part]) -> None:
        if after := re.compile(r"\\\r?\n").match(self.text, self.at):
            self.at = after.end()
        else:
            parts.append(Part("text", self.text[self.at + 1 : self.at + 2], True))
            self.at = min(len(self.text), self.at + 2)

    def _quoted(self) -> list[Part]:
        """What stands in double quotes, up to and past the closing one."""
        text, size = self.text, len(self.text)
        parts = [Part("text", "", True)]
        while self.at < size and text[self.at] != '"':
            if plain := _IN_QUOTES.match(text, self.at):
                parts.append(Part("text", plain[0], True))
                self.at = plain.end()
            elif text[self.at] == "\\":
                escaped = text[self.at + 1 : self.at + 2]
                kept = "" if escaped == "\n" else escaped if escaped in '$`"\\' else "\\" + escaped
                parts.append(Part("text", kept, True))
                self.at = min(size, self.at + 2)
            else:
                parts.append(self._expansion(True))
        self.at = min(size, self.at + 1)
        return parts

    def _expansion(self, quoted: bool) -> Part:
        """What a ``$`` or a backquote begins."""
        text, start = self.text, self.at
        if text[start] == "`":
            end = _closing(text, start + 1, "`", "`")
            self.at = end
            return Part("unknown", text[start:end], quoted)
        following = text[start + 1 : start + 2]
        if text.startswith("$((", start):
            self.at = _closing(text, start + 3, "(", ")")
            inner = text[start + 3 : self.at - 1]
            self.at = min(len(text), self.at + 1)
            return Part("sum", inner, quoted)
        if following == "(":
            self.at = _closing(text, start + 2, "(", ")")
            return Part("unknown", text[start : self.at], quoted)
        if following == "{":
            self.at = _closing(text, start + 2, "{", "}")
            return _braced(text[start : self.at], quoted)
        if name := NAME.match(text, start + 1):
            self.at = name.end()
            return Part("name", name[0], quoted)
        if following and following in "0123456789@*#?$!-":
            self.at = start + 2
            return Part("unknown", text[start : self.at], quoted)
        self.at = start + 1
        return Part("text" if following not in ("'", '"') else "unknown", "$", quoted)

    def _begins_array(self, parts: list[Part]) -> bool:
        return len(parts) == 1 and not parts[0].quoted and _ASSIGNMENT.fullmatch(parts[0].text) is not None

    def _array(self) -> tuple[Written, ...]:
        self.at += 1
        elements: list[Written] = []
        for token in self.tokens():
            if token == ")":
                break
            if isinstance(token, Written):
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


def _joined(parts: list[Part]) -> Iterator[Part]:
    """Neighbouring plain texts as one part."""
    held: Part | None = None
    for part in parts:
        if held is not None and part.kind == held.kind == "text" and part.quoted == held.quoted:
            held = Part("text", held.text + part.text, held.quoted)
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


def _braced(written: str, quoted: bool) -> Part:
    """``${name}``, ``${name:-default}``, ``${name[@]}``; anything else that braces can do is not known."""
    match = _BRACED.match(written[2:-1])
    if match is None or (match[2] and match[3]):
        return Part("unknown", written, quoted)
    if match[2]:
        return Part("list", match[1], quoted)
    if not NAME.fullmatch(match[1]) and match[3] is None:
        return Part("unknown", written, quoted)
    return Part("name", match[1], quoted, match[4], bool(match[3]) and match[3].endswith("="))

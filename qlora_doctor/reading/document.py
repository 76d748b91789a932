"""A file → a Document: its text, its data, and where things stand in it."""

from __future__ import annotations

import codecs
import json
import re
import stat
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn

from ..core.errors import ConfigError
from ..core.place import Place
from ..core.pointers import escaped
from ..core.text import cleaned

if TYPE_CHECKING:
    from .positions import Positions

Format = Literal["json", "yaml", "toml", "text"]
MAX_BYTES = 10 * 2**20
MAX_DEPTH = 64
_MOST_PLACED = 2**20
"""Characters up to which places are looked up: the YAML grammar counts rows in 16 bits, and slows down behind them."""
_MOST_TOML = 2**20
"""Characters of TOML: its parser is written in Python and takes a second for them."""
_MOST_TABLES, _MOST_DOTS = 2000, 200
"""Of these it takes the square of the number."""
_SUFFIXES: dict[str, Format] = {".json": "json", ".yaml": "yaml", ".yml": "yaml", ".toml": "toml", ".ipynb": "json"}
_TEXT_SUFFIXES = {".py", ".sh", ".bash"}
_BOMS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


@dataclass
class Document:
    """What a file holds, before any dialect says what it means.

    Attributes:
        path: the file; None for data that came from memory.
        text: its text, without byte-order mark.
        format: how it is written; ``text`` (a script) has no data.
        data: mappings, lists and scalars.
        duplicates: JSON pointers of keys that stand twice with different values; the last one counts.
        repeats: of those that stand twice with the same value.
        string_numbers: JSON pointers of unquoted YAML scalars such as ``2e-4``, which YAML 1.1 reads as a string.
        recognised: the dialect that was found to be surest of it, and how sure; None until somebody asks.
    """

    path: Path | None
    text: str
    format: Format
    data: Any
    duplicates: list[str] = field(default_factory=list)
    string_numbers: list[str] = field(default_factory=list)
    repeats: list[str] = field(default_factory=list)
    recognised: tuple[str, float] | None = field(default=None, init=False, compare=False)

    @cached_property
    def positions(self) -> Positions | None:
        """Places by tree-sitter, made on first use; None without a grammar, and for a text that no person wrote."""
        if self.format not in ("json", "yaml") or len(self.text) > _MOST_PLACED:
            return None
        from .positions import Positions  # lazy: a clean file needs no places

        return Positions(self.text, self.format)

    def place(self, pointer: str) -> Place:
        """Where the key at a JSON pointer stands; the nearest section above where it is absent."""
        name = str(self.path) if self.path is not None else None
        entry = self.positions.nearest(pointer) if self.positions is not None else None
        if entry is None or self.positions is None:
            return Place(file=name, pointer=pointer)
        line, column, end_line, end_column = self.positions.span(entry.shown)
        return Place(
            file=name,
            pointer=pointer,
            line=line,
            column=column,
            end_line=end_line,
            end_column=end_column,
            excerpt=self.positions.line(line),
        )


def read_document(path: Path) -> Document:
    """Read a file.

    Raises:
        ConfigError: it is missing, no text, too large, empty, or not what its name says.
    """
    text = _decode(path, _bytes(path))
    return _RECENT.get(path, text) or _RECENT.keep(document_of(path, text))


class _Recent:
    """Documents by path and text, the last few: walking a folder and then checking it parses each file once."""

    most = 2**22
    """Characters of all texts together."""
    longest = 2**16
    """Characters of one: the data of a longer one may take a hundred times as much."""

    def __init__(self) -> None:
        self._documents: dict[tuple[Path | None, str], Document] = {}
        self._size = 0

    def get(self, path: Path, text: str) -> Document | None:
        return self._documents.get((path, text))

    def keep(self, document: Document) -> Document:
        if len(document.text) > self.longest:
            return document
        self._documents[document.path, document.text] = document
        self._size += len(document.text)
        while self._size > self.most:
            oldest = next(iter(self._documents))
            self._size -= len(oldest[1])
            del self._documents[oldest]
        return document


_RECENT = _Recent()


def document_of(path: Path, text: str) -> Document:
    """The document that a file with this text is.

    Raises:
        ConfigError: as for ``read_document``.
    """
    format = _format_of(path, text)
    if format != "text" and not text.strip():
        raise ConfigError(f"{path} is empty.", remedy="`qlora-doctor init` writes a config to start from.")
    if format == "json":
        return _read_json(path, text)
    if format == "yaml":
        return _read_yaml(path, text)
    if format == "toml":
        return _read_toml(path, text)
    return Document(path, text, "text", None)


def encoded(path: Path, text: str) -> bytes:
    """A text in the encoding of a file, with its byte-order mark.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        head = file.read(4)
    mark, encoding = next(((mark, name) for mark, name in _BOMS if head.startswith(mark)), (b"", "utf-8"))
    return mark + text.encode(encoding)


STDIN = Path("-")
"""The name that stands for standard input."""


@cache
def _standard_input() -> bytes:
    """All of it, read once: a check reads its config more than once."""
    return sys.stdin.buffer.read(MAX_BYTES + 1)


def _bytes(path: Path) -> bytes:
    try:
        if path == STDIN:
            return _standard_input()
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise ConfigError(f"{path} is a folder.", remedy="Name the config file itself.")
        if not stat.S_ISREG(mode) and not stat.S_ISFIFO(mode):
            raise ConfigError(f"{path} is a device, not a file.")
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except FileNotFoundError as error:
        raise ConfigError(f"{path} does not exist.", remedy="`qlora-doctor init` writes a config.") from error
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}.") from error
    if len(content) > MAX_BYTES:
        raise ConfigError(f"{path} is larger than {MAX_BYTES >> 20} MiB, which no config is.")
    return content


def _decode(path: Path, content: bytes) -> str:
    encoding = "utf-8"
    for mark, name in _BOMS:
        if content.startswith(mark):
            content, encoding = content[len(mark) :], name
            break
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{path} is not {encoding.upper()} text: byte 0x{content[error.start]:02x} at offset {error.start}.",
            remedy="Save it as UTF-8.",
        ) from error
    if "\0" in text:
        raise ConfigError(f"{path} is a binary file, not a config.")
    return text


def _format_of(path: Path, text: str) -> Format:
    suffix = path.suffix.lower()
    if suffix in _TEXT_SUFFIXES:
        return "text"
    if suffix in _SUFFIXES:
        return _SUFFIXES[suffix]
    if text.startswith("#!"):
        return "text"
    return "json" if text.lstrip()[:1] in ("{", "[") else "yaml"


def _fail(
    path: Path, what: str, text: str = "", line: int | None = None, column: int | None = None, remedy: str | None = None
) -> NoReturn:
    lines = text.splitlines() if line is not None else []
    excerpt = lines[line - 1][:400] if line is not None and line <= len(lines) else None
    raise ConfigError(what, remedy=remedy, place=Place(file=str(path), line=line, column=column, excerpt=excerpt))


# -- JSON


def _read_json(path: Path, text: str) -> Document:
    differing: list[tuple[dict[str, Any], str]] = []
    alike: list[tuple[dict[str, Any], str]] = []

    def collect(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        mapping = dict(pairs)
        if len(mapping) < len(pairs):
            seen: dict[str, bool] = {}
            for key, value in pairs:
                seen[key] = seen.get(key, True) and same(value, mapping[key])
            count = Counter(key for key, _ in pairs)
            differing.extend((mapping, key) for key, times in count.items() if times > 1 and not seen[key])
            alike.extend((mapping, key) for key, times in count.items() if times > 1 and seen[key])
        return mapping

    try:
        data = json.loads(text, object_pairs_hook=collect)
    except json.JSONDecodeError as error:
        what, line, column, remedy = _json_sentence(path, text, error)
        _fail(path, what, text, line, column, remedy)
    except RecursionError:
        _fail(path, f"{path} is nested more than {MAX_DEPTH} levels deep, which no config is.")
    except ValueError as error:  # an integer of thousands of digits
        _fail(path, f"{path} holds a number that cannot be read: {str(error).split(';')[0]}.")
    _check_depth(path, data)
    differs, alike_at = (_pointers_of(data, found) if found else [] for found in (differing, alike))
    duplicates, repeats = cleaned((differs, alike_at))
    return Document(path, text, "json", cleaned(data), duplicates=duplicates, repeats=repeats)


def _json_sentence(path: Path, text: str, error: json.JSONDecodeError) -> tuple[str, int, int, str | None]:
    """(sentence, line, column, remedy) of a JSON error; the usual slips get their own words."""
    at, line, column = error.pos, error.lineno, error.colno
    rest = text[at : at + 2]
    before = text[:at].rstrip()
    if rest[:1] in ("#", "/") and (rest == "//" or rest == "/*" or rest[:1] == "#"):
        remedy = "Remove the comment, or name the file .yaml: YAML reads JSON and has comments (# …)."
        return f"{path} has a comment, and JSON has none.", line, column, remedy
    if before.endswith(",") and (rest[:1] in ("}", "]") or "trailing comma" in error.msg):
        return f"{path} has a comma before a closing bracket.", line, column, "Remove the comma."
    if rest[:1] == "'":
        return f"{path} has a text in single quotes, and JSON takes double quotes.", line, column, None
    if at >= len(text.rstrip()):
        return f"{path} ends before it is complete.", line, column, "Check that the file was written whole."
    return f"{path} is not valid JSON: {error.msg[:1].lower()}{error.msg[1:]}.", line, column, None


def _pointers_of(data: Any, repeated: list[tuple[dict[str, Any], str]]) -> list[str]:
    """JSON pointers of repeated keys; those inside a value that a later duplicate replaced are gone with it."""
    keys_of: dict[int, list[str]] = {}
    for mapping, key in repeated:
        keys_of.setdefault(id(mapping), []).append(key)
    found = []
    waiting: list[tuple[str, Any]] = [("", data)]
    while waiting:
        pointer, value = waiting.pop()
        for key in dict.fromkeys(keys_of.get(id(value), ())):
            found.append(f"{pointer}/{escaped(key)}")
        items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        waiting.extend((f"{pointer}/{escaped(str(key))}", inner) for key, inner in items)
    return sorted(found)


def same(one: Any, other: Any) -> bool:
    """True where two values are one to whoever reads them: 1 is not true, and 1 is 1.0."""
    return bool(one == other) and isinstance(one, bool) == isinstance(other, bool)


def _check_depth(path: Path, data: Any) -> None:
    level, depth = [data], 0
    while level:
        depth += 1
        if depth > MAX_DEPTH + 1:
            _fail(path, f"{path} is nested more than {MAX_DEPTH} levels deep, which no config is.")
        containers = [value for value in level if isinstance(value, dict | list)]
        level = [inner for value in containers for inner in (value.values() if isinstance(value, dict) else value)]


# -- YAML and TOML


def _read_yaml(path: Path, text: str) -> Document:
    from .yaml_reader import YamlProblem, read_yaml

    try:
        content = read_yaml(text)
    except YamlProblem as problem:
        if text.lstrip()[:1] == "{" and (document := _as_json(path, text)) is not None:
            return document  # some JSON is no YAML to libyaml (surrogate pairs), whatever the file is called
        remedy = "YAML indents with spaces; replace the tabs." if "'\\t'" in problem.message else None
        _fail(path, f"{path} is not valid YAML: {problem.message}.", text, problem.line, problem.column, remedy)
    data, duplicates, numbers, repeats = cleaned(
        (content.data, content.duplicates, content.string_numbers, content.repeats)
    )
    return Document(path, text, "yaml", data, duplicates, numbers, repeats)


def _as_json(path: Path, text: str) -> Document | None:
    try:
        return _read_json(path, text)
    except ConfigError:
        return None


def _keys_in(text: str) -> Iterator[str]:
    """What stands before the first ``=`` of each line that may be a key or the name of a table."""
    for line in text.splitlines():
        if "=" in line or line.startswith("["):
            yield line.partition("=")[0]


def _read_toml(path: Path, text: str) -> Document:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    if text.count("\n[") > _MOST_TABLES or any(line.count(".") > _MOST_DOTS for line in _keys_in(text)):
        _fail(path, f"{path} has more tables than any config.")
    if len(text) > _MOST_TOML:
        _fail(path, f"{path} is longer than {_MOST_TOML >> 10} KiB, which no TOML config is.")
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        where = re.search(r"\(at line (\d+), column (\d+)\)", str(error))
        line, column = (int(where[1]), int(where[2])) if where else (None, None)
        what = re.sub(r"\s*\(at .*\)$", "", str(error))
        _fail(path, f"{path} is not valid TOML: {what[:1].lower()}{what[1:]}.", text, line, column)
    except (RecursionError, ValueError) as error:
        _fail(path, f"{path} cannot be read as TOML: {type(error).__name__}.")
    _check_depth(path, data)
    return Document(path, text, "toml", cleaned(data))

"""A script's or a notebook's code: one text to parse, and where its lines stand in the file."""

from __future__ import annotations

import ast
import json
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from ...core.errors import ConfigError
from ...core.place import Place
from ..document import Document
from .newer import in_older_words

MOST_CODE = 512 * 1024
"""Characters of code at most: no training script is longer, and a parser's tree is hundreds of times larger."""
MOST_CELLS = 2000
_MAGIC = re.compile(r"^(\s*)(?:[%!?]|[\w.]+\?{1,2}\s*$)")
_MAGIC_LINE = re.compile(r"^[ \t]*[%!?]|\?[ \t]*$", re.MULTILINE)
_SHELL_CELL = re.compile(r"\s*%%(?!time|timeit|capture|prun|memit)\w*")


class Written(ast.AST):
    """Stands for the place of a value that is written in another file, such as a YAML that the script reads."""

    def __init__(self, place: Callable[[], Place | None]) -> None:
        """Keep how to find the place: most are never asked for."""
        super().__init__()
        self.place = place


def same_file(node: ast.AST, other: ast.AST) -> None:
    """Say of a node that it stands in the file of another one."""
    own = getattr(other, "source", None)
    if own is not None:
        node.source = own  # type: ignore[attr-defined]


class Line(NamedTuple):
    """Where a line of code stands in the file.

    Attributes:
        number: line of the file, from 1; None where it was not found there.
        indent: columns by which the file's line is further right.
        quoted: the line stands in a JSON text, with escapes.
        cell: number of the notebook's cell, from 1.
    """

    number: int | None
    indent: int = 0
    quoted: bool = False
    cell: int | None = None


@dataclass
class Source:
    """Code with its places.

    Attributes:
        file: name of the file.
        code: the text that was parsed.
        tree: the syntax tree.
        text: the whole file.
        skipped: cells that are no Python, from 1.
        written: the code with what is no Python, such as a notebook's shell commands.
    """

    file: str | None
    code: str
    tree: ast.Module
    lines: list[Line]
    text: str
    skipped: list[int]
    written: str

    @cached_property
    def nodes(self) -> tuple[ast.AST, ...]:
        """All nodes of the tree, as ``ast.walk`` gives them; many ask, and the walk costs more than parsing."""
        return tuple(ast.walk(self.tree))

    def place(self, node: ast.AST | None) -> Place | None:
        """Where a node begins; one of another file says so itself."""
        if isinstance(node, Written):
            return node.place()
        own: Source | None = getattr(node, "source", None)
        if own is not None and own is not self:
            return own.place(node)
        row, offset = getattr(node, "lineno", None), getattr(node, "col_offset", 0)
        if row is None or row > len(self.lines):
            return None
        line = self.lines[row - 1]
        if line.number is None:
            return Place(file=self.file, cell=line.cell)
        written = self._code_lines[row - 1] if row <= len(self._code_lines) else ""
        column = self._column(written, offset, line)
        end_row, end_offset = getattr(node, "end_lineno", None), getattr(node, "end_col_offset", None)
        end: tuple[int | None, int | None] = (None, None)
        if end_row is not None and end_offset is not None and end_row <= len(self.lines):
            last = self.lines[end_row - 1]
            if last.number is not None:
                end = (last.number, self._column(self._code_lines[end_row - 1], end_offset, last))
        excerpt = self._file_lines[line.number - 1] if line.number <= len(self._file_lines) else None
        return Place(
            file=self.file,
            line=line.number,
            column=column,
            end_line=end[0],
            end_column=end[1],
            cell=line.cell,
            excerpt=None if excerpt is None else excerpt[:400],
        )

    def cell(self, node: ast.AST | None) -> int | None:
        """The notebook's cell in which a node stands."""
        if getattr(node, "source", None) not in (None, self):
            return None
        row = getattr(node, "lineno", None)
        return self.lines[row - 1].cell if row is not None and row <= len(self.lines) else None

    def where(self, node: ast.AST | None) -> str:
        """In which line or cell a node stands, in words; of a node that is not known, the script as a whole."""
        if node is None:
            return "the script"
        cell = self.cell(node)
        row = getattr(node, "lineno", None)
        own: Source | None = getattr(node, "source", None)
        of = f" of {Path(own.file).name}" if own is not None and own is not self and own.file is not None else ""
        return f"cell {cell}" if cell is not None else f"line {row}{of}"

    def _column(self, written: str, offset: int, line: Line) -> int:
        before = written.encode("utf-8", "surrogatepass")[:offset].decode("utf-8", "replace")
        if line.quoted:
            before = json.dumps(before, ensure_ascii=False)[1:-1]
        return line.indent + len(before) + 1

    def __post_init__(self) -> None:
        self._code_lines = self.code.split("\n")
        self._file_lines = self.text.split("\n")


def read_source(document: Document) -> Source:
    """The code of a script or a notebook.

    Raises:
        ConfigError: it is no Python, or too much of it.
    """
    file = str(document.path) if document.path is not None else None
    if isinstance(document.data, dict):
        code, lines, skipped, written = _notebook(document)
    else:
        code, lines, skipped, written = *_script(document.text), [], document.text
    tree = _parse(code, file, lines)
    return Source(file, code, tree, lines, document.text.replace("\r\n", "\n").replace("\r", "\n"), skipped, written)


def _script(text: str) -> tuple[str, list[Line]]:
    kept = _split(text)
    if _MAGIC_LINE.search(text) is not None and len(text) <= MOST_CODE and not _parses("\n".join(kept)):
        kept = _without_magics(kept)  # a notebook that was saved as a script
    return "\n".join(kept), [Line(number + 1) for number in range(len(kept))]


def _split(text: str) -> list[str]:
    return text.replace("\r\n", "\n").replace("\r", "\n").replace("\f", " ").split("\n")


def _without_magics(lines: list[str]) -> list[str]:
    """Lines without shell commands and magics, at the same indentation."""
    kept: list[str] = []
    continued = False
    for line in lines:
        found = _MAGIC.match(line)
        if continued or found is not None:
            kept.append((found[1] if found is not None and not continued else "") + ("" if continued else "pass"))
            continued = line.rstrip().endswith("\\")
        else:
            kept.append(line)
    return kept


def _parse(code: str, file: str | None, lines: list[Line]) -> ast.Module:
    name = file or "The script"
    if len(code) > MOST_CODE:
        raise ConfigError(f"{name} has more than {MOST_CODE >> 10} KiB of code, which no training script has.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in the user's texts
            return _parsed(code)
    except SyntaxError as error:
        row = error.lineno or 1
        line = lines[row - 1] if row <= len(lines) else Line(None)
        where = f" (cell {line.cell})" if line.cell is not None else ""
        place = Place(file=file, line=line.number, column=(error.offset or 1) + line.indent, excerpt=None)
        what = str(error.msg)[:120]
        raise ConfigError(f"{name} is not valid Python{where}: {what[:1].lower()}{what[1:]}.", place=place) from None
    except (RecursionError, MemoryError):
        raise ConfigError(f"{name} is nested too deeply to be read.") from None
    except ValueError as error:
        raise ConfigError(f"{name} cannot be read as Python: {str(error).split(';')[0][:120]}.") from None


def _parsed(code: str) -> ast.Module:
    """The tree of the code; where this Python does not know it, of the same in older words."""
    try:
        return ast.parse(code)
    except SyntaxError as error:
        older = in_older_words(code)
        if older == code:
            raise
        try:
            return ast.parse(older)
        except (SyntaxError, ValueError):
            raise error from None


def _notebook(document: Document) -> tuple[str, list[Line], list[int], str]:
    """(code, places, cells that are no Python, all that is written in code cells) of a notebook.

    A cell that does not parse is left out.
    """
    cells = document.data.get("cells")
    if not isinstance(cells, list) and isinstance(document.data.get("worksheets"), list):
        sheets = [sheet for sheet in document.data["worksheets"] if isinstance(sheet, dict)]
        cells = [cell for sheet in sheets for cell in sheet.get("cells") or []]
    finder = _Finder(document.text)
    code: list[str] = []
    places: list[Line] = []
    skipped: list[int] = []
    written: list[str] = []
    if isinstance(cells, list) and len(cells) > MOST_CELLS:
        raise ConfigError(f"{document.path or 'The notebook'} has more than {MOST_CELLS:,} cells.")
    for number, cell in enumerate(cells if isinstance(cells, list) else [], start=1):
        if not isinstance(cell, dict) or cell.get("cell_type") != "code":
            continue
        pieces = _pieces(cell)
        written += pieces
        rows, found = _cell(pieces, finder, number)
        if rows is None:
            skipped.append(number)
            continue
        code += rows
        places += found
    return "\n".join(code), places or [Line(None)], skipped, "\n".join(written)


def _pieces(cell: dict[str, Any]) -> list[str]:
    """The texts that a cell is written in."""
    written = cell.get("source", cell.get("input", ""))
    return [piece for piece in written if isinstance(piece, str)] if isinstance(written, list) else [str(written)]


def _cell(pieces: list[str], finder: _Finder, number: int) -> tuple[list[str] | None, list[Line]]:
    """(lines of code or None where it is no Python, their places) of a cell."""
    rows: list[str] = []
    places: list[Line] = []
    for piece in pieces:
        line, column = finder.find(piece)
        inner = _split(piece)
        if len(inner) > 1 and inner[-1] == "":
            inner.pop()
        offset = 0
        for row in inner:
            indent = column + len(json.dumps(piece[:offset], ensure_ascii=False)) - 2 if column is not None else 0
            places.append(Line(line, indent, True, number))
            rows.append(row)
            offset += len(row) + 1
    if rows and _SHELL_CELL.match(rows[0]):
        return ["pass"] * len(rows), places
    if sum(map(len, rows)) > MOST_CODE:
        return None, places
    for kept in (rows, _without_magics(rows)):
        if _parses("\n".join(kept)):
            return kept, places
    return None, places


def _parses(code: str) -> bool:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            _parsed(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


class _Finder:
    """Finds the texts of a notebook in its JSON, one after the other."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.cursor = 0
        self.line = 1
        self.counted = 0
        self.misses = 0

    def find(self, piece: str) -> tuple[int | None, int | None]:
        """(line, columns before it) of the next place where this text stands."""
        if self.misses > 50 or not piece:
            return None, None
        for plain in (False, True):
            quoted = json.dumps(piece, ensure_ascii=plain)
            at = self.text.find(quoted, self.cursor)
            if at >= 0:
                self.line += self.text.count("\n", self.counted, at)
                self.counted = at
                self.cursor = at + len(quoted)
                return self.line, at - (self.text.rfind("\n", 0, at) + 1) + 1
        self.misses += 1
        return None, None

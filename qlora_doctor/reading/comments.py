"""Comments in a config that tell what is not to count: ``# qlora-doctor: ignore[QD301] reason``.

Behind a key, it is about that line; on a line of its own, about the next line that is not a comment;
``ignore-file[QD301]`` is about the whole file.
"""

from __future__ import annotations

import io
import re
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import tree_sitter

_REMARK = re.compile(r"qlora-doctor:\s*ignore(-file)?\[([^\]]*)\]\s*(.*)")


@dataclass(frozen=True)
class Remark:
    """One such comment.

    Attributes:
        line: where it stands, from 1.
        covers: the line that it is about; None for the whole file.
        rules: ids, beginnings of ids, or names.
    """

    line: int
    covers: int | None
    rules: tuple[str, ...]
    reason: str


def remarks_in(file: Path, text: str | None = None) -> list[Remark]:
    """The comments in a YAML, JSON, Python or shell file or a notebook, in its order; none where it cannot be parsed.

    Args:
        file: where it stands; its name says what it is.
        text: what stands in it, where it was read already.
    """
    try:
        text = file.read_text(encoding="utf-8-sig") if text is None else text
    except (OSError, UnicodeDecodeError):
        return []
    if "qlora-doctor:" not in text:
        return []
    if file.suffix.lower() == ".ipynb":
        return _in_notebook(file, text)
    return _remarks(text, file.suffix.lower())


def _in_notebook(file: Path, text: str) -> list[Remark]:
    """Those of the code in a notebook, at the lines of the file."""
    from ..core.errors import ConfigError
    from .document import document_of
    from .python.source import read_source

    try:
        source = read_source(document_of(file, text))
    except (ConfigError, RecursionError):
        return []
    lines = {row: line.number for row, line in enumerate(source.lines, start=1)}
    found = []
    for remark in _remarks(source.code, ".py"):
        number, covers = lines.get(remark.line), lines.get(remark.covers or 0)
        if number is not None and (covers is not None or remark.covers is None):
            found.append(Remark(number, covers, remark.rules, remark.reason))
    return found


def _remarks(text: str, suffix: str) -> list[Remark]:
    lines = text.split("\n")
    remarks = []
    for number, written in _comments(text, suffix):
        match = _REMARK.search(written)
        if match is None:
            continue
        rules = tuple(part.strip() for part in match[2].split(",") if part.strip())
        covers = None if match[1] else _covered(lines, number)
        remarks.append(Remark(number, covers, rules, match[3].strip(" */") or "no reason was given"))
    return remarks


def _comments(text: str, suffix: str) -> Iterator[tuple[int, str]]:
    """Line and text of each comment; what looks like one inside a string is none."""
    if suffix == ".py":
        try:
            for token in tokenize.generate_tokens(io.StringIO(text).readline):
                if token.type == tokenize.COMMENT:
                    yield token.start[0], token.string
        except (tokenize.TokenError, SyntaxError):
            return
        return
    if suffix in (".sh", ".bash"):
        from .shell import read_script

        script = read_script(text)
        yield from ((script.place(offset)[0], comment) for offset, comment in script.comments)
        return
    yield from _tree_comments(text, "json" if suffix in (".json", ".jsonc", ".json5") else "yaml")


def _tree_comments(text: str, format: str) -> Iterator[tuple[int, str]]:
    from .positions import grammar

    tree = tree_sitter.Parser(tree_sitter.Language(grammar(format))).parse(text.encode("utf-8", "surrogatepass"))
    waiting = [tree.root_node]
    found = []
    while waiting:
        node = waiting.pop()
        if node.type == "comment" and node.text is not None:
            found.append((node.start_point[0] + 1, node.text.decode("utf-8", "replace")))
        waiting.extend(node.children)
    yield from sorted(found)


def _covered(lines: list[str], number: int) -> int:
    """The comment's own line where something stands before it, else the next line that says something."""
    if not lines[number - 1].lstrip().startswith(("#", "//", "/*")):
        return number
    for later in range(number, len(lines)):
        if lines[later].strip() and not lines[later].lstrip().startswith(("#", "//", "/*")):
            return later + 1
    return number

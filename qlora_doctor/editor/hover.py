"""What is known of the key under the cursor: its meaning, its value and its origin, and the rules that speak."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from ..core.pointers import join_pointer, split_pointer
from ..reading.positions import Entry, Positions
from ..setup.defaults import Libraries
from ..setup.resolved import Resolved
from ..setup.setup import SECTIONS
from .analysis import Analysis
from .ranges import Range

_MOST_SILENT = 30
_SOURCES = {
    "explicit": "written in this file",
    "dialect_default": "default of the trainer",
    "library_default": "default of the library",
    "unknown": "not known",
}


def hover(analysis: Analysis, line: int, character: int) -> tuple[str, Range | None] | None:
    """Markdown for an editor's position, and the range that it is about; None where there is nothing to say."""
    if analysis.setup is None:
        return None
    offset = analysis.text.offset_at(line, character)
    parts: list[str] = []
    found = _keys_at(analysis, offset)
    paths, place = found if found is not None else ([], None)
    for path in paths:
        parts += [_section(analysis, path)] if path in SECTIONS else [_key(analysis, path)]
    at = analysis.text.position(offset)
    for problem in analysis.problems:
        start, end = problem.range
        if problem.finding is not None and start <= at <= end:
            parts.append(_page(problem.finding.rule, problem.finding.name, problem.url))
            place = place or problem.range
    return ("\n\n---\n\n".join(parts), place) if parts else None


def _resolved(analysis: Analysis) -> Resolved:
    assert analysis.setup is not None
    environment = analysis.report.facts.environment if analysis.report is not None else None
    return Resolved(analysis.setup, Libraries.of(environment.packages if environment is not None else None))


def _key(analysis: Analysis, path: str) -> str:
    from ..reading.schema import key_meanings

    assert analysis.setup is not None
    resolved, origin = _resolved(analysis), analysis.setup.origins[path]
    lines = [f"**{path}**"]
    if meaning := key_meanings().get(path):
        lines += ["", meaning]
    if not _is_field(path):
        return "\n".join(lines)
    lines.append("")
    if resolved.is_unknown(path):
        lines.append(f"- here: not known{': ' + _plain(origin.note) if origin.note else ''}")
    else:
        note = f"; {_plain(origin.note)}" if origin.note else ""
        lines.append(f"- here: {_code(resolved[path])} ({_SOURCES[origin.source]}{note})")
    default = resolved.default(path)
    lines.append(f"- where silent: {_code(default) if default is not None else 'no default, or not known here'}")
    return "\n".join(lines)


def _section(analysis: Analysis, section: str) -> str:
    """What stands for the keys of a section that the file leaves silent."""
    resolved = _resolved(analysis)
    lines = []
    for field in SECTIONS[section].model_fields:
        path = f"{section}.{field}"
        if field == "extra" or resolved.written(path) is not None or resolved.is_unknown(path):
            continue
        if (value := resolved[path]) is not None:
            lines.append(f"- `{field}`: {_code(value)}")
    silent = "\n".join(lines[:_MOST_SILENT]) or "Nothing: every key with a default is set."
    return f"**{section}**\n\nWhat stands where this file is silent:\n\n{silent}"


def _page(rule: str, name: str, url: str | None) -> str:
    from ..reporters._pages import page_text

    page = page_text(rule)
    head = f"**{rule} {name}**" + (f" · [page]({url})" if url else "")
    if page is None or page.markdown is None:
        return head
    return f"{head}\n\n{_lowered(page.markdown)}"


def _lowered(markdown: str) -> str:
    return re.sub(r"^## (.+)$", r"**\1**", markdown.strip(), flags=re.MULTILINE)


def _is_field(path: str) -> bool:
    section, _, field = path.partition(".")
    return section in SECTIONS and field in SECTIONS[section].model_fields and field != "extra"


def _keys_at(analysis: Analysis, offset: int) -> tuple[list[str], Range] | None:
    """The canonical paths that the key at an offset sets, and where it stands."""
    assert analysis.setup is not None
    document = analysis.document
    if document is not None and document.positions is not None:
        return _by_pointer(analysis, document.positions, offset)
    found = []
    for path, span in analysis.lines.items():
        start = analysis.text.offset(span["line"], span["column"])
        end = analysis.text.offset(span["end_line"] or span["line"], span["end_column"])
        if start <= offset <= end and (_is_field(path) or path in SECTIONS):
            found.append((end - start, start, end, path))
    if not found:
        return None
    size, start, end, _ = min(found)
    return [each[3] for each in found if each[0] == size], analysis.text.range(start, end)


def _by_pointer(analysis: Analysis, positions: Positions, offset: int) -> tuple[list[str], Range] | None:
    assert analysis.setup is not None
    target = len(analysis.text.text[:offset].encode("utf-8"))
    steps, entry = _deepest(positions, target)
    if entry is None or entry.key is None:
        return None
    pointer = join_pointer(steps)
    paths = [
        path
        for path, origin in analysis.setup.origins.items()
        if origin.place is not None and origin.place.pointer == pointer
    ]
    if not paths and analysis.setup.dialect == "native":  # an argument that is passed on has no origin of its own
        paths = [".".join(split_pointer(pointer))] if len(steps) == 2 else []
        paths = [path for path in paths if path in _known()]
    line, column, end_line, end_column = positions.span(entry.key)
    text = analysis.text
    place = text.range(text.offset(line, column), text.offset(end_line, end_column))
    return ([path for path in paths if path in SECTIONS or path in _known()], place) if paths else None


def _known() -> set[str]:
    from ..reading.schema import key_meanings

    return set(key_meanings()) | {f"{name}.{field}" for name, model in SECTIONS.items() for field in model.model_fields}


def _deepest(positions: Positions, target: int) -> tuple[list[str], Entry | None]:
    """The innermost entry with a key around a byte, and the steps to it."""
    steps: list[str] = []
    kept: tuple[list[str], Entry | None] = ([], None)
    entry: Entry | None = positions.root
    while entry is not None:
        inner = next(_around(positions, entry, target), None)
        if inner is None:
            return kept
        step, entry = inner
        steps.append(step)
        if entry.key is not None:
            kept = (list(steps), entry)
    return kept


def _around(positions: Positions, entry: Entry, target: int) -> Iterator[tuple[str, Entry]]:
    for step, child in positions.children(entry):
        whole = child.whole
        if whole is not None and whole.start_byte <= target <= whole.end_byte:
            yield step, child


def _code(value: Any) -> str:
    shown = json.dumps(value, ensure_ascii=False, default=str) if not isinstance(value, str) else value
    shown = " ".join(shown.split())[:200].replace("`", "'")
    return f"`{shown}`" if shown else "an empty text"


def _plain(text: str) -> str:
    return re.sub(r"([\\`*_\[\]<>])", r"\\\1", " ".join(text.split()))

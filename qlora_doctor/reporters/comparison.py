"""A comparison as text, Markdown, HTML or JSON; one list of tables behind all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ..core.errors import UsageError
from . import _words as words
from .comparing import Change, Comparison, Found
from .markdown import text as escaped

_SIDES = ("before", "after")
MOST_OF_A_KIND = 5
"""Lines of new findings, and of keys, in a comparison in short: with all else it has 20 at most."""


@dataclass(frozen=True)
class _Table:
    title: str
    head: tuple[str, ...]
    rows: list[tuple[str, ...]]


def render(comparison: Comparison, format: str) -> str:
    """The comparison in a format.

    Raises:
        UsageError: there is no such format.
    """
    if format not in FORMATS:
        raise UsageError(f"There is no format {format!r}; the formats are {', '.join(FORMATS)}.")
    return FORMATS[format](comparison)


def in_full(comparison: Comparison) -> str:
    """All that changed, as tables as wide as they are."""
    blocks = [f"{words.one_line(comparison.before)} → {words.one_line(comparison.after)}"]
    for table in _tables(comparison):
        blocks.append("\n".join([table.title, *_columns([table.head, *table.rows])]))
    if comparison.not_seen:
        blocks.append("\n".join(["Not compared", *(f"  {words.one_line(each)}" for each in comparison.not_seen)]))
    return "\n\n".join([*blocks, *_regressions(comparison), f"verdict: {verdict(comparison)}"]) + "\n"


def in_short(comparison: Comparison, width: int = 100) -> str:
    """What changed that matters first, 20 lines at most; none is longer than ``width``."""
    lines = [f"{words.one_line(comparison.before)} → {words.one_line(comparison.after)}"]
    budgets = [each for each in comparison.regressions if each.kind == "budget"]
    lines += [f"budget: {words.one_line(each.sentence)}" for each in budgets[:3]]
    new = [f"{each.severity} {_rule(each)}: {words.one_line(each.message)}" for each in comparison.new]
    lines += _few("new", new, [each.rule for each in comparison.new])
    for what, found in (("gone", comparison.gone), ("unchanged", comparison.unchanged)):
        if found:
            lines.append(f"{what}: {', '.join(dict.fromkeys(map(_rule, found)))}")
    lines += _memory_in_short(comparison)
    setup = [f"{path}: {before} → {after}" for path, before, after in _changed(comparison.setup, words.literal)]
    lines += _few("setup", setup, [words.one_line(each.path) for each in comparison.setup])
    if comparison.versions:
        told = (f"{path} {before} → {after}" for path, before, after in _changed(comparison.versions, words.literal))
        lines.append(f"packages: {', '.join(told)}")
    if comparison.facts:
        lines.append(f"{words.plural(len(comparison.facts), 'fact')} changed; -v tells them and all above in full")
    if comparison.not_seen:
        lines.append(f"not compared: {words.one_line(' '.join(comparison.not_seen))}")
    return "\n".join([*(_cut(line, width) for line in lines), f"verdict: {verdict(comparison)}"]) + "\n"


def _cut(line: str, width: int) -> str:
    """At a space, where there is one in the line's second half."""
    if len(line) <= width:
        return line
    end = line.rfind(" ", width // 2, width)
    return f"{line[: end if end > 0 else width - 1]}…"


def _few(what: str, told: list[str], names: list[str]) -> list[str]:
    """A line each for the first, the others by their names alone."""
    shown = len(told) if len(told) <= MOST_OF_A_KIND else MOST_OF_A_KIND - 1
    rest = names[shown:]
    more = [f"{what}: {len(rest)} more: {', '.join(rest)}"] if rest else []
    return [f"{what}: {each}" for each in told[:shown]] + more


def _memory_in_short(comparison: Comparison) -> list[str]:
    """The peak, and the parts that changed the most."""
    rows = _memory(comparison)
    if not rows:
        return []
    (_, before, after, change), parts = rows[0], comparison.memory[1:]
    peak = f"memory, {comparison.memory_source}: peak allocated {before} → {after}{f' ({change})' if change else ''}"
    grown = sorted(parts, key=lambda part: -abs((part.after or 0) - (part.before or 0)))
    told = [f"{row[0]} {row[3]}" for part in grown[:3] for row in rows[1:]
            if row[3] and row[0] == words.one_line(part.part.replace("_", " "))]  # fmt: skip
    return [f"{peak}: {', '.join(told)}" if told else peak]


def _rule(found: Found) -> str:
    return words.one_line(f"{found.rule} {found.name}")


def _columns(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in rows]  # fmt: skip


def _regressions(comparison: Comparison) -> list[str]:
    lines = [f"  {each.kind}: {words.one_line(each.sentence)}" for each in comparison.regressions]
    return ["\n".join(["Regressions", *lines])] if lines else []


def _markdown(comparison: Comparison) -> str:
    sign = "❌" if comparison.regressions else "✅"
    blocks = [
        f"## {sign} {escaped(comparison.before)} → {escaped(comparison.after)}",
        f"**{escaped(verdict(comparison))}**",
    ]
    blocks += [f"- {each.kind}: {escaped(each.sentence)}" for each in comparison.regressions]
    blocks += [f"- not compared: {escaped(each)}" for each in comparison.not_seen]
    for table in _tables(comparison):
        rows = [table.head, tuple("---" for _ in table.head), *(tuple(map(escaped, row)) for row in table.rows)]
        body = "\n".join(f"| {' | '.join(row)} |" for row in rows)
        blocks.append(f"### {table.title}\n\n{body}")
    return "\n\n".join(blocks) + "\n"


def _html(comparison: Comparison) -> str:
    """Side by side: findings and memory have a picture of their own, the rest are rows of before and after."""
    from .html import page
    from .html.comparison import memory_delta, signed

    changed = [table for table in _tables(comparison) if table.head[1:] == _SIDES]
    memory = memory_delta(comparison.memory, (comparison.before, comparison.after))
    return page(
        "comparison.html.j2",
        comparison=comparison, tables=changed, memory=memory, signed=signed,
        verdict=verdict(comparison),
    )  # fmt: skip


def _json(comparison: Comparison) -> str:
    return comparison.model_dump_json(indent=2) + "\n"


def verdict(comparison: Comparison) -> str:
    """One sentence."""
    if comparison.regressions:
        return f"{words.plural(len(comparison.regressions), 'regression')}."
    if comparison.not_seen:
        return "no regression in what was seen; not every stage was."
    changed = any((comparison.setup, comparison.facts, comparison.new, comparison.gone, comparison.versions))
    return "no regression." if changed else "nothing changed."


def _tables(comparison: Comparison) -> list[_Table]:
    """What there is to tell, in the order of its weight."""
    tables = [
        _Table("New findings", ("rule", "severity", "message"), _found(comparison.new)),
        _Table("Findings that are gone", ("rule", "severity", "message"), _found(comparison.gone)),
        _Table("Findings that stay", ("rule", "severity", "message"), _found(comparison.unchanged)),
        _Table(f"Memory, {comparison.memory_source}", ("part", *_SIDES, "change"), _memory(comparison)),
        _Table("Setup", ("key", *_SIDES), _changed(comparison.setup, words.literal)),
        _Table("Packages", ("package", *_SIDES), _changed(comparison.versions, words.literal)),
        _Table("Facts", ("fact", *_SIDES), [_fact(change) for change in comparison.facts]),
    ]
    return [table for table in tables if table.rows]


def _found(findings: Sequence[Found]) -> list[tuple[str, ...]]:
    return [(words.one_line(f"{f.rule} {f.name}"), f.severity, words.one_line(f.message)) for f in findings]


def _changed(changes: Sequence[Change], told: Callable[[Any], str]) -> list[tuple[str, ...]]:
    return [(words.one_line(c.path), _or_absent(c.before, told), _or_absent(c.after, told)) for c in changes]


def _or_absent(value: Any, told: Callable[[Any], str]) -> str:
    return "–" if value is None else told(value)


def _fact(change: Change) -> tuple[str, ...]:
    def told(value: Any) -> str:
        return words.fact(change.path, value, most=4)

    return words.one_line(change.path), _or_absent(change.before, told), _or_absent(change.after, told)


def _memory(comparison: Comparison) -> list[tuple[str, ...]]:
    """Every part, also those that stay: the sum is what a reader checks."""
    rows: list[tuple[str, ...]] = []
    for part in comparison.memory:
        delta = (part.after or 0) - (part.before or 0)
        change = "" if delta == 0 else ("+" if delta > 0 else "−") + words.size(abs(delta))
        rows.append(
            (
                words.one_line(part.part.replace("_", " ")),
                words.size(part.before or 0),
                words.size(part.after or 0),
                change,
            )
        )
    return rows


FORMATS: dict[str, Callable[[Comparison], str]] = {
    "text": in_short,
    "json": _json,
    "markdown": _markdown,
    "html": _html,
}
"""Format name → function of a comparison."""

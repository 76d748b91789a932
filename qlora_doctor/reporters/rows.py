"""Rows of the data as the model sees them, in a terminal: with colours, or with marks where there are none."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from ..core.report import Report
from ..facts.data import DataFacts, RowFacts, SegmentFacts
from . import _words as words

_COLORS = {"trained": "\033[32m", "masked": "\033[2m", "padding": "\033[2;34m", "cut": "\033[9;31m"}
_SPECIAL, _OFF = "\033[7m", "\033[0m"
_MARKS = {"trained": ("‹", "›"), "cut": ("✂{", "}"), "padding": ("░{", "}")}
_BAR = 40


def render(report: Report, *, rows: int, color: bool) -> str:
    """The data of a report: what it is, how long its rows are, and some of them.

    Args:
        rows: how many are shown.
        color: colours in place of marks.
    """
    data = report.facts.data
    if data is None:
        record = next((each for each in report.stages if each.name == "data"), None)
        why = record.reason if record is not None and record.reason else "No data was looked at."
        return words.visible(why) + "\n"
    lines = [*_head(data), "", *_lengths(data)]
    shown = list(data.shown or [])[:rows]
    if shown:
        lines += ["", _legend(color, any(part.kind == "padding" for row in shown for part in row.segments)), ""]
        for row in shown:
            lines += [_title(row), _text(row.segments, color), ""]
    elif data.failure is None:
        why = "they are prompts, whose answers the model writes" if data.reward_functions else _NO_TOKENIZER
        lines += ["", f"The rows are not shown: {why}."]
    return "\n".join(lines).rstrip() + "\n"


_NO_TOKENIZER = "the model's tokenizer is not on this machine"


def _head(data: DataFacts) -> list[str]:
    total = f"{data.rows:,} rows" if data.rows is not None else "rows not counted"
    seen = f", {data.rows_seen:,} looked at" if data.rows_seen is not None and data.rows_seen != data.rows else ""
    head = [
        f"{words.one_line(data.source or 'data')} · {words.one_line(data.format or 'unknown form')} · {total}{seen}"
    ]
    if data.rendered_by:
        differ = "" if data.rendered_by_trainer else ": details may differ from the trainer's own"
        head.append(f"rendered by {words.one_line(data.rendered_by)}{differ}")
    for each in data.sets or ():
        if each.not_followed:
            head.append(f"not looked at: {words.one_line(each.name or '?')}: {words.one_line(each.not_followed)}")
        elif each.columns_unread:
            head.append(
                f"nothing reads {words.one_line(', '.join(each.columns_unread))} of {words.one_line(each.name)}"
            )
    if data.roles:
        trained = f"; trained: {', '.join(data.roles_trained or [])}" if data.roles_trained else ""
        head.append(words.one_line(f"roles: {', '.join(data.roles)}{trained}"))
    if data.left_out_reasons:
        head.append(f"left out: {words.one_line(', '.join(data.left_out_reasons))}")
    if data.failure:
        head.append(f"failed: {words.one_line(data.failure)}")
    return head


def _lengths(data: DataFacts) -> list[str]:
    """The histogram of lengths, a line a bin, neighbours joined so that there are ten at most."""
    counts, width = list(data.lengths or []), data.lengths_bin or 0
    if not counts or not width:
        return []
    while len(counts) > 10:
        counts = [sum(counts[index : index + 2]) for index in range(0, len(counts), 2)]
        width *= 2
    top, cut = max(counts), data.limit
    lines = ["tokens"]
    for index, count in enumerate(counts):
        first, last = index * width, (index + 1) * width - 1
        mark = "  ← a row ends here" if cut is not None and first <= cut <= last else ""
        bar = "█" * max(round(_BAR * count / top), 1 if count else 0)
        lines.append(f"{f'{first:,}–{last:,}':>15} {bar} {count or ''}{mark}".rstrip())
    if data.trained_ratio is not None:
        lines.append(f"{data.trained_ratio:.0%} of the tokens are trained")
    return lines


def _legend(color: bool, pads: bool) -> str:
    kinds = ["trained", "masked", *(["padding"] if pads else [])]
    if not color:
        marked = [f"{opens}{name}{closes}" for name in kinds for opens, closes in [_MARKS.get(name, ("", ""))]]
        return "  ".join([*marked, "[special]", "✂{cut off}"])
    parts = [f"{_COLORS[name]}{name}{_OFF}" for name in kinds]
    return "  ".join([*parts, f"{_SPECIAL}special{_OFF}", f"{_COLORS['cut']}cut off{_OFF}"])


def _title(row: RowFacts) -> str:
    place = f" · row {row.number + 1:,}" if row.number is not None else ""
    cut = f" · {row.length - row.kept:,} cut off" if row.dropped is None and row.kept < row.length else ""
    end = f" · left out: {row.dropped}" if row.dropped else f" · {row.trained:,} trained{cut}"
    return words.one_line(f"── {', '.join(row.which)}{place} · {row.length:,} tokens{end} ──")


def _text(segments: Sequence[SegmentFacts], color: bool) -> str:
    """Segments one behind the other; without colour one pair of marks around all neighbours of a kind."""
    if not color:
        return "".join(_marked(kind, list(part)) for kind, part in groupby(segments, key=lambda each: each.kind))
    parts = []
    for each in segments:
        begin = _COLORS[each.kind] + (_SPECIAL if each.special else "")
        # Each line by itself, so that a pager or a log does not carry a colour on.
        lines = words.visible(each.text).split("\n")
        parts.append("\n".join(f"{begin}{line}{_OFF}" if line else "" for line in lines))
    return "".join(parts)


def _marked(kind: str, segments: Sequence[SegmentFacts]) -> str:
    opens, closes = _MARKS.get(kind, ("", ""))
    inner = (f"[{text}]" if each.special else text for each in segments for text in [words.visible(each.text)])
    return f"{opens}{''.join(inner)}{closes}"

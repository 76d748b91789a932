"""Several reports at a glance: a line for each, and one that counts them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from ..core.report import Report
from . import _words as words

_HEAD = ("config", "errors", "warnings", "notes", "trains", "peak", "")
_SGR = {"unread": "1;31", "incomplete": "1;33", "fails": "1;31", "passes": "1;32"}
_COUNTED = {"fails": "failed", "passes": "passed", "incomplete": "incomplete", "unread": "not read"}


def render(reports: Sequence[Report], *, color: bool = False, not_begun: int = 0) -> str:
    """A table, in the order of the reports.

    Args:
        color: use ANSI colours; the table reads the same without.
        not_begun: configs that were interrupted before anything was known of them.
    """
    rows = [_HEAD, *(_row(report) for report in reports)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [_line(row, widths, color) for row in rows]
    return "\n".join([*lines, "", _count(reports, not_begun)]) + "\n"


def outcome(report: Report) -> str:
    """One word: ``passes``, ``fails``, ``incomplete`` (a stage that was asked for has no result) or ``unread``."""
    return {0: "passes", 1: "fails", 2: "unread"}.get(report.exit_code, "incomplete")


def _row(report: Report) -> tuple[str, ...]:
    adapter, memory = report.facts.adapter, report.facts.memory
    ratio = adapter.trainable_ratio if adapter is not None else None
    peak = memory.predicted.peak_allocated_bytes if memory is not None and memory.predicted is not None else None
    name = str((report.setup or {}).get("file") or "objects in memory")
    summary = report.summary
    return (
        words.one_line(name),
        *(str(count) if count else "·" for count in (summary.error, summary.warning, summary.info)),
        "" if ratio is None else words.percent(ratio),
        "" if peak is None else words.size(peak),
        outcome(report),
    )


def _line(row: Sequence[str], widths: Sequence[int], color: bool) -> str:
    cells = [row[0].ljust(widths[0]), *(cell.rjust(wide) for cell, wide in zip(row[1:-1], widths[1:-1], strict=True))]
    last = f"\x1b[{_SGR[row[-1]]}m{row[-1]}\x1b[0m" if color and row[-1] in _SGR else row[-1]
    return "  ".join([*cells, last]).rstrip()


def _count(reports: Sequence[Report], not_begun: int) -> str:
    counted = Counter(outcome(report) for report in reports)
    parts = [f"{counted[name]} {_COUNTED[name]}" for name in _COUNTED if counted[name]]
    known = sum(record.cached for report in reports for record in report.stages)
    return " · ".join(
        [
            words.plural(len(reports) + not_begun, "config"),
            *parts,
            *([f"{not_begun} not begun"] if not_begun else []),
            *([f"{words.plural(known, 'stage')} known from before"] if known else []),
        ]
    )

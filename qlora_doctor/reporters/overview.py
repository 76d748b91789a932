"""Several reports at a glance: a line for each, and one that counts them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from ..core.report import NOT_ASKED_FOR, Report, stages_of
from . import _words as words
from ._needed import needed

_NAMED = 3
_HEAD = ("config", "errors", "warnings", "notes", "trains", "peak", "")
_SGR = {"unread": "1;31", "incomplete": "1;33", "partly read": "1;33", "partly seen": "1;33", "fails": "1;31",
        "passes": "1;32"}  # fmt: skip
_COUNTED = {
    "fails": "failed",
    "passes": "passed",
    "partly read": "partly read",
    "partly seen": "partly seen",
    "incomplete": "incomplete",
    "unread": "not read",
}


def render(
    reports: Sequence[Report],
    *,
    color: bool = False,
    not_begun: int = 0,
    left_out: Sequence[tuple[Path, str]] = (),
) -> str:
    """A table, in the order of the reports.

    Args:
        color: use ANSI colours; the table reads the same without.
        not_begun: configs that were interrupted before anything was known of them.
        left_out: files of the folder that look like configs and are none, with the reason.
    """
    rows = [_HEAD, *(_row(report) for report in reports)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [_line(row, widths, color) for row in rows]
    out = [f"left out: {told}" for told in told_reasons(left_out)]
    return "\n".join([*lines, "", *out, *([""] if out else []), _count(reports, not_begun)]) + "\n"


def told_reasons(left_out: Sequence[tuple[Path, str]]) -> list[str]:
    """What was left out, by reason, the most first: how many, why, and the first of them by name."""
    by_reason: dict[str, list[Path]] = {}
    for path, why in left_out:
        by_reason.setdefault(why.partition(" (")[0], []).append(path)
    told = []
    for why, paths in sorted(by_reason.items(), key=lambda each: -len(each[1])):
        names = ", ".join(words.one_line(str(path)) for path in paths[:_NAMED])
        more = f" and {len(paths) - _NAMED} more" if len(paths) > _NAMED else ""
        told.append(f"{words.plural(len(paths), 'file')}, {why}: {names}{more}")
    return told


def outcome(report: Report) -> str:
    """One word: ``passes``, ``fails``, ``incomplete`` (a stage that was asked for has no result), ``unread``, or
    ``partly read``: nothing failed, and not all is known that decides the run; ``partly seen``: all that is known, and
    the script does something that kept the stages on a built model from it."""
    if report.exit_code in (1, 2):
        return {1: "fails", 2: "unread"}[report.exit_code]
    partly = report.summary.read is not None and report.summary.read.known < report.summary.read.of
    settled = all(record.status == "done" or not record.requested for record in report.stages)
    failed = any(record.status == "failed" for record in report.stages)
    if partly and settled and not failed:
        return "partly read"
    if report.exit_code == 0:
        built = next((record for record in report.stages if record.name == "structure"), None)
        unseen = built is not None and built.status == "skipped" and built.reason != NOT_ASKED_FOR
        return "partly seen" if unseen else "passes"
    return "incomplete"


def told_outcome(report: Report) -> str:
    """The same, of a run that was partly read or seen with how much: ``read 2 of 5``, ``seen 1 of 6``."""
    word, read = outcome(report), report.summary.read
    if word == "partly read" and read is not None:
        return f"read {read.known} of {read.of}"
    if word == "partly seen":
        done = sum(record.status == "done" for record in report.stages)
        return f"seen {done} of {len(stages_of(report))}"
    return word


def _row(report: Report) -> tuple[str, ...]:
    adapter, memory = report.facts.adapter, report.facts.memory
    ratio = adapter.trainable_ratio if adapter is not None else None
    figure = needed(memory)
    least = "≥ " if figure is not None and figure.source == "at least" else ""
    name = str((report.setup or {}).get("file") or "objects in memory")
    summary = report.summary
    return (
        words.one_line(name),
        *(str(count) if count else "·" for count in (summary.error, summary.warning, summary.info)),
        "" if ratio is None else words.percent(ratio),
        "" if figure is None else f"{least}{words.size(figure.size)}",
        told_outcome(report),
    )


def _line(row: Sequence[str], widths: Sequence[int], color: bool) -> str:
    cells = [row[0].ljust(widths[0]), *(cell.rjust(wide) for cell, wide in zip(row[1:-1], widths[1:-1], strict=True))]
    shade = _SGR.get("partly read" if row[-1].startswith(("read ", "seen ")) else row[-1])
    last = f"\x1b[{shade}m{row[-1]}\x1b[0m" if color and shade is not None else row[-1]
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

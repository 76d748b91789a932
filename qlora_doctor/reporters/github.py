"""Workflow commands of GitHub Actions: each line becomes an annotation on the pull request.

The form is that of docs.github.com, "Workflow commands for GitHub Actions"; what ends a command or a property is
escaped as the runner reads it (actions/toolkit, ``command.ts``). A step shows ten annotations of a kind: the gravest
come first.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from ..core.report import Finding, Report, Severity
from . import _words as words
from ._places import file_of
from .verdict import counting, gaps, told, unread

_COMMANDS: dict[Severity, str] = {"error": "error", "warning": "warning", "info": "notice"}


def render(report: Report) -> str:
    """One line for each finding that counts, then the stages that failed."""
    return render_all([report])


def render_all(reports: Sequence[Report]) -> str:
    """The same of several reports."""
    return "".join(f"{line}\n" for report in reports for line in _lines(report))


def _lines(report: Report) -> Iterator[str]:
    for found in counting(report):
        yield _command(_COMMANDS[found.severity], _place(report, found), told(found))
    for gap in gaps(report):
        if gap.status == "failed":
            place = {"file": file_of(report), "title": f"{', '.join(gap.stages)} failed"}
            yield _command("error", place, words.one_line(gap.reason or "No reason was given."))
    if (partly := unread(report)) is not None:
        level = "error" if report.exit_code == 3 else "warning"
        yield _command(level, {"file": file_of(report), "title": "not all is known"}, partly)


def _place(report: Report, found: Finding) -> dict[str, object]:
    place = found.location
    properties: dict[str, object] = {"file": file_of(report, found), "line": place.line, "endLine": place.end_line}
    if place.line is not None and place.end_line in (None, place.line):
        # Columns are only read where a finding begins and ends on one line; theirs is the last one marked.
        properties["col"] = place.column
        properties["endColumn"] = place.end_column - 1 if place.end_column is not None else None
    return {**properties, "title": f"{found.rule} {found.name}"}


def _command(command: str, properties: Mapping[str, object], message: str) -> str:
    given = ",".join(f"{name}={_property(value)}" for name, value in properties.items() if value is not None)
    return f"::{command} {given}::{_data(message)}"


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(value: object) -> str:
    return _data(words.one_line(value)).replace(":", "%3A").replace(",", "%2C")

"""Fixes as edits of the text that is open: as small as they can be, so that the cursor stays where it is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ..core.report import Finding
from ..run.fixing import fix_text
from .analysis import Analysis, Problem
from .ranges import Range


@dataclass(frozen=True)
class Action:
    """One thing that can be done.

    Attributes:
        preferred: what the editor may do without being asked which.
        problems: what it does away with.
    """

    title: str
    range: Range
    new: str
    preferred: bool = False
    problems: tuple[Problem, ...] = ()


def actions(analysis: Analysis, start: tuple[int, int], end: tuple[int, int]) -> Iterator[Action]:
    """The fixes of the problems that touch a range of the editor."""
    for problem in analysis.problems:
        finding = problem.finding
        if finding is None or not (problem.range[0] <= end and start <= problem.range[1]):
            continue
        edit = _edit(analysis, [finding], unsafe=True)
        if edit is None:
            continue
        assert finding.remediation is not None
        safe = finding.remediation.safety == "safe"
        about = "" if safe else " (may change what is trained)"
        title = f"{finding.rule}: {_short(finding.remediation.text)}{about}"
        yield Action(title, edit[0], edit[1], preferred=safe, problems=(problem,))


def fix_all(analysis: Analysis) -> Action | None:
    """Every fix that does not change what is trained, in one edit."""
    findings = [problem.finding for problem in analysis.problems if problem.finding is not None]
    edit = _edit(analysis, findings, unsafe=False)
    return Action("qlora-doctor: all safe fixes", edit[0], edit[1]) if edit is not None else None


def _edit(analysis: Analysis, findings: Sequence[Finding], *, unsafe: bool) -> tuple[Range, str] | None:
    document = analysis.document
    if document is None:
        return None
    before = analysis.text.text
    after = fix_text(before, document, findings, unsafe=unsafe)
    if after == before:
        return None
    start, shared = 0, min(len(before), len(after))
    while start < shared and before[start] == after[start]:
        start += 1
    end = 0
    while end < shared - start and before[-1 - end] == after[-1 - end]:
        end += 1
    # An edit between CR and LF would be one in the middle of a line's end.
    if start and before[start - 1 : start] == "\r":
        start -= 1
    if end and before[len(before) - end - 1 : len(before) - end] == "\r":
        end -= 1 if before[len(before) - end] == "\n" else 0
    return analysis.text.range(start, len(before) - end), after[start : len(after) - end]


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 120 else f"{text[:119]}…"

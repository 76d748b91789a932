"""Markdown for a comment on a pull request and for the summary of a job.

The first line is a mark that a bot finds its own comment by. GitHub takes 65,536 characters: findings that would go
over that are counted, not shown.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from ..core.report import Finding, Report
from . import _words as words
from ._needed import needed
from ._places import file_of
from .verdict import Gap, counting, counts, gaps, outcomes, subject, suppressed, unread, verdict

MARK = "<!-- qlora-doctor -->"
_MOST = 60_000
_LEAST = 4_000
"""Room that the verdict of a setup and what was not checked may take."""
_SIGNS = {"error": "❌", "warning": "⚠️", "info": "ℹ️", "pass": "✅", "partial": "☑️", "incomplete": "⛔"}
_SPECIAL = re.compile(r"([\\`*_\[\]<>|~#$])")
_FENCE = re.compile(r"`{3,}")


def render(report: Report) -> str:
    """One report: the verdict, the findings with their fixes, and what was not checked."""
    return render_all([report])


def render_all(reports: Sequence[Report]) -> str:
    """Several reports: one table, then each that has something to say."""
    parts = [MARK]
    if len(reports) == 1:
        parts += _one(reports[0], _MOST - _LEAST)
    else:
        parts += [f"## qlora-doctor: {words.plural(len(reports), 'setup')}", _table(reports)]
        told = [report for report in reports if report.findings or report.exit_code]
        for number, report in enumerate(told):
            room = _MOST - sum(map(len, parts))
            if room < _LEAST:
                parts.append(f"{words.plural(len(told) - number, 'more setup')} left out here, for lack of room.")
                break
            parts += _one(report, room - _LEAST)
    return "\n\n".join(parts) + "\n"


def _one(report: Report, room: int) -> Iterator[str]:
    seen = verdict(report)
    name, file = subject(report)
    title = f"`{_code(file or name)}`"
    yield f"## {_SIGNS[seen.level]} qlora-doctor: {title}\n\n**{text(seen.headline)}** {text(seen.detail)}"
    findings, left = counting(report), room
    for number, found in enumerate(findings):
        block = _finding(report, found)
        left -= len(block) + 2
        if left < 0:
            yield f"{words.plural(len(findings) - number, 'more finding')} left out here, for lack of room."
            break
        yield block
    if lines := [_gap(gap) for gap in gaps(report)]:
        yield "<details><summary>Not checked</summary>\n\n" + "\n".join(lines) + "\n</details>"
    told = [f"- {text(each.rule)} {text(each.name)}: {text(each.suppressed or '')}" for each in suppressed(report)]
    if told := told + [f"- {text(each)}" for each in report.unused_suppressions]:
        yield "<details><summary>Suppressed</summary>\n\n" + "\n".join(told) + "\n</details>"


def _finding(report: Report, found: Finding) -> str:
    place = ":".join(str(part) for part in (file_of(report, found), found.location.line) if part is not None)
    head = f"### {_SIGNS[found.severity]} {text(found.rule)} {text(found.name)}"
    lines = [head, text(found.message) + (f" (`{_code(place)}`)" if place else "")]
    evidence = [
        f"- `{_code(e.fact)}` = {text(words.clipped(words.fact(e.fact, e.value), 300))}" for e in found.evidence
    ]
    lines += ["\n".join(evidence)] if evidence else []
    if found.remediation is not None:
        lines.append(f"**Fix:** {text(found.remediation.text)}")
        if found.remediation.commands:
            lines.append(_block("sh", "\n".join(found.remediation.commands)))
        if found.remediation.diff:
            lines.append(_block("diff", found.remediation.diff))
    if found.url is not None:
        lines.append(f"[{text(found.rule)} in the docs](<{found.url}>)")
    return "\n\n".join(lines)


def _gap(gap: Gap) -> str:
    remedy = f" To have it: {', '.join(f'`{_code(each)}`' for each in gap.remedies)}." if gap.remedies else ""
    return f"- **{', '.join(gap.stages)}** {gap.status}: {text(gap.reason or 'No reason was given.')}{remedy}"


def _table(reports: Sequence[Report]) -> str:
    rows = ["| setup | verdict | passed | not evaluated | peak memory |", "|---|---|---|---|---|"]
    for report in reports:
        name, file = subject(report)
        figure = needed(report.facts.memory)
        least = "≥ " if figure is not None and figure.source == "at least" else ""
        peak = f"{least}{words.size(figure.size)}" if figure is not None else words.UNKNOWN
        sign = _SIGNS[verdict(report).level]
        partly = report.summary.read if unread(report) is not None else None
        nothing = "nothing found" if report.exit_code == 0 else "not checked"
        said = counts(report) or ("" if partly is not None else nothing)
        said += f"{', ' if said else ''}read {partly.known} of {partly.of}" if partly is not None else ""
        rows.append(
            f"| `{_code(file or name)}` | {sign} {said} | {len(outcomes(report, 'pass'))} "
            f"| {len(outcomes(report, 'skipped'))} | {peak} |"
        )
    return "\n".join(rows)


def text(written: str) -> str:
    """Text from outside on one line that means only itself: no markup, no HTML, no mention of somebody."""
    escaped = _SPECIAL.sub(r"\\\1", words.one_line(written).replace("&", "&amp;"))
    return re.sub(r"@(?=\w)", "@\u2060", escaped).replace("://", "&#58;//")


def _code(written: str) -> str:
    """For a code span: in there, only its own end means something, and a bar ends a table's cell."""
    return words.one_line(written).replace("`", "ˋ").replace("|", "¦")


def _block(language: str, written: str) -> str:
    body = words.visible(written).rstrip("\n")
    fence = "`" * max([3, *(len(run) + 1 for run in _FENCE.findall(body))])
    return f"{fence}{language}\n{body}\n{fence}"

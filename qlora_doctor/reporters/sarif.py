"""SARIF 2.1.0 for code scanning.

What GitHub reads of it: docs.github.com, "SARIF support for code scanning". Findings that were suppressed are left out,
since it takes no notice of ``suppressions`` and would show them as open.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from typing import Any
from urllib.parse import quote

from ..core.report import Confidence, Finding, Report, RuleOutcome, Severity
from . import _words as words
from ._pages import PageText, page_text
from ._places import file_of, utf16_columns
from .verdict import counting, gaps, told, unread

SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
_LEVELS: dict[Severity, str] = {"error": "error", "warning": "warning", "info": "note"}
_PROBLEMS: dict[Severity, str] = {"error": "error", "warning": "warning", "info": "recommendation"}
_PRECISION: dict[Confidence, str] = {"high": "high", "medium": "medium", "low": "low"}
_MOST = 1024
"""Characters that GitHub takes of a description."""
_LINK = re.compile(r"\[(?=[^\]]*\]\()")


def render(report: Report) -> str:
    """One report."""
    return render_all([report])


def render_all(reports: Sequence[Report]) -> str:
    """Several reports in one run: an upload holds at most twenty runs, and configs can be more."""
    rules = _rules(reports)
    index = {rule["id"]: number for number, rule in enumerate(rules)}
    run = {
        "tool": {
            "driver": {
                "name": "qlora-doctor",
                "semanticVersion": reports[0].tool.version if reports else "0",
                "rules": rules,
            }
        },
        "automationDetails": {"id": _category(reports)},
        "columnKind": "utf16CodeUnits",
        "invocations": [_invocation(report) for report in reports],
        "results": [_result(report, found, index) for report in reports for found in counting(report)],
    }
    return json.dumps({"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}, indent=2, ensure_ascii=False) + "\n"


def _category(reports: Sequence[Report]) -> str:
    """Uploads of one category replace each other: a config that is checked alone has one of its own."""
    file = file_of(reports[0]) if len(reports) == 1 else None
    return f"qlora-doctor/{_uri(file)}/" if file else "qlora-doctor/"


def _rules(reports: Iterable[Report]) -> list[dict[str, Any]]:
    """Every rule that was selected, by id: what passed closes an old alert."""
    known: dict[str, RuleOutcome] = {}
    for report in reports:
        known.update({outcome.rule: outcome for outcome in report.rules})
        for found in report.findings:
            known.setdefault(
                found.rule, RuleOutcome(rule=found.rule, name=found.name, status="fail", stage=found.stage)
            )
    urls = {found.rule: found.url for report in reports for found in report.findings if found.url}
    return [_rule(known[identity], urls.get(identity)) for identity in sorted(known)]


def _rule(outcome: RuleOutcome, url: str | None) -> dict[str, Any]:
    page = page_text(outcome.rule) or PageText()
    title = page.title or outcome.title or outcome.name
    about = page.about or title
    rule: dict[str, Any] = {
        "id": words.one_line(outcome.rule),
        "name": _short(outcome.name, 255),
        "shortDescription": {"text": _short(f"{_worded(outcome.name)}. Passes where: {title}")},
        "fullDescription": {"text": _short(about)},
        "help": {"text": page.markdown or about},
        "properties": {"tags": ["qlora", f"stage-{outcome.stage}", *page.tags]},
    }
    if url is not None:
        rule["helpUri"] = url
    if page.markdown:
        rule["help"]["markdown"] = page.markdown
    if page.severity is not None:
        rule["defaultConfiguration"] = {"level": _LEVELS[page.severity]}
        rule["properties"]["problem.severity"] = _PROBLEMS[page.severity]
    if page.confidence is not None:
        rule["properties"]["precision"] = _PRECISION[page.confidence]
    rule["properties"]["tags"] = list(dict.fromkeys(rule["properties"]["tags"]))
    return rule


def _worded(name: str) -> str:
    """A name as words: an alert has the description of its rule for a title, and that of one that passes is none."""
    return name.replace("-", " ").capitalize()


def _result(report: Report, found: Finding, index: dict[str, int]) -> dict[str, Any]:
    result = {
        "ruleId": words.one_line(found.rule),
        "ruleIndex": index[words.one_line(found.rule)],
        "level": _LEVELS[found.severity],
        "message": {"text": _LINK.sub(r"\\[", told(found))},
        "partialFingerprints": {"primaryLocationLineHash": f"{found.fingerprint}:1"},
    }
    file = file_of(report, found)
    if file is not None:
        place = {"artifactLocation": {"uri": _uri(file)}, "region": _region(found)}
        result["locations"] = [{"physicalLocation": place}]
    return result


def _region(found: Finding) -> dict[str, int]:
    """Lines from 1; a finding about the whole file stands at its first line, which is where a forge shows it."""
    place = found.location
    if place.line is None:
        return {"startLine": 1}
    region = {"startLine": place.line, "endLine": max(place.end_line or place.line, place.line)}
    start, end = utf16_columns(place)
    if start is not None:
        region["startColumn"] = start
    if end is not None:
        region["endColumn"] = max(end, start or 1)
    return region


def _invocation(report: Report) -> dict[str, Any]:
    """How the check itself went: a stage that failed is no result, and is not to be lost."""
    notes = [
        {
            "level": "error" if gap.status == "failed" else "note",
            "message": {"text": f"{', '.join(gap.stages)} {gap.status}: {words.one_line(gap.reason or 'no reason')}"},
        }
        for gap in gaps(report)
    ]
    if (partly := unread(report)) is not None:
        notes.append({"level": "warning", "message": {"text": partly}})
    return {
        "executionSuccessful": report.exit_code in (0, 1),
        "exitCode": report.exit_code,
        "toolExecutionNotifications": notes,
    }


def _uri(path: str) -> str:
    return quote(path.encode("utf-8", "surrogatepass"), safe="/")


def _short(text: str, most: int = _MOST) -> str:
    return words.clipped(words.one_line(text), most)

"""JUnit XML as Jenkins and GitLab read it: one suite per setup, one case per rule.

A case fails where the exit code says so: at or above ``fail_on``; a graver word than the tool's own would turn a
pipeline red that passed. What counts for less is reported in the case's output.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from xml.etree import ElementTree as Xml

from ..core.report import RANK, Finding, Report, RuleOutcome, StageRecord
from . import _words as words
from ._places import file_of
from .verdict import counting, outcomes, subject, suppressed, told, unread

# What XML 1.0 has no way to write, section 2.2.
_ILLEGAL = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def render(report: Report) -> str:
    """One suite."""
    return render_all([report])


def render_all(reports: Sequence[Report]) -> str:
    """One suite per report."""
    suites = [_suite(report) for report in reports]
    root = Xml.Element("testsuites", {"name": "qlora-doctor", **_counts(suites)})
    root.extend(suites)
    Xml.indent(root)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{Xml.tostring(root, encoding="unicode")}\n'


def _suite(report: Report) -> Xml.Element:
    name, file = subject(report)
    found = {each.rule: each for each in counting(report)}
    quiet = {each.rule: each for each in suppressed(report)}
    cases = [_rule_case(report, o, found.get(o.rule), quiet.get(o.rule)) for o in _by_id(report)]
    listed = {outcome.rule for outcome in report.rules}
    cases += [_finding_case(report, each) for each in counting(report) if each.rule not in listed]
    cases += [_stage_case(record) for record in report.stages if record.status != "done" and _asked(record)]
    if report.summary.read is not None:
        cases.append(_read_case(report))
    suite = Xml.Element("testsuite", name=_clean(file or name))
    suite.extend(cases)
    counts = {"tests": len(cases), "failures": len(suite.findall("testcase/failure")), "errors": 0}
    for key, value in {**counts, "skipped": len(suite.findall("testcase/skipped"))}.items():
        suite.set(key, str(value))
    suite.set("timestamp", _clean(report.tool.created.removesuffix("Z")))
    return suite


def _by_id(report: Report) -> list[RuleOutcome]:
    return sorted((o for status in ("pass", "fail", "skipped") for o in outcomes(report, status)), key=lambda o: o.rule)


def _rule_case(report: Report, outcome: RuleOutcome, found: Finding | None, quiet: Finding | None) -> Xml.Element:
    if found is not None:
        return _finding_case(report, found)
    case = _case(f"{outcome.rule} {outcome.name}", outcome.stage)
    if outcome.status == "skipped":
        Xml.SubElement(case, "skipped", message=_clean(outcome.reason or "It could not be evaluated."))
    elif quiet is not None:
        Xml.SubElement(case, "skipped", message=_clean(f"Suppressed: {quiet.suppressed}"))
    return case


def _finding_case(report: Report, found: Finding) -> Xml.Element:
    case = _case(f"{found.rule} {found.name}", found.stage)
    place = ":".join(str(part) for part in (file_of(report, found), found.location.line) if part is not None)
    text = _clean(f"{place}: {told(found)}" if place else told(found))
    if RANK[found.severity] >= RANK[report.fail_on]:
        failure = Xml.SubElement(case, "failure", message=_clean(found.message), type=found.severity)
        failure.text = text
    else:
        Xml.SubElement(case, "system-out").text = f"{found.severity}: {text}"
    return case


def _stage_case(record: StageRecord) -> Xml.Element:
    """A stage that was asked for and is not done fails, as the exit code does."""
    case = _case(f"stage {record.name}", "stages")
    message = _clean(record.reason or "It did not complete.")
    if record.requested:
        Xml.SubElement(case, "failure", message=message, type=record.status).text = _clean(record.remedy or message)
    else:
        Xml.SubElement(case, "skipped", message=message)
    return case


def _read_case(report: Report) -> Xml.Element:
    """A case for what decides the run; it fails where the exit code says so."""
    case = _case("what decides the run is known", "config")
    told = unread(report)
    if told is not None and report.fail_on not in ("error", "never"):
        Xml.SubElement(case, "failure", message=_clean(told), type="unknown").text = _clean(told)
    elif told is not None:
        Xml.SubElement(case, "skipped", message=_clean(told))
    return case


def _asked(record: StageRecord) -> bool:
    return record.requested or record.status == "failed"


def _case(name: str, group: str) -> Xml.Element:
    return Xml.Element("testcase", classname=f"qlora-doctor.{_clean(group)}", name=_clean(name))


def _counts(suites: Sequence[Xml.Element]) -> dict[str, str]:
    return {key: str(sum(int(suite.get(key) or 0) for suite in suites)) for key in ("tests", "failures", "errors")}


def _clean(text: object) -> str:
    return words.one_line(_ILLEGAL.sub("", str(text)))

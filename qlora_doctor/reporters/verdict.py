"""The verdict in words: what was found, and how much of the setup that speaks for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from ..core.report import ALL_STAGES, Finding, Report, RuleOutcome, StageRecord, stages_of
from ..facts.config import NotFollowed
from ._words import one_line, plural

if TYPE_CHECKING:
    from ..facts.data import DataSetFacts

SEVERITIES = ("error", "warning", "info")
_CONFIDENCES = ("high", "medium", "low")
_GUESS = 0.7
"""No home-made config is surer than this: its keys mean what their names suggest."""

Level = Literal["error", "incomplete", "warning", "partial", "pass"]


@dataclass(frozen=True)
class Verdict:
    """What a reader takes away.

    Attributes:
        level: ``error``: findings of that severity count; ``incomplete``: a stage failed, or not all is known that
            decides the run; ``warning``: warnings or
            notes only; ``partial``: nothing found, but not every stage ran; ``pass``: nothing found in any stage.
        headline: one sentence.
        detail: how many rules and stages it rests on, one or two sentences.
    """

    level: Level
    headline: str
    detail: str


@dataclass(frozen=True)
class Gap:
    """Stages that were not seen: how they ended, why, and what would supply them (each remedy once)."""

    status: str
    stages: tuple[str, ...]
    reason: str | None
    remedies: tuple[str, ...]


def verdict(report: Report) -> Verdict:
    """Say how the report's own counts and stages read."""
    return Verdict(_level(report), _headline(report), _detail(report))


def subject(report: Report) -> tuple[str, str | None]:
    """What was checked: the model where it is known, and the config's file where there is one."""
    setup = report.setup or {}
    section = setup.get("model")
    name = section.get("name_or_path") if isinstance(section, dict) else None
    model = name or (report.facts.config.model if report.facts.config else None)
    file = setup.get("file")
    fallback = file or ("Objects in memory" if report.facts.model else "No setup")
    return str(model or fallback), str(file) if file and model else None


def dialect(setup: Mapping[str, Any]) -> str:
    """Whose config it is, and how sure that is: "axolotl config, 97% sure"."""
    sure = float(setup.get("dialect_confidence", 1.0))
    words = f"{one_line(str(setup.get('dialect')))} config"
    if setup.get("dialect_named"):
        return f"{words}, as --dialect says; its content makes it {sure:.0%} sure"
    if sure >= 1:
        return words
    return f"{words}, {sure:.0%} sure" if sure > _GUESS else f"{words}, a guess by its keys' names, {sure:.0%} sure"


def counting(report: Report) -> list[Finding]:
    """Findings that count, the gravest first; within a severity by confidence, then by stage."""
    return sorted((f for f in report.findings if f.suppressed is None), key=_gravity)


def told(finding: Finding) -> str:
    """A finding where there is room for text alone: what is wrong, then what to do."""
    help = finding.remediation.text if finding.remediation is not None else ""
    return f"{one_line(finding.message)} {one_line(help)}".strip()


def suppressed(report: Report) -> list[Finding]:
    """Findings that were suppressed."""
    return sorted((f for f in report.findings if f.suppressed is not None), key=_gravity)


def gaps(report: Report) -> list[Gap]:
    """Stages that did not run to the end, those that ended alike and for the same reason together; then those that left
    out a part, data sets that were not looked at beside others that were, and statements that were not followed."""
    groups: dict[tuple[str, str | None], list[StageRecord]] = {}
    for record in report.stages:
        if record.status != "done":
            groups.setdefault((record.status, record.reason), []).append(record)
    seen = [
        Gap(status, tuple(r.name for r in records), reason, tuple(dict.fromkeys(r.remedy for r in records if r.remedy)))
        for (status, reason), records in groups.items()
    ]
    sets = [
        Gap("not looked at", (f"data set {each.name or '?'}",), each.not_followed, ()) for each in sets_left_out(report)
    ]
    return [*seen, *_in_part(report), *sets, *_statements(report)]


def sets_left_out(report: Report) -> list[DataSetFacts]:
    """Data sets that a config names and whose rows were not looked at, where others' were."""
    data = report.facts.data
    return [each for each in (data.sets or ()) if each.not_followed] if data is not None else []


def _in_part(report: Report) -> list[Gap]:
    """Stages that ended well and left out a part of what they look at."""
    data = report.facts.data
    if data is None or not data.tokens_unseen:
        return []
    return [Gap("in part", ("data",), f"No token was looked at. {data.tokens_unseen}", ())]


def _statements(report: Report) -> list[Gap]:
    """Statements of a script that change the training and were not followed; those alike stand together."""
    groups: dict[str, list[str]] = {}
    for each in unfollowed(report):
        name = each.file.replace("\\", "/").rpartition("/")[2] if each.file else "the script"
        cell = f" cell {each.cell}" if each.cell is not None else ""
        line = f":{each.line}" if each.line is not None and each.cell is None else ""
        groups.setdefault(each.note, []).append(f"{name}{line}{cell}")
    return [Gap("not followed", tuple(dict.fromkeys(places)), note, ()) for note, places in groups.items()]


def unfollowed(report: Report) -> list[NotFollowed]:
    """The statements of a script that change the training and that no stage makes."""
    config = report.facts.config
    return (config.not_followed or []) if config is not None else []


def outcomes(report: Report, status: str) -> list[RuleOutcome]:
    """Rules that came out so, in the order of their ids."""
    return sorted((o for o in report.rules if o.status == status), key=lambda o: o.rule)


def counts(report: Report) -> str:
    """``2 errors, 3 warnings, 1 note``; what is none is left out."""
    summary = report.summary
    words = [(summary.error, "error"), (summary.warning, "warning"), (summary.info, "note")]
    return ", ".join(plural(count, noun) for count, noun in words if count)


def unread(report: Report) -> str | None:
    """How much of what decides the run was read, and where that stops; None where all of it was, or nothing can be."""
    read = report.summary.read
    if read is None or read.known >= read.of:
        return None
    stops = f"; it stops at {one_line(read.stops_at)}" if read.stops_at else ""
    return f"read {read.known} of {read.of} of what decides this run{stops}"


def _gravity(finding: Finding) -> tuple[int, int, int, str]:
    stage = ALL_STAGES.index(finding.stage) if finding.stage in ALL_STAGES else len(ALL_STAGES)
    return SEVERITIES.index(finding.severity), _CONFIDENCES.index(finding.confidence), stage, finding.rule


def _level(report: Report) -> Level:
    if report.summary.error:
        return "error"
    if _with_status(report, "failed") or unread(report) is not None:
        return "incomplete"
    if report.summary.warning or report.summary.info:
        return "warning"
    everywhere = len(_with_status(report, "done")) == len(stages_of(report))
    whole = everywhere and not unfollowed(report) and not sets_left_out(report)
    return "pass" if whole else "partial"


def _headline(report: Report) -> str:
    failed = [record.name for record in _with_status(report, "failed")]
    done = _with_status(report, "done")
    if report.summary.error:
        return f"{plural(report.summary.error, 'error')}: training would fail, or train the wrong thing."
    if failed:
        return f"Not settled: the {_listed(failed)} {'stages' if len(failed) > 1 else 'stage'} failed."
    found = counts(report)
    if (told := unread(report)) is not None:
        return f"{told[0].upper()}{told[1:]}{'' if told.endswith('.') else '.'}{f' {found}.' if found else ''}"
    if len(done) == len(stages_of(report)) and not found and (left := unfollowed(report)):
        return f"Nothing found in what was followed; {plural(len(left), 'statement')} of the script not followed."
    if len(done) == len(stages_of(report)) and not found and (sets := sets_left_out(report)):
        return f"Nothing found in what was looked at; {plural(len(sets), 'data set')} not looked at."
    if len(done) == len(stages_of(report)):
        return f"No errors in any stage; {found}." if found else "Healthy: every stage ran, and nothing was found."
    if not done:
        return "Nothing was checked."
    where = f"the {_listed([record.name for record in done])} {'stages' if len(done) > 1 else 'stage'}"
    return f"No errors in {where}; {found}." if found else f"Nothing found in {where}."


def _detail(report: Report) -> str:
    passed, failed = len(outcomes(report, "pass")), len(outcomes(report, "fail"))
    skipped = len(outcomes(report, "skipped"))
    parts = [f"{plural(passed, 'check')} passed", f"{failed:,} failed", f"{skipped:,} could not be evaluated"]
    done = len(_with_status(report, "done"))
    of = len(stages_of(report))
    stages = "All stages ran" if done == of else f"{done} of {of} stages ran to the end"
    return f"{', '.join(parts)}. {stages}."


def _with_status(report: Report, status: str) -> list[StageRecord]:
    return [record for record in report.stages if record.status == status]


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"

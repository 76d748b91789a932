"""``log``: what a run has logged, judged with what else is known of it."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.errors import UsageError
from ..core.report import Report, StageRecord
from ..facts import Facts
from ..facts.course import CourseFacts, OtherRun
from .observer import Observer
from .session import CheckOptions, Session

if TYPE_CHECKING:
    from ..setup.setup import Setup

REPORT = "qlora-doctor.json"
"""A report of ``check`` that lies beside a log under this name is taken."""
_DRAWN_OF_OTHERS = ("loss", "eval_loss", "learning_rate", "grad_norm")


def judge_logs(
    paths: Sequence[Path],
    options: CheckOptions,
    *,
    config: Path | None = None,
    report: Path | None = None,
) -> list[Report]:
    """One report for each run that the paths hold.

    Args:
        paths: logs, or folders that are searched for them.
        config: the config that the run was started with.
        report: a JSON report of ``check`` or ``run`` of this setup; what it saw excludes causes.

    Raises:
        UsageError: nothing can be read, or the config or report cannot.
    """
    from ..probes.log import course_facts, known_from, read_runs
    from .checking import rules_of

    started = time.perf_counter()
    runs = read_runs(paths)
    rules = rules_of(options)
    spent = (time.perf_counter() - started) / len(runs)
    reports = []
    judged: list[tuple[Session, CourseFacts]] = []
    for run in runs:
        session = Session(rules, options, Observer(), suppressions=options.suppressions)
        session.covers = ("course",)
        facts, setup = _known(options, config, report or _beside(run.sources))
        session.setup = setup if not isinstance(setup, dict) else None
        session.facts, session.log = facts, run.sources[0] if run.sources else None
        judged.append((session, course_facts(run, known_from(facts, setup))))
    for session, course in judged:
        others = [_other(each) for _, each in judged if each is not course]
        course = course.model_copy(update={"others": others})
        session.facts = session.facts.model_copy(update={"course": course})
        session.record(StageRecord(name="course", status="done", seconds=spent))
        session.judge()
        reports.append(_with_subject(session.report(), course))
    return reports


def _known(
    options: CheckOptions, config: Path | None, report: Path | None
) -> tuple[Facts, Setup | dict[str, Any] | None]:
    """Facts and setup of the run, as far as a config or a report tells."""
    facts, setup = _recorded(report) if report is not None else (Facts(), None)
    if config is None:
        return facts, setup
    from .checking import conclude_config, open_session

    session = open_session(config, replace(options, stages=("config",)), Observer())
    conclude_config(session)
    return facts.model_copy(update={"config": session.facts.config}), session.setup


def _recorded(path: Path) -> tuple[Facts, dict[str, Any] | None]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        document = document[0] if isinstance(document, list) else document
        return Facts.model_validate(document["facts"]), document.get("setup")
    except (OSError, ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise UsageError(f"{path} is no report of check: {str(error).splitlines()[0]}.") from error


def _beside(sources: Sequence[str]) -> Path | None:
    """The report of check that lies beside a run's log."""
    for source in sources[:1]:
        for folder in (Path(source).parent, Path(source).parent.parent):
            if (folder / REPORT).is_file():
                return folder / REPORT
    return None


def _other(course: CourseFacts) -> OtherRun:
    return OtherRun(
        name=course.name or "run", curves=[curve for curve in course.curves if curve.quantity in _DRAWN_OF_OTHERS]
    )


def _with_subject(report: Report, course: CourseFacts) -> Report:
    """The report names the log where no config stands for the run."""
    if report.setup is not None:
        return report
    return report.model_copy(update={"setup": {"file": course.sources[0] if course.sources else course.name}})

"""What findings and stages add up to."""

from __future__ import annotations

from collections.abc import Sequence

from ..core.report import FailOn, Finding, RuleOutcome, StageRecord, Summary

_RANK = {"info": 0, "warning": 1, "error": 2, "never": 3}


def exit_code(findings: Sequence[Finding], stages: Sequence[StageRecord], fail_on: FailOn = "error") -> int:
    """0 clean; 1 findings at or above ``fail_on``; 3 a stage that was asked for did not complete.

    3 wins over 1 where the stage was asked for by name: the findings of an incomplete check are not all there are.
    Where no stage was named, every stage that can run is asked for: one that failed, and no error says why (it was
    killed, ran out of time or memory), leaves the check unsettled, which is not 0.
    """
    if any(stage.requested and stage.status != "done" for stage in stages):
        return 3
    if any(stage.status == "failed" for stage in stages) and not any(f.severity == "error" for f in counted(findings)):
        return 3
    return int(any(_RANK[finding.severity] >= _RANK[fail_on] for finding in counted(findings)))


def summarise(findings: Sequence[Finding], outcomes: Sequence[RuleOutcome]) -> Summary:
    """Counts by severity of the findings that count, and of the rules that could not be evaluated."""
    levels = [finding.severity for finding in counted(findings)]
    return Summary(
        error=levels.count("error"),
        warning=levels.count("warning"),
        info=levels.count("info"),
        skipped=sum(outcome.status == "skipped" for outcome in outcomes),
    )


def counted(findings: Sequence[Finding]) -> list[Finding]:
    """The findings that were not suppressed."""
    return [finding for finding in findings if finding.suppressed is None]

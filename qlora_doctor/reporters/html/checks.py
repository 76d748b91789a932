"""What passed, by stage, and what could not be evaluated, by reason: each reason stands once."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ...core.report import ALL_STAGES, RuleOutcome
from .. import _words as words
from .._pages import rule_title

_UNKNOWN = re.compile(r"^Unknown: ([\w.]+(?:, [\w.]+)*)\. (?=.)")
"""How a reason begins that names the facts it lacks; what follows is the same for all rules of a stage."""
_NOT_RUN = re.compile(r"The stage \w+ (?:has not run|was skipped|failed)")


@dataclass(frozen=True)
class Check:
    """One rule: what is true where it passes, or its name; and which facts it lacked."""

    rule: str
    title: str
    lacks: str | None


@dataclass(frozen=True)
class CheckGroup:
    """Checks that share a heading; ``reason`` is for those that could not be evaluated."""

    heading: str
    reason: str | None
    checks: tuple[Check, ...]


def _order(outcome: RuleOutcome) -> int:
    return ALL_STAGES.index(outcome.stage) if outcome.stage in ALL_STAGES else len(ALL_STAGES)


def passed_groups(outcomes: Sequence[RuleOutcome]) -> list[CheckGroup]:
    """By stage, in the order of the stages."""
    stages: dict[str, list[Check]] = {}
    for outcome in sorted(outcomes, key=_order):
        title = outcome.title or rule_title(outcome.rule) or _name(outcome)
        stages.setdefault(outcome.stage, []).append(Check(outcome.rule, title, None))
    return [CheckGroup(stage, None, tuple(checks)) for stage, checks in stages.items()]


def skipped_groups(outcomes: Sequence[RuleOutcome]) -> list[CheckGroup]:
    """By stage and reason; the largest group first."""
    groups: dict[tuple[str, str], list[Check]] = {}
    for outcome in outcomes:
        reason = words.one_line(outcome.reason or "No reason was given.")
        lacks = _UNKNOWN.match(reason)
        rest = reason[lacks.end() :] if lacks else reason
        told = lacks.group(1) if lacks and not _NOT_RUN.match(rest) else None  # all of a stage that did not run
        check = Check(outcome.rule, _name(outcome), told)
        groups.setdefault((outcome.stage, rest), []).append(check)
    ordered = sorted(groups.items(), key=lambda item: -len(item[1]))
    return [CheckGroup(stage, reason, tuple(checks)) for (stage, reason), checks in ordered]


def _name(outcome: RuleOutcome) -> str:
    return outcome.name.replace("-", " ")

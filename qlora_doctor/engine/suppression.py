"""Findings that do not count: known ones of a baseline, and those that somebody gave a reason for.

A suppressed finding stays in the report, with the reason. A suppression without effect is reported, so that none
outlives its cause; not where one of its rules could not be evaluated, since then nobody knows.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import PurePath

from ..core.report import Evidence, Finding, RuleOutcome

_NAMED = ("config.", "adapter.", "quantization.")
_BUDGETS = "config.broken_budget"


@dataclass(frozen=True)
class Suppression:
    """What is not to count.

    Attributes:
        rule: an id, the beginning of ids (``QD3``), or a name.
        reason: why, for the report.
        origin: where this is written, ``runs/a.yaml:12`` or ``baseline.json``.
        file: a glob that the config's path must match; None for any.
        pointer: the JSON pointer it is about, or one above it; None for any.
        line: the line that the finding must point at; None for any.
        fingerprint: the one finding that is meant; None for any.
        items: what that finding named (``items_of``) when it became known; one that names more is a new one.
        until: the last day on which it holds.
    """

    rule: str
    reason: str
    origin: str
    file: str | None = None
    pointer: str | None = None
    line: int | None = None
    fingerprint: str | None = None
    items: frozenset[str] = frozenset()
    until: dt.date | None = None

    def fits(self, finding: Finding) -> bool:
        """True where this finding is meant."""
        if self.fingerprint is not None:
            return self.fingerprint == finding.fingerprint and items_of(finding) <= self.items
        place = finding.location
        return (
            names_rule(self.rule, finding.rule, finding.name)
            and (self.line is None or self.line == place.line)
            and (self.file is None or _path_fits(self.file, place.file))
            and (self.pointer is None or f"{place.pointer or ''}/".startswith(f"{self.pointer.rstrip('/')}/"))
        )


def names_rule(pattern: str, rule: str, name: str) -> bool:
    """True where an id, the beginning of ids or a name names this rule."""
    wanted = pattern.strip().casefold()
    return wanted == name or (wanted.startswith("qd") and rule.casefold().startswith(wanted))


def items_of(finding: Finding) -> frozenset[str]:
    """The keys, targets and modules that a finding names: a rule reports them all at once, at the place of the first.

    Only names that the config and the model's structure give, which are the same from run to run.
    """
    lists = [e.value for e in finding.evidence if _names(e)]
    return frozenset(name for each in lists for item in each if (name := _name_of(item)) is not None)


def _names(evidence: Evidence) -> bool:
    """Budgets tell measured values."""
    fact = evidence.fact
    return fact.startswith(_NAMED) and not fact.startswith(_BUDGETS) and isinstance(evidence.value, list)


def _name_of(item: object) -> str | None:
    if isinstance(item, dict):
        named = [item[key] for key in ("key", "target", "name", "module") if isinstance(item.get(key), str)]
        return named[0] if named else None
    return item if isinstance(item, str) and not item.startswith("… and ") else None


def suppress(
    findings: Sequence[Finding], suppressions: Sequence[Suppression], today: dt.date | None = None
) -> list[Finding]:
    """The findings, with the reason on those that do not count."""
    valid = [each for each in suppressions if not expired(each, today)]
    return [_suppressed(finding, valid) for finding in findings]


def unused(
    findings: Sequence[Finding],
    outcomes: Sequence[RuleOutcome],
    suppressions: Sequence[Suppression],
    today: dt.date | None = None,
) -> list[Suppression]:
    """Suppressions that are over, or that met no finding although every rule of theirs was evaluated."""
    idle = []
    for each in suppressions:
        meant = [outcome for outcome in outcomes if names_rule(each.rule, outcome.rule, outcome.name)]
        settled = bool(meant) and all(outcome.status != "skipped" for outcome in meant)
        if expired(each, today) or (settled and not any(each.fits(finding) for finding in findings)):
            idle.append(each)
    return idle


def expired(suppression: Suppression, today: dt.date | None = None) -> bool:
    """True after its last day."""
    return suppression.until is not None and suppression.until < (today or dt.date.today())


def _suppressed(finding: Finding, suppressions: Sequence[Suppression]) -> Finding:
    for each in suppressions:
        if each.fits(finding):
            return finding.model_copy(update={"suppressed": f"{each.reason} ({each.origin})"})
    return finding


def _path_fits(pattern: str, file: str | None) -> bool:
    if file is None:
        return False
    path = PurePath(file.replace("\\", "/")).as_posix()
    return fnmatch(path, pattern) or fnmatch(path, f"*/{pattern}")

"""Two reports side by side: what changed in the setup, the facts, the findings, and the memory by part."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Set
from typing import Any, Literal

from pydantic import Field

from ..core.report import Finding, Report, Severity
from ..facts import Fact
from ..facts.config import HeldBudget
from ..facts.memory import MemoryPicture
from .verdict import unread

_NOT_SETUP = ("origins", "file", "dialect_confidence", "dialect_named")
_NOISE = ("config.", "environment.", "memory.")
"""Subjects that other tables tell: the setup's own, the machine's, and memory by part."""
_TIMES = ("seconds",)
_ABSENT = object()


class Change(Fact):
    """A value that is not the same; None where it is absent or unknown."""

    path: str
    before: Any = None
    after: Any = None


class Found(Fact):
    """A finding."""

    rule: str
    name: str
    severity: Severity
    message: str


class Part(Fact):
    """A part of the memory peak, in bytes; None where a side has no such account."""

    part: str
    before: int | None = None
    after: int | None = None


class Regression(Fact):
    """Why the comparison fails."""

    kind: Literal["budget", "error"]
    sentence: str


class Comparison(Fact):
    """What changed from one report to another."""

    comparison_version: Literal["1.0"] = "1.0"
    before: str
    after: str
    setup: list[Change]
    versions: list[Change]
    facts: list[Change]
    new: list[Found]
    gone: list[Found]
    unchanged: list[Found] = Field(default_factory=list)
    """Findings of both sides, as the later one has them."""
    memory_source: Literal["predicted", "measured"] | None = None
    memory: list[Part]
    """The peak first, then its parts."""
    not_seen: list[str]
    """Stages that one side or both lack: what they would have shown is not compared. One sentence each."""
    regressions: list[Regression]


def compare(before: Report, after: Report, names: tuple[str, str] | None = None) -> Comparison:
    """Hold two reports against each other.

    Findings that were suppressed do not take part. Times are left out: they differ from run to run.
    """
    source, memory = _memory(before, after)
    new, gone = _only(after, before), _only(before, after)
    return Comparison(
        before=names[0] if names else _name(before),
        after=names[1] if names else _name(after),
        setup=_changes(_flat(_setup(before)), _flat(_setup(after))),
        versions=_changes(_versions(before), _versions(after)),
        facts=_changes(_facts(before), _facts(after)),
        new=new,
        gone=gone,
        unchanged=[each for each in _found(after) if each not in new],
        memory_source=source,
        memory=memory,
        not_seen=[*_not_seen("before", before), *_not_seen("after", after)],
        regressions=[*_worse_budgets(before, after), *_new_errors(new)],
    )


def _not_seen(side: str, report: Report) -> Iterator[str]:
    for record in report.stages:
        if record.status != "done" and (record.requested or record.status == "failed"):
            yield f"{side}: {record.name} {record.status}: {record.reason or 'no reason was given.'}"
    if (partly := unread(report)) is not None:
        yield f"{side}: {partly.removesuffix('.')}."


def _name(report: Report) -> str:
    return str((report.setup or {}).get("file") or "objects in memory")


def _setup(report: Report) -> dict[str, Any]:
    return {key: value for key, value in (report.setup or {}).items() if key not in _NOT_SETUP}


def _versions(report: Report) -> dict[str, Any]:
    packages = report.facts.environment.packages.model_dump() if report.facts.environment else {}
    return {name: version for name, version in packages.items() if version is not None}


def _facts(report: Report) -> dict[str, Any]:
    flat = _flat(report.facts.model_dump(mode="json"))
    return {
        path: value
        for path, value in flat.items()
        if not path.startswith(_NOISE) and not path.rsplit(".", 1)[-1].endswith(_TIMES)
    }


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Leaves by dotted path; a list is a leaf, and one of groups counts by its length."""
    return dict(_leaves(value, prefix))


def _leaves(value: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, each in value.items():
        path = f"{prefix}{key}"
        if isinstance(each, Mapping):
            yield from _leaves(each, f"{path}.")
        elif isinstance(each, list) and any(isinstance(item, Mapping | list) for item in each):
            yield f"{path} (number)", len(each)
        elif each is not None:
            yield path, each


def _changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Change]:
    paths = [*before, *(path for path in after if path not in before)]
    return [
        Change(path=path, before=before.get(path), after=after.get(path))
        for path in paths
        if not _same(before.get(path, _ABSENT), after.get(path, _ABSENT))
    ]


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, float) and isinstance(other, float):
        return one == other or (math.isnan(one) and math.isnan(other))
    return bool(one == other)


def _only(here: Report, there: Report) -> list[Found]:
    """Findings that count here and not there; the file's name does not matter, so that two files can be compared."""
    known = {_identity(finding) for finding in there.findings if finding.suppressed is None}
    return _found(here, known)


def _found(report: Report, without: Set[tuple[str, str | None, Severity]] = frozenset()) -> list[Found]:
    return [
        Found(rule=f.rule, name=f.name, severity=f.severity, message=f.message)
        for f in report.findings
        if f.suppressed is None and _identity(f) not in without
    ]


def _identity(finding: Finding) -> tuple[str, str | None, Severity]:
    return finding.rule, finding.location.pointer, finding.severity


def _memory(before: Report, after: Report) -> tuple[Literal["predicted", "measured"] | None, list[Part]]:
    """By part; of two accounts of the same kind, measured where both are."""
    kinds: tuple[Literal["measured", "predicted"], ...] = ("measured", "predicted")
    for kind in kinds:
        one, other = _picture(before, kind), _picture(after, kind)
        if one is not None and other is not None:
            names = [
                *(one.breakdown or {}),
                *(name for name in other.breakdown or {} if name not in (one.breakdown or {})),
            ]
            parts = [
                Part(part=n, before=(one.breakdown or {}).get(n), after=(other.breakdown or {}).get(n)) for n in names
            ]
            peak = Part(part="peak_allocated", before=one.peak_allocated_bytes, after=other.peak_allocated_bytes)
            return kind, [peak, *parts]
    return None, []


def _picture(report: Report, kind: Literal["predicted", "measured"]) -> MemoryPicture | None:
    picture: MemoryPicture | None = getattr(report.facts.memory, kind) if report.facts.memory else None
    return picture if picture is not None and picture.peak_allocated_bytes is not None else None


def _worse_budgets(before: Report, after: Report) -> Iterator[Regression]:
    """Budgets of level error that are broken now and were not, or are broken by more than they were."""
    known = {(budget.fact, budget.level): budget for budget in _budgets(before)}
    for budget in _budgets(after):
        if budget.level != "error" or budget.status != "broken":
            continue
        old = known.get((budget.fact, budget.level))
        if old is None or old.status != "broken" or _excess(budget) > _excess(old):
            was = f"; it was {old.value}" if old is not None and old.value is not None else ""
            yield Regression(kind="budget", sentence=f"{budget.sentence}{was}.")


def _budgets(report: Report) -> list[HeldBudget]:
    return report.facts.config.budgets if report.facts.config else []


def _excess(budget: HeldBudget) -> float:
    if budget.value is None:
        return 0.0
    over = budget.value - budget.max if budget.max is not None else 0.0
    under = budget.min - budget.value if budget.min is not None else 0.0
    return max(over, under, 0.0)


def _new_errors(new: list[Found]) -> Iterator[Regression]:
    """The rule of broken budgets is compared budget by budget."""
    for found in new:
        if found.severity == "error" and found.rule != "QD520":
            yield Regression(kind="error", sentence=f"{found.rule} {found.name}: {found.message}")

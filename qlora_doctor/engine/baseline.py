"""Findings that were there before: a file of fingerprints, so that only new findings count.

A fingerprint comes from rule, file and place, so neither an edit elsewhere nor another measured value makes an old
finding look new.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ..core.errors import UsageError
from ..core.report import Report
from .suppression import Suppression, items_of


class Entry(BaseModel):
    """One known finding; only the fingerprint decides, the rest is for who reads the file."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    fingerprint: str = Field(min_length=1)
    rule: str
    name: str
    file: str | None = None
    pointer: str | None = None
    items: list[str] = Field(default_factory=list)
    """What it names: keys, targets, modules. A finding that names more than these is a new one."""


class Baseline(BaseModel):
    """The file."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    baseline_version: Literal[1] = 1
    findings: list[Entry] = Field(default_factory=list)


def read_baseline(path: Path) -> Baseline:
    """Read the file.

    Raises:
        UsageError: it is not there, or is no baseline.
    """
    try:
        return Baseline.model_validate_json(path.read_bytes())
    except OSError as error:
        remedy = f"qlora-doctor check … --baseline {path} --write-baseline"
        raise UsageError(f"{path} cannot be read: {error.strerror or error}.", remedy=remedy) from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "it"
        raise UsageError(f"{path} is no baseline: {where}: {first['msg']}.") from error


def suppressions_of(baseline: Baseline, path: Path) -> list[Suppression]:
    """Each entry as a suppression."""
    return [
        Suppression(
            rule=entry.rule,
            reason="known before",
            origin=path.name,
            fingerprint=entry.fingerprint,
            items=frozenset(entry.items),
        )
        for entry in baseline.findings
    ]


def baseline_of(reports: Sequence[Report], before: Baseline | None = None) -> Baseline:
    """What is found now; entries of ``before`` stay where their config was not looked at, or their rule not evaluated.

    Findings that are suppressed for another reason need no entry.
    """
    found = {
        finding.fingerprint: Entry(
            fingerprint=finding.fingerprint,
            rule=finding.rule,
            name=finding.name,
            file=finding.location.file,
            pointer=finding.location.pointer,
            items=sorted(items_of(finding)),
        )
        for report in reports
        for finding in report.findings
        if finding.suppressed is None
    }
    kept = [entry for entry in (before.findings if before else ()) if not _settled(entry, reports)]
    found.update({entry.fingerprint: entry for entry in kept})
    return Baseline(findings=_sorted(found.values()))


def stale_entries(baseline: Baseline, reports: Sequence[Report]) -> list[Entry]:
    """Entries whose finding is gone: their config was looked at and their rule evaluated."""
    present = {finding.fingerprint for report in reports for finding in report.findings}
    return [e for e in baseline.findings if e.fingerprint not in present and _settled(e, reports)]


def pruned(baseline: Baseline, reports: Sequence[Report]) -> Baseline:
    """The baseline without stale entries."""
    stale = {entry.fingerprint for entry in stale_entries(baseline, reports)}
    return Baseline(findings=_sorted(entry for entry in baseline.findings if entry.fingerprint not in stale))


def text_of(baseline: Baseline) -> str:
    """The file's text: one entry a line, in a fixed order, so that a review shows what came and went."""
    lines = [json.dumps(entry.model_dump(), ensure_ascii=False) for entry in baseline.findings]
    body = "[\n    " + ",\n    ".join(lines) + "\n  ]" if lines else "[]"
    return f'{{\n  "baseline_version": 1,\n  "findings": {body}\n}}\n'


def _settled(entry: Entry, reports: Sequence[Report]) -> bool:
    """True where a report speaks for this entry."""
    return any(
        (report.setup or {}).get("file") == entry.file
        and any(o.rule == entry.rule and o.status != "skipped" for o in report.rules)
        for report in reports
    )


def _sorted(entries: Iterable[Entry]) -> list[Entry]:
    return sorted(entries, key=lambda entry: (entry.file or "", entry.rule, entry.fingerprint))

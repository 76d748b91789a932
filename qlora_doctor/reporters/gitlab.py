"""GitLab's code quality report: docs.gitlab.com, "Code Quality report format".

The name of the rule goes before the description, since GitLab does not show ``check_name``; fingerprints are unique
within a report, as it asks.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from ..core.report import Finding, Report, Severity
from . import _words as words
from ._places import file_of
from .verdict import counting, told

_SEVERITIES: dict[Severity, str] = {"error": "critical", "warning": "minor", "info": "info"}


def render(report: Report) -> str:
    """The findings that count, of one report."""
    return render_all([report])


def render_all(reports: Sequence[Report]) -> str:
    """The same of several reports; what stands at no file is named after what was checked."""
    used: dict[str, int] = {}
    issues = [_issue(report, found, used) for report in reports for found in counting(report)]
    return json.dumps(issues, indent=2, ensure_ascii=False) + "\n"


def _issue(report: Report, found: Finding, used: dict[str, int]) -> dict[str, Any]:
    used[found.fingerprint] = number = used.get(found.fingerprint, 0) + 1
    unique = found.fingerprint if number == 1 else f"{found.fingerprint}|{number}"
    return {
        "description": f"{words.one_line(found.rule)} {words.one_line(found.name)}: {told(found)}",
        "check_name": words.one_line(found.rule),
        "fingerprint": hashlib.sha256(unique.encode()).hexdigest()[:32],
        "severity": _SEVERITIES[found.severity],
        "location": {
            "path": words.one_line(file_of(report, found) or "objects-in-memory"),
            "lines": {"begin": found.location.line or 1},
        },
    }

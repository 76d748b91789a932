"""The report as JSON: pydantic's own dump, and safe to stand inside a page."""

from __future__ import annotations

from collections.abc import Sequence

from ..core.report import Report

# What could end a script element, a line in old JavaScript, or the direction of the source that somebody reads; in
# JSON these stand in strings only, where an escape means the same character.
_UNSAFE = (*map(ord, "<>&'"), 0x2028, 0x2029, *range(0x202A, 0x202F), *range(0x2066, 0x206A))
_ESCAPES = {code: f"\\u{code:04x}" for code in _UNSAFE}


def render(report: Report) -> str:
    """One report, two spaces of indentation."""
    return report.model_dump_json(indent=2) + "\n"


def render_all(reports: Sequence[Report]) -> str:
    """Several reports: a list."""
    return "[\n" + ",\n".join(report.model_dump_json(indent=2) for report in reports) + "\n]\n"


def embedded(report: Report) -> str:
    """The same document on one line, for ``<script type="application/json">``."""
    return report.model_dump_json().translate(_ESCAPES)

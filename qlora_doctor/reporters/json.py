"""The report as JSON: pydantic's own dump, and safe to stand inside a page."""

from __future__ import annotations

from collections.abc import Sequence

from ..report import Report

# What could end a script element or a line in old JavaScript; inside JSON these stand in strings only, where an
# escape means the same character.
_UNSAFE = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "'": "\\u0027", "\u2028": "\\u2028", "\u2029": "\\u2029"}
_ESCAPES = str.maketrans(_UNSAFE)


def render(report: Report) -> str:
    """One report, two spaces of indentation."""
    return report.model_dump_json(indent=2) + "\n"


def render_all(reports: Sequence[Report]) -> str:
    """Several reports: a list."""
    return "[\n" + ",\n".join(report.model_dump_json(indent=2) for report in reports) + "\n]\n"


def embedded(report: Report) -> str:
    """The same document on one line, for ``<script type="application/json">``."""
    return report.model_dump_json().translate(_ESCAPES)

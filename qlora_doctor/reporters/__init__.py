"""Report → a string: one module per format, no judgement, nothing read but templates and rule pages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module

from ..core.errors import UsageError
from ..core.report import Report


def _reporter(module: str) -> Callable[[Report], str]:
    """The ``render`` of a module, imported when it is first used: templates cost nothing to who wants text."""

    def render(report: Report) -> str:
        rendered: str = import_module(f".{module}", __name__).render(report)
        return rendered

    return render


_NAMES = ("text", "concise", "json", "html", "sarif", "github", "gitlab", "junit", "markdown")
PICTURES = ("card", "badge")
"""Formats that are one drawing: what stands on them is in the report."""
FORMATS: dict[str, Callable[[Report], str]] = {
    **{name: _reporter(name) for name in _NAMES},
    "card": _reporter("card"),
    "badge": _reporter("badge"),
}
"""Format name → function of one report."""
TOGETHER = tuple(name for name in _NAMES if name != "html")
"""Formats of which one document holds several reports."""


def render(report: Report | Sequence[Report], format: str) -> str:
    """The report, or several, in a format.

    Raises:
        UsageError: the format is unknown, or holds only one report.
    """
    if format not in FORMATS:
        raise UsageError(f"There is no format {format!r}; the formats are {', '.join(FORMATS)}.")
    if isinstance(report, Report):
        return FORMATS[format](report)
    if format in TOGETHER:
        document: str = import_module(f".{format}", __name__).render_all(report)
        return document
    if len(report) == 1:
        return FORMATS[format](report[0])
    raise UsageError(f"One {format} file holds one report, and there are {len(report)}.", remedy="Name one file each.")


__all__ = ["FORMATS", "PICTURES", "TOGETHER", "render"]

"""Report → a string: one module per format, no judgement, nothing read but templates and rule pages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module

from ..errors import UsageError
from ..report import Report


def _reporter(module: str) -> Callable[[Report], str]:
    """The ``render`` of a module, imported when it is first used: templates cost nothing to who wants text."""

    def render(report: Report) -> str:
        rendered: str = import_module(f".{module}", __name__).render(report)
        return rendered

    return render


FORMATS: dict[str, Callable[[Report], str]] = {name: _reporter(name) for name in ("text", "json", "html")}
"""Format name → function of one report."""


def render(report: Report | Sequence[Report], format: str) -> str:
    """The report, or several, in a format.

    Several reports are one document where the format has one: JSON gives a list, text one after the other.

    Raises:
        UsageError: the format is unknown, or holds only one report.
    """
    if format not in FORMATS:
        raise UsageError(f"There is no format {format!r}; the formats are {', '.join(FORMATS)}.")
    if isinstance(report, Report):
        return FORMATS[format](report)
    if format == "json":
        from .json import render_all

        return render_all(report)
    if format == "text":
        return "\n".join(FORMATS[format](each) for each in report)
    if len(report) == 1:
        return FORMATS[format](report[0])
    raise UsageError(f"One {format} file holds one report, and there are {len(report)}.", remedy="Name one file each.")


__all__ = ["FORMATS", "render"]

"""The report as a fragment for a notebook: verdict, key figures and findings in the notebook's own colours."""

from __future__ import annotations

from functools import cache

from jinja2 import FileSystemLoader, StrictUndefined, Template
from jinja2.sandbox import ImmutableSandboxedEnvironment

from ..core.assets import asset_folder
from ..core.report import Report
from . import _words as words
from ._needed import needed
from .verdict import counting, gaps, subject, suppressed, verdict


def render(report: Report) -> str:
    """One ``<div>``; it holds no script and its style reaches nothing outside of it."""
    name, file = subject(report)
    return _template().render(
        facts=report.facts, needed=needed(report.facts.memory),
        findings=counting(report), quiet=len(suppressed(report)), gaps=gaps(report), name=name,
        file=file, verdict=verdict(report),
    )  # fmt: skip


@cache
def _template() -> Template:
    environment = ImmutableSandboxedEnvironment(
        loader=FileSystemLoader(asset_folder("reports") / "notebook", encoding="utf-8"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(size=words.size, amount=words.amount, percent=words.percent, line=words.one_line,
                               visible=words.visible, number=words.number)  # fmt: skip
    environment.globals["fact"] = words.fact
    return environment.get_template("report.html.j2")

"""The report as one HTML file: no network, useful without scripts, and nothing from outside can act in it.

What is drawn stands in ``reports/html``; here is what it is drawn from. Style and script are allowed by their hashes
alone, so the page holds no style attribute and no handler, and text from outside is escaped by Jinja.
"""

from __future__ import annotations

import base64
import hashlib
import re
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import FileSystemLoader, StrictUndefined
from jinja2.sandbox import ImmutableSandboxedEnvironment
from markupsafe import Markup

from ..._version import __version__
from ...core.assets import asset_folder
from ...core.report import Report, stages_of
from .. import _words as words
from .. import card
from .. import json as json_format
from .._answer import headline
from .._needed import needed
from ..verdict import gaps, outcomes, subject, verdict
from .checks import passed_groups, skipped_groups
from .course import course_view
from .cures import chart
from .entries import entries, environment_rows, setup_rows
from .memory import memory_view
from .rows import rows_view
from .stored import stored_view
from .strips import coverage_groups, coverage_strip, error_strip, gradient_strip, outside


def render(report: Report, *, index: str | None = None) -> str:
    """The whole page; ``index`` is the relative address of a page that lists this report among others."""
    memory = report.facts.memory
    zooms = memory is not None and memory.predicted is not None and bool(memory.predicted.tensors)
    script, style = _script(zooms), _stylesheet(zooms)
    name, file = subject(report)
    return _environment().get_template("report.html.j2").render(
        report=report,
        index=index,
        facts=report.facts,
        needed=needed(report.facts.memory),
        subject=name,
        file=file,
        verdict=verdict(report),
        entries=entries(report),
        outcomes={status: outcomes(report, status) for status in ("pass", "fail", "skipped")},
        passed=passed_groups(outcomes(report, "pass")),
        unseen=skipped_groups(outcomes(report, "skipped")),
        stages={record.name: record for record in report.stages},
        stage_names=stages_of(report),
        gaps=gaps(report),
        setup_rows=setup_rows(report.setup),
        environment_rows=list(environment_rows(report.facts.environment)) if report.facts.environment else [],
        style=Markup(style),
        script=Markup(script),
        csp=content_security_policy(script, style),
        document=Markup(json_format.embedded(report)),
        version=__version__,
        cure_chart=chart(report),
        **_views(report),
    )  # fmt: skip


def page(template: str, **parts: Any) -> str:
    """A page that has the report's style and no script."""
    style = _stylesheet()
    csp = content_security_policy("", style)
    return _environment().get_template(template).render(style=Markup(style), csp=csp, version=__version__, **parts)


@cache
def _script(zooms: bool) -> str:
    """The script without indentation and lines of comment; it has no text over several lines.

    Args:
        zooms: with what draws the tensors in use, which other pages need not carry.
    """
    files = ("report.js", "zoom.js") if zooms else ("report.js",)
    lines = [line.strip() for name in files for line in _asset(name).splitlines()]
    return "\n".join(line for line in lines if line and not line.startswith("//"))


@cache
def _stylesheet(zooms: bool = False) -> str:
    """The style without its comments and layout, which every page of a folder would carry along."""
    whole = _asset("report.css") + (_asset("zoom.css") if zooms else "")
    text = re.sub(r"/\*.*?\*/", "", whole, flags=re.DOTALL)
    tight = re.sub(r"\s*([{};,>])\s*", r"\1", text)
    return re.sub(r";}", "}", re.sub(r"(?<=[a-z-]): (?=[^{}]*})", ":", tight)).strip()


def content_security_policy(script: str, style: str) -> str:
    """Nothing but this one style and this one script; the icon is a data URL."""
    scripts = f"'sha256-{_hash(script)}'" if script else "'none'"
    return (
        f"default-src 'none'; script-src {scripts}; style-src 'sha256-{_hash(style)}'; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )


def _picture(report: Report) -> Markup | None:
    """The card, where the question is whether it fits, or the answer is that it does not."""
    fit = card.fit_of(report)
    asked = bool(headline(report))
    return Markup(card.drawn(report, fit)) if fit is not None and (asked or fit.level == "no") else None


def _views(report: Report) -> dict[str, Any]:
    facts = report.facts
    projections = (facts.adapter.projections if facts.adapter else None) or []
    errors = (facts.load.quantization_errors if facts.load else None) or []
    return {
        "memory": memory_view(facts.memory) if facts.memory else None,
        "rows": rows_view(facts.data) if facts.data else None,
        "answers": headline(report),
        "picture": _picture(report),
        "judged": bool(report.rules or report.findings) or not headline(report),
        "fit_level": fit.level if (fit := card.fit_of(report)) is not None else "free",
        "course": course_view(facts.course, report.findings) if facts.course else None,
        "stored": stored_view(facts.stored) if facts.stored else None,
        "coverage": coverage_strip(projections),
        "coverage_groups": coverage_groups(projections),
        "gradients": gradient_strip((facts.step.gradients if facts.step else None) or []),
        "errors": error_strip(errors),
        "errors_outside": outside(errors),
    }


def _hash(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _folder() -> Path:
    return asset_folder("reports") / "html"


@cache
def _asset(name: str) -> str:
    """Style or script; universal newlines keep the hash the same wherever the file was checked out."""
    return (_folder() / name).read_text(encoding="utf-8").strip()


@cache
def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        loader=FileSystemLoader(_folder(), encoding="utf-8"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        size=words.size, amount=words.amount, exact=words.exact, percent=words.percent, seconds=words.seconds,
        number=words.number, visible=words.visible, line=words.one_line, literal=words.literal, plural=_plural,
        layers=words.layers, kinds=words.kinds, gib=words.gib,
    )  # fmt: skip
    return environment


def _plural(count: int, noun: str) -> str:
    return words.plural(count, noun)

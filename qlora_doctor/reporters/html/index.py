"""Several reports on one page: a row for each, what was found across them, and in what their setups differ."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...core.report import Report, Severity, stages_of
from .._needed import needed
from ..overview import outcome, told_outcome
from ..verdict import SEVERITIES, counting, subject, verdict
from .entries import anchors

_NOT_COMPARED = ("dialect",)
WIDEST = 6
"""Setups of which the differences are laid side by side; of more, a table would not be read."""
_LINKS = 12


@dataclass(frozen=True)
class Row:
    """One setup.

    Attributes:
        link: address of its page, relative to the index.
        told: the outcome in words, with how much was read.
        peak: bytes, reserved at the most; ``share`` of the card in percent.
        stages: name and status, ``not run`` where there is no record.
    """

    name: str
    model: str | None
    link: str
    outcome: str
    told: str
    level: str
    headline: str
    counts: tuple[tuple[Severity, int], ...]
    trainable: float | None
    four_bit: float | None
    peak: int | None
    measured: bool
    card: int | None
    share: float | None
    stages: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Shared:
    """A rule and the setups that it found something in: name and address of each finding."""

    rule: str
    title: str
    severity: Severity
    places: tuple[tuple[str, str], ...]
    more: int


@dataclass(frozen=True)
class Difference:
    """A key of the setup and its value in each; None where it is silent."""

    key: str
    values: tuple[str | None, ...]


@dataclass(frozen=True)
class IndexView:
    """Everything that the index shows; rows with the gravest outcome first."""

    rows: tuple[Row, ...]
    counts: tuple[tuple[str, int], ...]
    shared: tuple[Shared, ...]
    differences: tuple[Difference, ...]
    columns: tuple[str, ...]


def render_index(reports: Sequence[Report], links: Sequence[str], names: Sequence[str] | None = None) -> str:
    """The page.

    Args:
        links: addresses of the reports' own pages, relative to this one.
        names: what to call the setups; None takes their files.
    """
    from . import page

    view = index_view(reports, links, names)
    return page("index.html.j2", index=view, created=max((r.tool.created for r in reports), default=""))


def index_view(reports: Sequence[Report], links: Sequence[str], names: Sequence[str] | None = None) -> IndexView:
    """Lay out what is known of each."""
    called = names or [str((r.setup or {}).get("file") or "objects in memory") for r in reports]
    rows = [_row(*each) for each in zip(reports, links, called, strict=True)]
    order = {"fails": 0, "unread": 1, "incomplete": 2, "partly read": 3, "partly seen": 4, "passes": 5}
    counted = Counter(row.outcome for row in rows)
    columns = tuple(called) if 1 < len(reports) <= WIDEST else ()
    return IndexView(
        rows=tuple(sorted(rows, key=lambda row: (order[row.outcome], -_weight(row)))),
        counts=tuple((name, counted[name]) for name in order if counted[name]),
        shared=tuple(_shared(reports, links, called)),
        differences=tuple(_differences(reports)) if columns else (),
        columns=columns,
    )


def _weight(row: Row) -> int:
    """Errors before warnings before notes."""
    by = dict(row.counts)
    return by["error"] * 1_000_000 + by["warning"] * 1_000 + by["info"]


def _row(report: Report, link: str, name: str) -> Row:
    facts, said = report.facts, verdict(report)
    memory = facts.memory
    figure = needed(memory)
    peak = figure.size if figure is not None else None
    card = memory.card_bytes if memory else None
    status = {record.name: record.status for record in report.stages}
    model, file = subject(report)
    counts: tuple[tuple[Severity, int], ...] = (
        ("error", report.summary.error),
        ("warning", report.summary.warning),
        ("info", report.summary.info),
    )
    return Row(
        name=name,
        model=model if file or model != name else None,
        link=link,
        outcome=outcome(report),
        told=told_outcome(report),
        level=said.level,
        headline=said.headline,
        counts=counts,
        trainable=facts.adapter.trainable_ratio if facts.adapter else None,
        four_bit=facts.quantization.coverage_ratio if facts.quantization else None,
        peak=peak,
        measured=bool(memory and memory.measured),
        card=card,
        share=peak / card * 100 if peak and card else None,
        stages=tuple((stage, status.get(stage, "not run")) for stage in stages_of(report)),
    )


def _shared(reports: Sequence[Report], links: Sequence[str], names: Sequence[str]) -> list[Shared]:
    """By severity, then by how many setups a rule concerns."""
    found: dict[tuple[Severity, str], list[tuple[str, str]]] = {}
    called: dict[str, str] = {}
    for report, link, name in zip(reports, links, names, strict=True):
        seen = set()
        for finding, anchor in zip(counting(report), anchors(counting(report)), strict=True):
            key = (finding.severity, finding.rule)
            called[finding.rule] = finding.name
            if key not in seen:
                seen.add(key)
                found.setdefault(key, []).append((name, f"{link}#{anchor}"))
    ordered = sorted(found.items(), key=lambda item: (SEVERITIES.index(item[0][0]), -len(item[1]), item[0][1]))
    return [
        Shared(rule, called[rule].replace("-", " "), severity, tuple(places[:_LINKS]), len(places[_LINKS:]))
        for (severity, rule), places in ordered
    ]


def _differences(reports: Sequence[Report]) -> list[Difference]:
    """Keys that are not the same in all of them."""
    flat = [_values(report.setup or {}) for report in reports]
    keys = list(dict.fromkeys(key for each in flat for key in each))
    return [
        Difference(key, tuple(each.get(key) for each in flat))
        for key in keys
        if len({each.get(key) for each in flat}) > 1
    ]


def _values(setup: Mapping[str, Any]) -> dict[str, str]:
    from .entries import setup_rows

    return {row.path: row.value for row in setup_rows(setup) if row.path not in _NOT_COMPARED}

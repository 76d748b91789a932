"""Findings, the setup and the environment as rows that a template can write down."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...core.report import SECTIONS, Finding, Report
from ...facts import EnvironmentFacts
from .. import _words as words
from .._excerpt import marked
from .._pages import RulePage, rule_page
from ..verdict import counting, suppressed

_ROWS = 40
_GROUPS = 4
"""Groups of a fact that its finding shows; the sections and the JSON hold them all."""
_SOURCES = {
    "dialect_default": "default of the dialect",
    "library_default": "library default",
    "unknown": "not knowable",
}


@dataclass(frozen=True)
class Entry:
    """A finding with its anchor, its page and its diff by lines."""

    finding: Finding
    anchor: str
    page: RulePage | None
    diff: tuple[tuple[str, str], ...]
    """Kind (``add``, ``remove``, ``meta``, ``same``) and text."""
    evidence: tuple[tuple[str, tuple[str, ...]], ...]
    """Fact and its value; a list of groups has a line for each."""
    place: str | None
    excerpt: tuple[str, str, str] | None
    """The line before, at and after the key."""


@dataclass(frozen=True)
class Row:
    """One value of the setup."""

    path: str
    value: str
    source: str


def entries(report: Report) -> list[Entry]:
    """Findings that count, the gravest first, then the suppressed ones."""
    findings = [*counting(report), *suppressed(report)]
    return [_entry(finding, anchor) for finding, anchor in zip(findings, anchors(findings), strict=True)]


def anchors(findings: Sequence[Finding]) -> list[str]:
    """Where each finding stands on its page: the rule's id, and a number from the second of a rule on."""
    used: dict[str, int] = {}
    names = []
    for finding in findings:
        # An anchor becomes part of an address: nothing but letters and digits of the rule's id.
        base = "".join(c for c in finding.rule if c.isascii() and c.isalnum())[:24] or "finding"
        used[base] = number = used.get(base, 0) + 1
        names.append(base if number == 1 else f"{base}-{number}")
    return names


def _entry(finding: Finding, anchor: str) -> Entry:
    diff = (finding.remediation.diff if finding.remediation else None) or ""
    lines = diff.rstrip("\n").split("\n") if diff else []
    place = finding.location
    return Entry(
        finding,
        anchor,
        rule_page(finding.rule),
        tuple((_diff_kind(line, i), words.visible(line)) for i, line in enumerate(lines)),
        tuple((words.one_line(e.fact), _lines(e.fact, e.value)) for e in finding.evidence),
        ":".join(words.one_line(p) for p in (place.file, place.line, place.column) if p is not None) or None,
        marked(place),
    )


def _lines(fact: str, value: Any) -> tuple[str, ...]:
    """The value in words; groups line by line, their first member without its name."""
    if not (isinstance(value, list) and value and all(isinstance(each, Mapping) for each in value)):
        return (words.fact(fact, value, most=12),)
    rest = len(value) - _GROUPS
    return (*map(_group, value[:_GROUPS]), *([f"and {rest:,} more"] if rest > 0 else []))


def _group(value: Mapping[str, Any]) -> str:
    known = [(key, each) for key, each in value.items() if each is not None]
    told = [words.size(each) if key.endswith("_bytes") else words.fact(key, each, most=4) for key, each in known]
    names = [words.one_line(key).replace("_", " ").removesuffix(" bytes") for key, _ in known]
    return ", ".join([*told[:1], *(f"{name} {text}" for name, text in zip(names[1:], told[1:], strict=True))])


def _diff_kind(line: str, index: int) -> str:
    if (index < 2 and line.startswith(("--- ", "+++ "))) or line.startswith("@@"):
        return "meta"
    return {"+": "add", "-": "remove"}.get(line[:1], "same")


def setup_rows(setup: Mapping[str, Any] | None) -> list[Row]:
    """What the config was understood to say: every value that is set, and where it comes from."""
    setup = setup or {}
    origins = setup.get("origins") or {}
    rows = [Row("dialect", words.literal(setup["dialect"]), "")] if setup.get("dialect") else []
    for section in SECTIONS:
        values = setup.get(section)
        for key, value in values.items() if isinstance(values, Mapping) else ():
            path = f"{section}.{key}"
            origin = origins.get(path) or {}
            if value not in (None, {}) or origin.get("source") == "unknown":
                rows.append(Row(words.one_line(path), words.literal(value, most=_ROWS), _source(origin)))
    return rows


def _source(origin: Mapping[str, Any]) -> str:
    place = origin.get("place") or {}
    source = origin.get("source")
    told = _SOURCES.get(str(source)) if source != "explicit" else "written"
    if told is None:
        return words.one_line(source) if source else ""
    if source == "explicit":
        return f"line {place['line']}" if place.get("line") else told
    return f"{told}: {words.one_line(origin['note'])}" if origin.get("note") else told


def environment_rows(environment: EnvironmentFacts) -> Iterator[tuple[str, str]]:
    """Versions and hardware in the order in which an issue would want them."""
    yield "qlora-doctor", words.one_line(environment.tool_version)
    yield "Python", words.one_line(environment.python)
    yield "Platform", words.one_line(environment.platform)
    for name, version in environment.packages.model_dump().items():
        if version is not None:
            yield name.replace("_", "-"), words.one_line(version)
    if environment.torch_cuda:
        yield "CUDA of torch", words.one_line(environment.torch_cuda)
    if environment.bitsandbytes_backends is not None:
        yield "bitsandbytes backends", words.literal(environment.bitsandbytes_backends)
    for gpu in environment.gpus or ():
        told = [words.one_line(gpu.name), words.size(gpu.memory_bytes)]
        told += [f"compute capability {gpu.capability}"] if gpu.capability is not None else []
        yield f"GPU {gpu.index}", ", ".join(told)
    if environment.gpus == []:
        yield "GPU", "none"
    if environment.nvml_error:
        yield "NVML", words.one_line(environment.nvml_error)
    if environment.driver:
        yield "Driver", words.one_line(environment.driver)
    if environment.host_memory_bytes is not None:
        free = words.size(environment.host_available_bytes)
        yield "Host memory", f"{words.size(environment.host_memory_bytes)}, {free} free"
    if environment.cpu_count is not None:
        yield "CPU cores", str(environment.cpu_count)

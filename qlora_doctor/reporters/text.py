"""The report for a terminal and a log: findings by stage with the place they point at, and one last line of verdict."""

from __future__ import annotations

import re
import textwrap
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence

from ..core.place import Place
from ..core.report import ALL_STAGES, NOT_ASKED_FOR, Cause, Finding, Remediation, Report, RuleOutcome, stages_of
from . import _words as words
from ._excerpt import marked
from ._needed import needed
from ._seen import seen
from .afterwards import course_lines, stored_lines
from .cure import cure_table
from .verdict import (
    Gap,
    counting,
    counts,
    dialect,
    gaps,
    outcomes,
    sets_left_out,
    subject,
    suppressed,
    unfollowed,
    unread,
)

_SGR = {"error": "1;31", "warning": "1;33", "info": "1;36", "good": "1;32", "strong": "1", "dim": "2",
        "added": "32", "removed": "31"}  # fmt: skip
_EVIDENCE_WIDTH = 400
CURES = "memory.cures"
"""The fact that is shown as a table."""
_PLAIN = re.compile(r"\x1b\[[0-9;]*m")


class _Ink:
    """Colours words where they are wanted; without colour every word stands for itself."""

    def __init__(self, color: bool) -> None:
        self._color = color

    def __call__(self, style: str, text: str) -> str:
        return f"\x1b[{_SGR[style]}m{text}\x1b[0m" if self._color and text else text


def render(report: Report, *, color: bool = False, width: int = 100, verbose: bool = False) -> str:
    """The whole report.

    Args:
        verbose: tell also the facts that findings rest on, whole diffs, and the rules that were not evaluated.
        color: use ANSI colours; the text reads the same without.
        width: columns to wrap sentences at; code, paths and diffs are never wrapped.
    """
    ink = _Ink(color)
    setup = report.setup or {}
    blocks = [_folded(" · ".join([_header(report, ink), *([dialect(setup)] if setup.get("dialect") else [])]), width)]
    if report.facts.stored is not None and (told := stored_lines(report.facts.stored)):
        blocks.append("\n".join(f"  {line}".rstrip() for line in told))
    # A log's own report; a check that watched a run shows its course by findings.
    of_a_log = report.setup is None or not setup.get("dialect")
    if of_a_log and report.facts.course is not None and (told := course_lines(report.facts.course)):
        blocks.append("\n".join(f"  {line}" for line in told))
    for stage in _stages_with_findings(report):
        blocks.append(render_stage(stage, color=color, width=width))
        found = joined(counting(report))
        blocks += [render_finding(f, color=color, width=width, verbose=verbose) for f in found if f.stage == stage]
    ends = (_not_seen(report, ink, width, verbose), _suppressed(report, ink), _seen(report, ink, width))
    blocks += [block for block in ends if block]
    blocks.append(render_verdict(report, color=color))
    return "\n\n".join(blocks) + "\n"


def render_all(reports: Sequence[Report]) -> str:
    """Several reports, one after the other."""
    return "\n".join(map(render, reports))


def render_stage(stage: str, *, color: bool = False, width: int = 100) -> str:
    """The line above the findings of a stage."""
    return _Ink(color)("strong", f"── {stage} " + "─" * max(3, min(width, 72) - len(stage) - 4))


def render_rest(report: Report, *, color: bool = False, width: int = 100, verbose: bool = False) -> str:
    """What is left to say where each finding was printed while the check was running."""
    ink = _Ink(color)
    ends = (_not_seen(report, ink, width, verbose), _suppressed(report, ink), _seen(report, ink, width))
    blocks = [_header(report, ink), *ends]
    return "\n\n".join([block for block in blocks if block] + [render_verdict(report, color=color)]) + "\n"


def render_finding(finding: Finding, *, color: bool = False, width: int = 100, verbose: bool = False) -> str:
    """One finding, as it is also printed while a check is still running."""
    ink = _Ink(color)
    head = ink(finding.severity, f"{finding.severity}[{words.one_line(finding.rule)}]")
    name = ink("dim", words.one_line(finding.name))
    doubt = "" if finding.confidence == "high" else ink("dim", f" ({finding.confidence} confidence)")
    lines = [f"{head} {name}{doubt}", *_wrap(words.one_line(finding.message), width)]
    lines += _frame(finding.location, finding.severity, ink)
    for evidence in finding.evidence:
        if evidence.fact == CURES and evidence.value:
            lines += [f"    {row}" for row in cure_table(evidence.value, width - 4).split("\n")]
            continue
        if not verbose:
            continue
        shown = words.clipped(words.fact(evidence.fact, evidence.value), _EVIDENCE_WIDTH)
        lines += _wrap(f"{words.one_line(evidence.fact)} = {shown}", width, first="  = ")
    lines += [line for cause in finding.causes for line in _cause(cause, width)]
    if finding.remediation is not None:
        lines += _help(finding.remediation, ink, width, verbose)
    page = finding.url or f"qlora-doctor explain {finding.rule}"
    lines.append(f"  {ink('dim', 'docs:')} {words.one_line(page)}")
    return "\n".join(lines)


def _folded(line: str, width: int) -> str:
    """A line in rows, between words: a terminal would break it anywhere. Colours take no room."""
    rows, room = [""], width
    for word in line.split(" "):
        length = len(re.sub(r"\x1b\[[0-9;]*m", "", word)) + 1
        if rows[-1] and length > room + 1:
            rows.append("  ")
            room = width - 2
        elif rows[-1]:
            rows[-1] += " "
        rows[-1] += word
        room -= length
    return "\n".join(rows)


def render_verdict(report: Report, *, color: bool = False) -> str:
    """The one last line: counts of findings and of rules, whatever else was printed."""
    ink = _Ink(color)
    summary = report.summary
    grave = "error" if summary.error else "warning" if summary.warning else "info" if summary.info else "good"
    ended = [record.name for record in report.stages if record.status == "done"]
    failed = [record.name for record in report.stages if record.status == "failed"]
    if grave == "good" and (unfollowed(report) or sets_left_out(report)):
        grave = "info"
    clean = "nothing found" if ended else "nothing was checked"
    partly = unread(report)
    told = [ink(grave, counts(report) or clean)] if counts(report) or partly is None or not ended else []
    told += [ink("warning", partly.removesuffix("."))] if partly is not None else []
    asked = _some_asked_for(report)
    parts = [*told, f"{len(outcomes(report, 'pass')):,} passed"]
    if not asked:
        parts.append(f"{len(outcomes(report, 'skipped')):,} not evaluated")
    few = asked and 0 < len(ended) < 4
    done = f"{len(ended)} of {len(stages_of(report))} stages done"
    parts.append(f"looked at {', '.join(ended)}" if few else done)
    if sets := sets_left_out(report):
        parts.append(ink("warning", f"{words.plural(len(sets), 'data set')} not looked at"))
    if left := unfollowed(report):
        parts.append(ink("warning", f"{words.plural(len(left), 'statement')} not followed"))
    if failed:
        parts.append(ink("error", f"failed: {', '.join(failed)}"))
    return f"verdict: {' · '.join(parts)}"


def _header(report: Report, ink: _Ink) -> str:
    name, file = subject(report)
    told = [ink("strong", words.one_line(file or name))] + ([words.one_line(name)] if file else [])
    memory, adapter = report.facts.memory, report.facts.adapter
    figure = needed(memory)
    if memory and figure is not None:
        told.append(figure.told(memory.card_bytes))
    if adapter and adapter.trainable_ratio is not None:
        told.append(f"trains {words.percent(adapter.trainable_ratio)}")
    return " · ".join([*told, *_course(report)])


def _course(report: Report) -> list[str]:
    """How many updates of how many samples, as far as the config tells."""
    schedule = report.facts.config.schedule if report.facts.config else None
    if schedule is None or schedule.batch_of_a_rank is None:
        return []
    size, of = schedule.effective_batch, ""
    if size is None:
        size, of = schedule.batch_of_a_rank, " on each rank"
    updates, most = "updates", schedule.updates_at_most
    if most is not None:
        updates = f"{'at most ' if schedule.updates is None else ''}{words.plural(most, 'update')}"
    return [f"{updates} of {words.plural(size, 'sample')}{of}"]


def _stages_with_findings(report: Report) -> list[str]:
    present = {finding.stage for finding in counting(report)}
    return [s for s in ALL_STAGES if s in present] + sorted(present - set(ALL_STAGES))


def _frame(location: Place, severity: str, ink: _Ink) -> list[str]:
    """The line of the user's file with carets below the key, as far as the place is known."""
    if location.file is None and not location.pointer:
        return []
    place = ":".join(
        words.one_line(part) for part in (location.file, location.line, location.column) if part is not None
    )
    place += f" (cell {location.cell})" if location.cell is not None else ""
    pointer = f" {words.one_line(location.pointer)}" if location.pointer else ""
    gutter = " " * len(str(location.line or ""))
    lines = [f"{gutter} {ink('dim', '-->')} {place}{ink('dim', pointer)}"]
    parts = marked(location)
    if parts is None:
        return lines
    before, at, after = parts
    carets = ink(severity, "^" * max(1, _cells(at)))
    bar = ink("dim", "|")
    below = " " * _cells(before) + carets
    return [*lines, f"{gutter} {bar}", f"{location.line} {bar} {before}{at}{after}", f"{gutter} {bar} {below}"]


def _cause(cause: Cause, width: int) -> list[str]:
    look = f" Look at {words.one_line(cause.look)}." if cause.look else ""
    return _wrap(f"{words.one_line(cause.text)}{look}", width, first="  may be: ")


def _help(remediation: Remediation, ink: _Ink, width: int, verbose: bool) -> list[str]:
    lines = _wrap(words.one_line(remediation.text), width, first=f"  {ink('good', 'help:')} ", plain_first="  help: ")
    lines += [f"    $ {words.one_line(command)}" for command in remediation.commands]
    if remediation.diff:
        told = remediation.diff.rstrip("\n").split("\n")
        lines += [f"    {_diff_line(line, ink)}" for line in (told if verbose else _changed_lines(told))]
    return lines


def _changed_lines(diff: list[str]) -> list[str]:
    """The lines that go and come; where they stand is written above them."""
    return [line for line in diff if line.startswith(("+", "-")) and not line.startswith(("+++", "---"))]


def _diff_line(line: str, ink: _Ink) -> str:
    shown = words.visible(line.replace("\t", "    "))
    if line.startswith(("---", "+++", "@@")):
        return ink("dim", shown)
    return ink("added", shown) if line.startswith("+") else ink("removed", shown) if line.startswith("-") else shown


def _some_asked_for(report: Report) -> list[str]:
    """The stages that were asked for by name; empty where nothing was said, or all were."""
    asked = [record.name for record in report.stages if record.requested]
    return asked if any(record.reason == NOT_ASKED_FOR for record in report.stages) else []


def _not_seen(report: Report, ink: _Ink, width: int, verbose: bool) -> str:
    """Stages that failed or were skipped and what would supply them, then the rules that lacked a fact.

    Who asks for a stage by name knows that the others did not run.
    """
    asked = set() if verbose else set(_some_asked_for(report))
    missed = [gap for gap in gaps(report) if not asked or gap.status != "skipped" or asked.intersection(gap.stages)]
    lines = [line for gap in missed for line in _gap(gap, ink, width)]
    if (waiting := outcomes(report, "skipped")) and not asked:
        ids = _named(waiting)
        lines += _wrap(f"{words.plural(len(waiting), 'check')} could not be evaluated: {ids}", width, first="  ")
    return "\n".join([ink("strong", "Not checked"), *lines]) if lines else ""


def _seen(report: Report, ink: _Ink, width: int) -> str:
    """What was looked at and is right, where nothing is wrong: figures, each with its mark."""
    if report.summary.error or report.summary.warning:
        return ""
    marked_parts = [f"{part} {ink('good', '✓')}" for part in seen(report)]
    lines: list[str] = []
    for part, plain in zip(marked_parts, seen(report), strict=True):
        if lines and len(_PLAIN.sub("", lines[-1])) + len(plain) + 5 <= width:
            lines[-1] += f" · {part}"
        else:
            lines.append(part)
    return "\n".join(lines)


def joined(findings: Sequence[Finding]) -> list[Finding]:
    """Findings of which one is the consequence of another at the same place shown once: the gravest, with the others'
    sentences behind its own.

    A key that is not read leaves its value at a default; what follows from that is no finding of its own.
    """
    kept: list[Finding] = []
    for finding in findings:
        cause = next((each for each in kept if _follows(finding, each)), None)
        if cause is None:
            kept.append(finding)
            continue
        told = cause.model_copy(update={"message": f"{cause.message} And {finding.rule}: {finding.message}"})
        kept[kept.index(cause)] = told
    return kept


def _follows(finding: Finding, cause: Finding) -> bool:
    """Whether a finding is about the very key that another one says is not read."""
    if cause.rule not in _NOT_READ or cause.stage != finding.stage or finding.rule == cause.rule:
        return False
    meant = [value.get("closest") for evidence in cause.evidence for value in _mappings(evidence.value)]
    leaf = (finding.location.pointer or "").rpartition("/")[2]
    return bool(leaf) and any(str(name or "").rpartition(".")[2] == leaf for name in meant)


_NOT_READ = ("QD101", "QD105")
"""Rules that say a key is not read."""


def _mappings(value: object) -> list[dict[str, object]]:
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def _named(waiting: list[RuleOutcome]) -> str:
    """A few rules by id; of many only how many each stage has."""
    if len(waiting) <= 12:
        return ", ".join(words.one_line(o.rule) for o in waiting)
    return ", ".join(
        f"{count} of {words.one_line(stage)}" for stage, count in Counter(o.stage for o in waiting).items()
    )


def _gap(gap: Gap, ink: _Ink, width: int) -> Iterable[str]:
    status = ink("error", gap.status) if gap.status == "failed" else gap.status
    why, names = words.one_line(gap.reason or "No reason was given."), ", ".join(gap.stages)
    yield from _wrap(why, width, first=f"  {names} {status}: ", plain_first=f"  {names} {gap.status}: ")
    remedies = [words.one_line(each) for each in gap.remedies]
    options = ", ".join(each for each in remedies if not each.endswith("."))
    sentences = [each for each in remedies if each.endswith(".")]
    yield from (f"    to have it: {each}" for each in (options, *sentences) if each)


def _suppressed(report: Report, ink: _Ink) -> str:
    quiet = suppressed(report)
    lines = [f"  {words.one_line(f.rule)} {words.one_line(f.name)}: {words.one_line(f.suppressed)}" for f in quiet]
    lines += [f"  {words.one_line(unused)}" for unused in report.unused_suppressions]
    return "\n".join([ink("strong", "Suppressed"), *lines]) if lines else ""


def _wrap(text: str, width: int, *, first: str = "  ", plain_first: str | None = None) -> list[str]:
    """Wrap a sentence; ``first`` may carry colour codes, which ``plain_first`` leaves out when counting."""
    plain = plain_first or first
    rest = "  " if plain == "  " else "    "
    lines = textwrap.wrap(text, max(40, width), initial_indent=plain, subsequent_indent=rest,
                          break_long_words=False, break_on_hyphens=False)  # fmt: skip
    return [first + lines[0][len(plain) :], *lines[1:]] if lines else [first]


def _cells(text: str) -> int:
    """Columns of a terminal: wide characters take two, combining marks none (UAX #11)."""
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)

"""What is known so far of one setup, judged as facts arrive."""

from __future__ import annotations

import datetime as dt
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._version import __version__
from ..core.as_json import as_json
from ..core.assets import asset_folder
from ..core.links import docs_base, rule_url
from ..core.place import Place
from ..core.report import ALL_STAGES, STAGES, FailOn, Finding, Remediation, Report, RuleOutcome, StageRecord, Tool
from ..core.text import cleaned
from ..facts import Facts
from ..worker.options import RunOptions
from .observer import Observer

if TYPE_CHECKING:
    from ..engine import Rule, Selection
    from ..engine.budgets import Budget
    from ..engine.suppression import Suppression
    from ..facts.environment import EnvironmentFacts
    from ..setup.setup import Setup
    from ..worker.events import Event, Progress

INTERRUPTED = "The check was interrupted."
"""Reason of the stages that Ctrl-C left open; the exit code is then 3."""
REAL_STAGES = STAGES[1:]
"""The stages that work on a built model; they run in a child process."""


_OF_ROWS: dict[str, dict[str, Any]] = {
    "data": {"shown": None, "content_lost": "left out by --no-rows"},
    "batch": {"text": None},
}
"""Facts that hold text of the training data, and what stands in their place where it is to stay out of reports."""


@dataclass(frozen=True, eq=False, repr=False)
class CheckOptions(RunOptions):
    """How to check: how stages are run, and what their facts are judged by.

    Attributes:
        left_out: stages that are not run all the same.
        card: the card that the run is meant for, in place of the config's own.
        fail_on: the least of findings that makes the exit code 1; from ``unknown`` on, a run not all known makes it 3.
        facts: a recorded report or facts document to judge instead of looking.
        suppressions: findings that do not count, beside those that the config's own comments name.
        budgets: limits of facts; those of the native config's ``budgets`` section have rules of their own.
        margin: error band to hold predicted memory with, as a share; None is the prediction's own.
        cache: take results from, and leave them in, the cache; without it nothing outlives the check.
        docs: address of the docs site that findings link to; None takes ``QLORA_DOCTOR_DOCS``, or links to nothing.
        savings: work out what changes would save, where memory is short.
        rows: keep text of the training data in the facts, so that reports show rows.
        run_data: run a script up to its training and look at its own first batches; other configs are read as ever.
        script_arguments: of that script's command line.
        script_seconds, script_memory: bounds of it, the second in bytes; None takes those of ``first_batches``.
        cache_folder: where; None takes the user's cache folder, or what QLORA_DOCTOR_CACHE names.
    """

    left_out: tuple[str, ...] = ()
    card: str | None = None
    selection: Selection | None = None
    fail_on: FailOn = "unknown"
    facts: Path | None = None
    dialect: str | None = None
    rules: tuple[Path, ...] = ()
    suppressions: tuple[Suppression, ...] = ()
    budgets: tuple[Budget, ...] = ()
    margin: float | None = None
    cache: bool = True
    cache_folder: Path | None = None
    command: str | None = None
    docs: str | None = None
    savings: bool = True
    rows: bool = True
    run_data: bool = False
    script_arguments: tuple[str, ...] = ()
    script_seconds: float | None = None
    script_memory: int | None = None


@dataclass
class Session:
    """What is known so far of one setup."""

    rules: Sequence[Rule]
    options: CheckOptions
    observer: Observer
    setup: Setup | None = None
    facts: Facts = field(default_factory=Facts.model_construct)
    """Nothing seen yet; constructed, since building the validator of every fact takes longer than judging a file."""
    stages: dict[str, StageRecord] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    outcomes: list[RuleOutcome] = field(default_factory=list)
    suppressions: Sequence[Suppression] = ()
    covers: tuple[str, ...] = STAGES
    """The stages of this command; rules of others do not judge."""
    log: str | None = None
    """The file that findings point at where a run's log is judged, and no config."""
    environment: EnvironmentFacts | None = None
    """What is known of this machine; None where nobody has looked yet."""
    interrupted: bool = False
    _told: set[str] = field(default_factory=set)
    _begun: str | None = None
    _remedies: dict[tuple[str, str | None], Remediation] = field(default_factory=dict)

    def take(self, events: Sequence[Event]) -> None:
        """Fold in what a worker tells, or what was known before; judged once, after all of it."""
        handlers: dict[str, Callable[[Any], None]] = {
            "start": lambda e: self.begin(e.name),
            "progress": self._tell_progress,
            "facts": lambda e: self._learn(e.subject, e.value),
            "end": lambda e: self.record(e.record),
        }
        for event in events:
            handlers[event.kind](event)
        if any(event.kind == "end" for event in events):
            self.judge()

    def _tell_progress(self, event: Progress) -> None:
        if event.known:
            self.observer.on_known(event.text)
        else:
            self.observer.on_progress(event.text, event.done, event.total, event.unit)

    def _learn(self, subject: str, value: Any) -> None:
        if not self.options.rows and subject in _OF_ROWS:
            value = value.model_copy(
                update={name: new for name, new in _OF_ROWS[subject].items() if getattr(value, name)}
            )
        self.facts = self.facts.model_copy(update={subject: cleaned(value)})
        self.widen_margin()

    def widen_margin(self) -> None:
        """Hold predicted memory with the error band that was asked for."""
        memory, margin = self.facts.memory, self.options.margin
        if margin is not None and memory is not None and memory.predicted is not None:
            memory = memory.model_copy(update={"margin_ratio": margin})
            self.facts = self.facts.model_copy(update={"memory": memory})

    def begin(self, name: str) -> None:
        """A stage begins; said once, also where what is known already is looked through before a worker begins it."""
        if name != self._begun:
            self._begun = name
            self.observer.on_stage_start(name)

    def interrupt(self, stages: Sequence[str]) -> None:
        """Ctrl-C came while these were open."""
        self.interrupted = True
        for name in stages:
            self.skip(name, INTERRUPTED)
        self.judge()

    def skip(self, name: str, reason: str, remedy: str | None = None) -> None:
        """Leave a stage out; nothing new is known, so it is for the caller to judge again once."""
        self.record(StageRecord(name=name, status="skipped", reason=reason, remedy=remedy))

    def record(self, record: StageRecord) -> None:
        """Note how a stage ended; judging is the caller's."""
        record = cleaned(record).model_copy(update={"requested": record.name in (self.options.stages or ())})
        self.stages[record.name], self._begun = record, None
        self.observer.on_stage(record)

    def judge(self) -> None:
        """Judge again; a finding that rests on an early stage does not wait for the late ones."""
        from ..engine import Selection, judge
        from ..engine.joining import joined
        from ..engine.judge import in_order

        records = [self.stages[name] for name in ALL_STAGES if name in self.stages]
        judgement = judge(
            self.facts,
            [rule for rule in self.rules if rule.stage in self.covers],
            selection=self.options.selection or Selection(),
            stages=records,
            locate=self._locate,
            in_file=self._in_file,
        )
        self.findings, self.outcomes = self._linked(cleaned(judgement.findings)), judgement.outcomes
        if self.suppressions:
            from ..engine.suppression import suppress

            self.findings = suppress(self.findings, self.suppressions)
        found, self.outcomes = joined(self.findings, self.outcomes, self.facts, {rule.id: rule for rule in self.rules})
        self.findings = in_order(found)
        new = [f for f in self.findings if f.fingerprint not in self._told]
        if new:
            self._told.update(f.fingerprint for f in new)
            self.observer.on_findings(new)

    def _linked(self, findings: list[Finding]) -> list[Finding]:
        """With the address of each bundled rule's page, where there is a docs site."""
        if docs_base(self.options.docs) is None:
            return findings
        bundled = asset_folder("rules")
        own = {rule.id for rule in self.rules if rule.path.parent != bundled}
        url = {f.rule: rule_url(f.rule, self.options.docs) for f in findings if f.rule not in own}
        return [finding.model_copy(update={"url": url.get(finding.rule)}) for finding in findings]

    def _locate(self, pointer: str) -> Place:
        if self.log is not None:
            return Place(file=self.log, pointer=pointer or None)
        file = self.setup.file if self.setup else None
        place = self.setup.place(pointer.strip("/").replace("/", ".")) if self.setup else None
        if place is None:
            return cleaned(Place(file=file, pointer=pointer))
        return cleaned(place.model_copy(update={"file": place.file or file, "pointer": place.pointer or pointer}))

    def _in_file(self, remediation: Remediation, repair: str | None) -> Remediation:
        """A remedy in the keys of the user's own file; asked for after every stage, worked out once."""
        if self.setup is None or self.setup.file is None:
            return remediation
        key = (remediation.model_dump_json(), repair)
        if key not in self._remedies:
            from ..writing.remedy import in_file

            self._remedies[key] = in_file(self.setup, remediation, repair)
        return self._remedies[key]

    def hold_budgets(self) -> None:
        """Hold the facts against their budgets, once all that can be known is."""
        if self.options.budgets and self.facts.config is not None:
            from ..engine.budgets import hold

            config = self.facts.config.model_copy(update=hold(self.facts, self.options.budgets))
            self.facts = self.facts.model_copy(update={"config": config})
            self.judge()

    def _unused(self) -> list[str]:
        """Baselines speak for many configs, so their stale entries are the caller's to tell."""
        from ..engine.suppression import unused

        own = [each for each in self.suppressions if each.fingerprint is None]
        idle = unused(self.findings, self.outcomes, own)
        return [f"{each.origin}: ignore[{each.rule}] suppresses nothing: {_why_idle(each)}." for each in idle]

    def report(self) -> Report:
        from ..engine import exit_code, summarise

        records = [self.stages[name] for name in ALL_STAGES if name in self.stages]
        summary, fail_on = summarise(self.findings, self.outcomes, self.facts), self.options.fail_on
        # model_construct: every part was validated where it was made, and building Report's validator, of every
        # fact that there is, would be a tenth of the time that a config check takes.
        report = Report.model_construct(
            tool=cleaned(Tool.model_construct(version=__version__, created=now(), command=self.options.command)),
            setup=_shown(self.setup) if self.setup else None,
            stages=records,
            facts=self.facts,
            findings=self.findings,
            unused_suppressions=cleaned(self._unused()),
            rules=self.outcomes,
            summary=summary,
            fail_on=fail_on,
            exit_code=3 if self.interrupted else exit_code(self.findings, records, fail_on, summary.read),
        )
        return report if self.setup is None else report.with_lines(self.setup.lines)


def _shown(setup: Setup) -> dict[str, Any]:
    """The setup as a report holds it: what was understood of the config, not what its trainer is like."""
    shown: dict[str, Any] = cleaned(as_json(setup))
    del shown["traits"]
    return shown


def _why_idle(suppression: Suppression) -> str:
    from ..engine.suppression import expired

    return f"it ended on {suppression.until}" if expired(suppression) else "the rule finds nothing there"


def now() -> str:
    """UTC, or the moment that SOURCE_DATE_EPOCH names, so that reports can be reproduced byte for byte."""
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    moment = dt.datetime.fromtimestamp(int(epoch), dt.timezone.utc) if epoch else dt.datetime.now(dt.timezone.utc)
    return moment.replace(microsecond=0).isoformat().replace("+00:00", "Z")

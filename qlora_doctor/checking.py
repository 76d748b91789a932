"""One setup from file to Report: stages in order of cost, judged as facts arrive."""

from __future__ import annotations

import datetime as dt
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import __version__
from .errors import UsageError
from .facts import Facts
from .report import STAGES, FailOn, Finding, Location, Remediation, Report, RuleOutcome, StageRecord, Tool

if TYPE_CHECKING:
    from .caching import Store
    from .config.setup import Setup
    from .engine import Rule, Selection
    from .engine.budgets import Budget
    from .engine.suppression import Suppression
    from .facts.environment import EnvironmentFacts
    from .gathering import Work
    from .probes.child.events import Event

INTERRUPTED = "The check was interrupted."
"""Reason of the stages that Ctrl-C left open; the exit code is then 3."""
REAL_STAGES = STAGES[1:]
"""The stages that work on a built model; they run in a child process."""

_NEEDS: dict[str, tuple[str, ...]] = {
    "structure": ("torch", "transformers", "peft", "bitsandbytes", "accelerate"),
    "memory": ("torch", "transformers", "peft", "bitsandbytes", "accelerate"),
    "data": ("torch", "transformers", "datasets"),
    "load": ("torch", "transformers", "peft", "bitsandbytes", "accelerate", "safetensors"),
    "step": ("torch", "transformers", "peft", "bitsandbytes", "accelerate", "safetensors"),
}


@dataclass(frozen=True)
class CheckOptions:
    """How to check.

    Attributes:
        stages: stages asked for by name; None runs every stage that this machine can run.
        device: ``cpu``, ``cuda``, ``cuda:1``; None takes CUDA where there is one.
        timeout: seconds that the real stages may take together; None is no limit.
        fail_on: the least severity that makes the exit code 1.
        facts: a recorded report or facts document to judge instead of looking.
        trust_remote_code: run Python code that stands in the model's folder.
        suppressions: findings that do not count, beside those that the config's own comments name.
        budgets: limits of facts; those of the native config's ``budgets`` section have rules of their own.
        margin: error band to hold predicted memory with, as a share; None is the prediction's own.
        cache: take results from, and leave them in, the cache; without it nothing outlives the check.
        cache_folder: where; None takes the user's cache folder, or what QLORA_DOCTOR_CACHE names.
    """

    stages: tuple[str, ...] | None = None
    device: str | None = None
    timeout: float | None = None
    selection: Selection | None = None
    fail_on: FailOn = "error"
    facts: Path | None = None
    offline: bool = False
    trust_remote_code: bool = False
    dialect: str | None = None
    debug: bool = False
    rules: tuple[Path, ...] = ()
    suppressions: tuple[Suppression, ...] = ()
    budgets: tuple[Budget, ...] = ()
    margin: float | None = None
    cache: bool = True
    cache_folder: Path | None = None
    command: str | None = None


class Observer:
    """Told what happens while it happens; does nothing. Subclass it to show progress."""

    def on_setup(self, setup: Setup) -> None:
        """The config was read."""

    def on_stage(self, record: StageRecord) -> None:
        """A stage ended."""

    def on_stage_start(self, name: str) -> None:
        """A stage begins."""

    def on_progress(self, text: str, done: int | None, total: int | None, unit: str | None) -> None:
        """Something moved within a stage."""

    def on_findings(self, findings: Sequence[Finding]) -> None:
        """Findings that became known since the last call."""

    def on_trouble(self, text: str) -> None:
        """Something of the tool's own that costs time and no result."""


@dataclass
class _Session:
    """What is known so far of one setup."""

    rules: Sequence[Rule]
    options: CheckOptions
    observer: Observer
    setup: Setup | None = None
    facts: Facts = field(default_factory=Facts)
    stages: dict[str, StageRecord] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    outcomes: list[RuleOutcome] = field(default_factory=list)
    suppressions: Sequence[Suppression] = ()
    environment: EnvironmentFacts | None = None
    """What is known of this machine; None where nobody has looked yet."""
    interrupted: bool = False
    _told: set[str] = field(default_factory=set)
    _remedies: dict[tuple[str, str | None], Remediation] = field(default_factory=dict)

    def take(self, events: Sequence[Event]) -> None:
        """Fold in what a worker tells, or what was known before; judged once, after all of it."""
        handlers: dict[str, Callable[[Any], None]] = {
            "start": lambda e: self.observer.on_stage_start(e.name),
            "progress": lambda e: self.observer.on_progress(e.text, e.done, e.total, e.unit),
            "facts": lambda e: self._learn(e.subject, e.value),
            "end": lambda e: self.record(e.record),
        }
        for event in events:
            handlers[event.kind](event)
        if any(event.kind == "end" for event in events):
            self.judge()

    def _learn(self, subject: str, value: Any) -> None:
        self.facts = self.facts.model_copy(update={subject: value})
        self.widen_margin()

    def widen_margin(self) -> None:
        """Hold predicted memory with the error band that was asked for."""
        memory, margin = self.facts.memory, self.options.margin
        if margin is not None and memory is not None and memory.predicted is not None:
            memory = memory.model_copy(update={"margin_ratio": margin})
            self.facts = self.facts.model_copy(update={"memory": memory})

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
        record = record.model_copy(update={"requested": record.name in (self.options.stages or ())})
        self.stages[record.name] = record
        self.observer.on_stage(record)

    def judge(self) -> None:
        """Judge again; a finding that rests on an early stage does not wait for the late ones."""
        from .engine import Selection, judge

        records = [self.stages[name] for name in STAGES if name in self.stages]
        judgement = judge(
            self.facts,
            self.rules,
            selection=self.options.selection or Selection(),
            stages=records,
            locate=self._locate,
            in_file=self._in_file,
        )
        self.findings, self.outcomes = judgement.findings, judgement.outcomes
        if self.suppressions:
            from .engine.suppression import suppress

            self.findings = suppress(self.findings, self.suppressions)
        new = [f for f in self.findings if f.fingerprint not in self._told]
        if new:
            self._told.update(f.fingerprint for f in new)
            self.observer.on_findings(new)

    def _locate(self, pointer: str) -> Location:
        file = self.setup.file if self.setup else None
        place = self.setup.place(pointer.strip("/").replace("/", ".")) if self.setup else None
        if place is None:
            return Location(file=file, pointer=pointer)
        return Location(**{**place.model_dump(), "file": place.file or file, "pointer": place.pointer or pointer})

    def _in_file(self, remediation: Remediation, repair: str | None) -> Remediation:
        """A remedy in the keys of the user's own file; told again after every stage, worked out once."""
        if self.setup is None or self.setup.file is None:
            return remediation
        key = (remediation.model_dump_json(), repair)
        if key not in self._remedies:
            from .config.remedy import in_file

            self._remedies[key] = in_file(self.setup, remediation, repair)
        return self._remedies[key]

    def hold_budgets(self) -> None:
        """Hold the facts against their budgets, once all that can be known is."""
        if self.options.budgets and self.facts.config is not None:
            from .engine.budgets import hold

            config = self.facts.config.model_copy(update=hold(self.facts, self.options.budgets))
            self.facts = self.facts.model_copy(update={"config": config})
            self.judge()

    def _unused(self) -> list[str]:
        """Baselines speak for many configs, so their stale entries are the caller's to tell."""
        from .engine.suppression import unused

        own = [each for each in self.suppressions if each.fingerprint is None]
        idle = unused(self.findings, self.outcomes, own)
        return [f"{each.origin}: ignore[{each.rule}] suppresses nothing: {_why_idle(each)}." for each in idle]

    def report(self) -> Report:
        from .engine import exit_code, summarise

        records = [self.stages[name] for name in STAGES if name in self.stages]
        # model_construct: every part was validated where it was made, and building Report's validator, of every
        # fact that there is, would be a tenth of the time that a config check takes.
        return Report.model_construct(
            tool=Tool(version=__version__, created=_now(), command=self.options.command),
            setup=self.setup.model_dump(mode="json") if self.setup else None,
            stages=records,
            facts=self.facts,
            findings=self.findings,
            unused_suppressions=self._unused(),
            rules=self.outcomes,
            summary=summarise(self.findings, self.outcomes),
            fail_on=self.options.fail_on,
            exit_code=3 if self.interrupted else exit_code(self.findings, records, self.options.fail_on),
        )


def check(setup: str | os.PathLike[str] | Mapping[str, Any] | Setup, **options: Any) -> Report:
    """Check one setup through every stage that this machine can run.

    Args:
        setup: a config file in any dialect, a mapping in the native dialect, or a ``Setup``.
        options: fields of ``CheckOptions``.

    Raises:
        ConfigError: the config cannot be read or is invalid.
    """
    return run_check(_as_source(setup), CheckOptions(**options))


def run_check(source: Path | Setup | None, options: CheckOptions, observer: Observer | None = None) -> Report:
    """Check one setup and tell the observer what happens on the way.

    Args:
        source: a config file or a Setup; None where recorded facts are judged alone.

    Raises:
        ConfigError: the config cannot be read or is invalid.
        UsageError: an option cannot be served.
    """
    session = open_session(source, options, observer or Observer())
    if options.facts is not None:
        _judge_recorded(session, options.facts)
    elif (work := work_of(session)) is not None:
        _do(session, work)
    session.hold_budgets()
    return session.report()


def open_session(
    source: Path | Setup | None, options: CheckOptions, observer: Observer, *, rules: Sequence[Rule] | None = None
) -> _Session:
    """Read a config; ``rules`` are those of the options where the caller has read them already.

    Raises:
        ConfigError: the config cannot be read or is invalid.
        UsageError: an option cannot be served.
    """
    from .engine import check_selection

    rules = rules_of(options) if rules is None else rules
    session = _Session(rules, options, observer, suppressions=options.suppressions)
    unknown = [name for name in options.stages or () if name not in STAGES]
    if unknown:
        raise UsageError(f"There is no stage {unknown[0]!r}; the stages are {', '.join(STAGES)}.")
    if options.selection is not None:
        check_selection(options.selection, session.rules)
    if source is not None:
        _read(session, source)
    return session


def rules_of(options: CheckOptions) -> Sequence[Rule]:
    """The rules that these options judge by.

    Raises:
        UsageError: a folder holds pages that cannot be used.
    """
    from ._assets import asset_folder
    from .engine import load_rules

    return load_rules(asset_folder("rules"), *options.rules)


def _as_source(setup: str | os.PathLike[str] | Mapping[str, Any] | Setup) -> Path | Setup:
    if isinstance(setup, Mapping):
        from .config.native import setup_from_mapping

        return setup_from_mapping(dict(setup))
    if isinstance(setup, str | os.PathLike):
        return Path(setup)
    return setup


def _read(session: _Session, source: Path | Setup) -> None:
    from .config import read_setup

    setup = read_setup(source, dialect=session.options.dialect) if isinstance(source, Path) else source
    if session.options.trust_remote_code:
        model = setup.model.model_copy(update={"trust_remote_code": True})
        setup = setup.model_copy(update={"model": model})
    session.setup = setup
    session.suppressions = (*session.options.suppressions, *_in_comments(setup))
    session.observer.on_setup(setup)


def _in_comments(setup: Setup) -> list[Suppression]:
    """What the comments of the config file tell not to count."""
    if setup.file is None:
        return []
    from .config.comments import remarks_in

    remarks = remarks_in(Path(setup.file), setup._document.text if setup._document is not None else None)
    if not remarks:
        return []
    from .engine.suppression import Suppression

    return [
        Suppression(rule=rule, reason=remark.reason, origin=f"{setup.file}:{remark.line}", line=remark.covers)
        for remark in remarks
        for rule in remark.rules
    ]


def _why_idle(suppression: Suppression) -> str:
    from .engine.suppression import expired

    return f"it ended on {suppression.until}" if expired(suppression) else "the rule finds nothing there"


def conclude_config(session: _Session) -> None:
    """Stage config: what the file alone tells, and what is installed here."""
    from .config.conclude import conclude
    from .probes.environment import look_at_environment

    assert session.setup is not None
    session.observer.on_stage_start("config")
    started = time.perf_counter()
    environment = session.environment or look_at_environment()
    config = conclude(session.setup, environment)
    session.facts = session.facts.model_copy(update={"environment": environment, "config": config})
    # Judged by the caller, once it is known which stages are left out: nothing else lies between.
    session.record(StageRecord(name="config", status="done", seconds=time.perf_counter() - started))


def work_of(session: _Session, number: int = 0) -> Work | None:
    """Conclude what the config alone tells; what is left to do for the stages on a built model, None where nothing is.

    Judged is what stands when there is nothing to do; else that is for the caller, when something more may be known.
    """
    conclude_config(session)
    runnable = _runnable(session)
    if not runnable:
        session.judge()
        return None
    from .caching import Surroundings
    from .gathering import Work

    assert session.setup is not None
    options = session.options
    around = Surroundings(
        environment=session.facts.environment,
        stages=tuple(runnable),
        requested=options.stages,
        device=options.device,
        offline=options.offline,
        trust_remote_code=options.trust_remote_code,
    )
    return Work(number, session.setup, around, lambda: session.facts, session.take)


def _runnable(session: _Session) -> list[str]:
    """The stages on a built model that were asked for and can be served; the others are skipped."""
    runnable = []
    undecided = _undecided(session.setup)
    for name in REAL_STAGES:
        if not _wanted(name, session.options.stages):
            session.skip(name, "Not asked for.", f"--stage {name}")
        elif undecided is not None:
            session.skip(name, undecided, "Check a config, or a script, that says it.")
        elif missing := missing_packages(name, session.facts):
            extra = "data" if missing == ["datasets"] else "probe"
            reason = f"It needs {', '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not installed."
            session.skip(name, reason, f"pip install 'qlora-doctor[{extra}]'")
        else:
            runnable.append(name)
    return runnable


def _undecided(setup: Setup | None) -> str | None:
    """Why the model of a script cannot be built: what it is built from is decided while the script runs."""
    if setup is None or setup.dialect != "python":
        return None  # where a config is silent, its trainer has a default
    adapter = () if setup.model.adapter is not None else ("lora.r", "lora.target_modules")
    for path in ("model.name_or_path", "quantization.load_in_4bit", *adapter):
        if setup.is_unknown(path):
            return f"The script does not tell {path}: {setup.origins[path].note}"
    return None


def store_of(options: CheckOptions) -> Store:
    """Where results are kept."""
    from .caching import Store, cache_folder

    return Store((options.cache_folder or cache_folder()) if options.cache else None)


def _do(session: _Session, work: Work) -> None:
    """Run what is not known yet in one child process."""
    store = store_of(session.options)
    work.recall(store)
    if not work.left:
        store.close()
        return
    session.judge()
    from .probes.child.runner import run_stages

    options = session.options
    events = run_stages(
        work.setup,
        list(work.left),
        device=options.device,
        timeout=options.timeout,
        offline=options.offline,
        trust_remote_code=options.trust_remote_code,
        requested=options.stages,
        facts=session.facts,
        ended=work.ended,
        debug=options.debug,
    )
    try:
        for event in events:
            work.take(event, store)
    except KeyboardInterrupt:  # it has ended the iterator, and with it the child
        session.interrupt(work.left)
    tell_trouble(store, session)


def tell_trouble(store: Store, session: _Session) -> None:
    """Close the store; a folder that the user chose and that cannot be written is worth a word."""
    store.close()
    if store.trouble is not None and session.options.cache_folder is not None:
        session.observer.on_trouble(f"Results are not kept: {store.trouble}")


def was_interrupted(report: Report) -> bool:
    """True where Ctrl-C ended the check; the report holds what was known by then."""
    return any(record.reason == INTERRUPTED for record in report.stages)


def _wanted(name: str, asked: tuple[str, ...] | None) -> bool:
    """A step needs a loaded base: who asks for the one gets the other."""
    return asked is None or name in asked or (name == "load" and "step" in asked)


def missing_packages(stage: str, facts: Facts) -> list[str]:
    """The packages that a stage needs and this environment lacks."""
    packages = facts.environment.packages if facts.environment else None
    return [name for name in _NEEDS[stage] if packages is None or getattr(packages, name) is None]


def _judge_recorded(session: _Session, path: Path) -> None:
    """Judge a report or a facts document that was written earlier, perhaps on another machine."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        recorded = Report.model_validate(document) if "schema_version" in document else None
        session.facts = recorded.facts if recorded else Facts.model_validate(document)
    except (OSError, ValueError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(f"{path} holds no facts that can be judged: {reason}.") from error
    session.widen_margin()
    if recorded is not None:
        session.stages = {record.name: record for record in recorded.stages}
    else:
        session.stages = {name: _recorded_stage(name, session.facts) for name in STAGES}
    session.judge()


_SUBJECT_OF = {name: name for name in STAGES} | {"structure": "model"}


def _recorded_stage(name: str, facts: Facts) -> StageRecord:
    known = getattr(facts, _SUBJECT_OF[name]) is not None
    reason = None if known else "The recorded facts do not hold it."
    return StageRecord(name=name, status="done" if known else "skipped", reason=reason)


def _now() -> str:
    """UTC, or the moment that SOURCE_DATE_EPOCH names, so that reports can be reproduced byte for byte."""
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    moment = dt.datetime.fromtimestamp(int(epoch), dt.timezone.utc) if epoch else dt.datetime.now(dt.timezone.utc)
    return moment.replace(microsecond=0).isoformat().replace("+00:00", "Z")

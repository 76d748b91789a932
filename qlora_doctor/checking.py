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
from .report import STAGES, FailOn, Finding, Location, PatchOperation, Report, RuleOutcome, StageRecord, Tool

if TYPE_CHECKING:
    from .config.setup import Setup
    from .engine import Rule, Selection

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
    interrupted: bool = False
    _told: set[str] = field(default_factory=set)

    def end_stage(self, record: StageRecord) -> None:
        self.record(record)
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
            diff=self._diff,
        )
        self.findings, self.outcomes = judgement.findings, judgement.outcomes
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

    def _diff(self, patch: list[PatchOperation]) -> str | None:
        if self.setup is None or self.setup.file is None or not patch:
            return None
        from .config.edit import diff_of

        return diff_of(self.setup, patch)

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
    from ._assets import asset_folder
    from .engine import check_selection, load_rules

    session = _Session(load_rules(asset_folder("rules"), *options.rules), options, observer or Observer())
    unknown = [name for name in options.stages or () if name not in STAGES]
    if unknown:
        raise UsageError(f"There is no stage {unknown[0]!r}; the stages are {', '.join(STAGES)}.")
    if options.selection is not None:
        check_selection(options.selection, session.rules)
    if source is not None:
        _read(session, source)
    if options.facts is not None:
        _judge_recorded(session, options.facts)
        return session.report()
    _config_stage(session)
    _real_stages(session)
    return session.report()


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
    session.observer.on_setup(setup)


def _config_stage(session: _Session) -> None:
    from .config.conclude import conclude
    from .probes.environment import look_at_environment

    assert session.setup is not None
    session.observer.on_stage_start("config")
    started = time.perf_counter()
    environment = look_at_environment()
    config = conclude(session.setup, environment)
    session.facts = session.facts.model_copy(update={"environment": environment, "config": config})
    # Judged by the caller, once it is known which stages are left out: nothing else lies between.
    session.record(StageRecord(name="config", status="done", seconds=time.perf_counter() - started))


def _real_stages(session: _Session) -> None:
    """Run the stages on a built model in one child process, as far as they were asked for and can be served."""
    wanted = [name for name in REAL_STAGES if _wanted(name, session.options.stages)]
    runnable = []
    for name in REAL_STAGES:
        if name not in wanted:
            session.skip(name, "It was not asked for.", f"--stage {name}")
        elif missing := _missing_packages(name, session.facts):
            extra = "data" if missing == ["datasets"] else "probe"
            reason = f"It needs {', '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not installed."
            session.skip(name, reason, f"pip install 'qlora-doctor[{extra}]'")
        else:
            runnable.append(name)
    session.judge()
    if not runnable:
        return
    from .probes.child.runner import run_stages

    assert session.setup is not None
    options = session.options
    events = run_stages(
        session.setup,
        runnable,
        device=options.device,
        timeout=options.timeout,
        offline=options.offline,
        trust_remote_code=options.trust_remote_code,
        requested=options.stages,
        facts=session.facts,
        debug=options.debug,
    )
    try:
        _take_events(session, events)
    except KeyboardInterrupt:  # it has ended the iterator, and with it the child
        session.interrupted = True
        for name in runnable:
            if name not in session.stages:
                session.skip(name, INTERRUPTED)
        session.judge()


def was_interrupted(report: Report) -> bool:
    """True where Ctrl-C ended the check; the report holds what was known by then."""
    return any(record.reason == INTERRUPTED for record in report.stages)


def _take_events(session: _Session, events: Any) -> None:
    """Fold the child's events into the session."""
    handlers: dict[str, Callable[[Any], None]] = {
        "start": lambda e: session.observer.on_stage_start(e.name),
        "progress": lambda e: session.observer.on_progress(e.text, e.done, e.total, e.unit),
        "facts": lambda e: _take_facts(session, e.subject, e.value),
        "end": lambda e: session.end_stage(e.record),
    }
    for event in events:
        handlers[event.kind](event)


def _take_facts(session: _Session, subject: str, value: Any) -> None:
    session.facts = session.facts.model_copy(update={subject: value})


def _wanted(name: str, asked: tuple[str, ...] | None) -> bool:
    """A step needs a loaded base: who asks for the one gets the other."""
    return asked is None or name in asked or (name == "load" and "step" in asked)


def _missing_packages(stage: str, facts: Facts) -> list[str]:
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

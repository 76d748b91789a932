"""A command that trains, watched: started with the watching on its PYTHONPATH, judged by what it wrote."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.errors import UsageError
from ..core.folders import user_cache
from ..core.report import RUN_STAGES, Report, StageRecord
from ..facts import Facts
from ..watching.records import HEARD, Options, Training, trainings
from .cache import cache_folder
from .observer import Observer
from .session import CheckOptions, Session

if TYPE_CHECKING:
    from ..facts.run import RunFailure
    from ..setup.setup import Setup

_PACKAGE = Path(__file__).resolve().parents[1]
_SITE = _PACKAGE / "watching" / "site"
_POLL = 0.25
_PATIENCE = 20.0
"""Seconds that a training has to end by itself after it was asked to, before its command is sent SIGTERM."""
_POINTS = 10
"""Logged losses below which a loss that has not moved yet says nothing; whether weights move, the steps have shown."""
_CUT_OFF = (
    "The records end before the run did, which went on to its end: they could not be written, or the process left "
    "without Python's own exit."
)
UNSEEN = "No process of the command trained a model that could be watched."
_UNHEARD = (
    "No process of the command imported torch within the watching: none imports it, or its Python was started with -E, "
    "-I or -S, or in another environment."
)


@dataclass(frozen=True)
class WatchOptions:
    """How to watch.

    Attributes:
        steps: optimizer steps that are looked at closely.
        stop_after: end the training after so many optimizer steps.
        abort_on: end it at the first finding of this severity or above; None never does.
        setup: what the run is held against.
        records: where the processes write; None makes a folder.
        keep_outputs: keep what the model says to a few fixed tokens after a save and at the end.
    """

    steps: int = 2
    stop_after: int | None = None
    abort_on: str | None = None
    setup: Setup | None = None
    records: Path | None = None
    keep_outputs: bool = True


@dataclass
class Ended:
    """How a command ended.

    Attributes:
        code: its exit code; that of a signal is 128 and the signal's number, as a shell has it.
        aborted: True where ``--abort-on`` ended it.
    """

    code: int
    aborted: bool = False


def runs_folder() -> Path:
    """Where runs leave their records: ``$QLORA_DOCTOR_RUNS``, or qlora-doctor/runs in the user's cache folder."""
    named = os.environ.get("QLORA_DOCTOR_RUNS")
    if named:
        return Path(named)
    return user_cache() / "runs"


@contextlib.contextmanager
def records_folder(asked: Path | None) -> Iterator[tuple[Path, bool]]:
    """A folder for the records of one run, and whether it stays: not where nothing is to be kept and none was named.

    Raises:
        UsageError: it cannot be made.
    """
    if asked is not None or os.environ.get("QLORA_DOCTOR_RUNS") or cache_folder() is not None:
        try:
            kept = new_folder(asked)
        except UsageError as error:
            if asked is not None:
                raise
            sys.stderr.write(f"qlora-doctor: {error.message} The records of this run are not kept.\n")
        else:
            yield kept, True
            return
    with tempfile.TemporaryDirectory(prefix="qlora-doctor-", ignore_cleanup_errors=True) as passing:
        yield Path(passing), False


def new_folder(asked: Path | None = None) -> Path:
    """A folder for the records of one run.

    Raises:
        UsageError: it cannot be made.
    """
    name = f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(3)}"
    folder = asked or runs_folder() / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{folder} cannot be made: {error.strerror or error}.") from error
    return folder


def run_watched(command: Sequence[str], folder: Path, options: WatchOptions, check: CheckOptions) -> Ended:
    """Run a command to its end; its output, input and signals are its own.

    Raises:
        UsageError: it cannot be started, or the folder cannot be written.
    """
    stop = folder / "stop"
    try:
        Options(options.steps, options.stop_after, str(stop) if options.abort_on else None, options.keep_outputs).write(
            folder
        )
    except OSError as error:
        raise UsageError(f"{folder} cannot be written: {error.strerror or error}.") from error
    try:
        process = subprocess.Popen(list(command), env=watched_environment(folder))
    except OSError as error:
        raise UsageError(f"{command[0]} cannot be started: {error.strerror or error}.") from error
    with _Signals(process):
        if options.abort_on is None:
            return Ended(_code(process.wait()))
        return _wait_for_findings(process, folder, stop, options, check)


def watched_environment(folder: Path, around: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of a command whose Python processes are watched."""
    environment = dict(os.environ if around is None else around)
    before = environment.get("PYTHONPATH")
    environment["PYTHONPATH"] = os.pathsep.join([str(_SITE), *([before] if before else [])])
    environment["QLORA_DOCTOR_RUN"] = str(folder.resolve())
    environment["QLORA_DOCTOR_HOME"] = str(_PACKAGE.parent)
    return environment


class _Signals:
    """Signals that reach the doctor alone go on to the command; those of a terminal's keys reach both anyway."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self._before: dict[int, Any] = {}

    def __enter__(self) -> None:
        for name in ("SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2"):
            number = getattr(signal, name, None)
            if number is not None:
                self._before[number] = signal.signal(number, self._pass_on)
        # Ctrl-C goes to the whole group of the terminal: the command decides, the doctor waits for it.
        self._before[signal.SIGINT] = signal.signal(signal.SIGINT, lambda *_: None)

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _pass_on(self, number: int, frame: object) -> None:
        if self._process.poll() is None:
            self._process.send_signal(number)


def _code(returned: int) -> int:
    return 128 - returned if returned < 0 else returned


def _wait_for_findings(
    process: subprocess.Popen[bytes], folder: Path, stop: Path, options: WatchOptions, check: CheckOptions
) -> Ended:
    """Judge whenever something new was written; the first finding that is grave enough ends the training."""
    levels = ("error", "warning", "info")
    grave = levels[: levels.index(options.abort_on or "error") + 1]
    seen: dict[Path, int] = {}
    while True:
        try:
            return Ended(_code(process.wait(timeout=_POLL)))
        except subprocess.TimeoutExpired:
            pass
        now = {path: path.stat().st_mtime_ns for path in folder.glob("rank-*.json")}
        if now == seen:
            continue
        seen = now
        reports = reports_of(folder, options, check)
        if any(f.severity in grave and f.suppressed is None for report in reports for f in report.findings):
            stop.touch()
            return _ended_by_us(process)


def _ended_by_us(process: subprocess.Popen[bytes]) -> Ended:
    for ask in (None, process.terminate, process.kill):
        if ask is not None:
            ask()
        try:
            return Ended(_code(process.wait(timeout=_PATIENCE)), aborted=True)
        except subprocess.TimeoutExpired:
            continue
    return Ended(_code(process.wait()), aborted=True)


# -- judging what was written


def reports_of(
    folder: Path,
    options: WatchOptions,
    check: CheckOptions,
    ended: Ended | None = None,
    command: Sequence[str] = (),
) -> list[Report]:
    """One report for each training that the processes of a run wrote of; one that says so where there is none.

    Args:
        folder: with the records.
        ended: how the command ended; None while it runs.
        command: as it was given.
    """
    from ..watching.merging import groups

    written = trainings(folder)
    found = groups([each for each in written if each.number])
    if not found:
        reason = UNSEEN if (folder / HEARD).exists() else _UNHEARD
        return [_unseen(written, check, ended, command, options.setup, reason)]
    last = len(found) - 1
    return [
        _report(group, options, check, ended if number == last else None, command, len(found))
        for number, group in enumerate(found)
    ]


def judge_facts(
    facts: Facts, check: CheckOptions, *, records: Sequence[StageRecord] = (), setup: Setup | None = None
) -> Report:
    """Judge the facts of a training."""
    from ..core.assets import asset_folder
    from ..engine import check_selection, load_rules
    from ..tables.refusals import refusal_ids

    session = Session(load_rules(asset_folder("rules"), *check.rules), check, Observer(),
                      suppressions=check.suppressions)  # fmt: skip
    if check.selection is not None:
        check_selection(check.selection, session.rules, refusal_ids)
    more = [name for name, known in (("data", facts.data), ("course", facts.course)) if known is not None]
    session.covers = (*RUN_STAGES, *more)
    session.setup = setup
    session.facts = facts
    session.stages = {record.name: record for record in records or stage_records(facts)}
    session.judge()
    session.hold_budgets()
    return session.report()


def stage_records(facts: Facts) -> list[StageRecord]:
    """How the stages of a run ended, by what is known."""
    step, run = facts.step, facts.run
    failure = step.failure if step is not None else None
    named = (("data", facts.data), ("course", facts.course))
    course = [StageRecord(name=name, status="done") for name, known in named if known is not None]
    watched = run.watched_steps if run is not None else None
    known = [StageRecord(name=name, status="done") for name in ("config", "structure", "load")]
    if failure is not None and failure.kind != "none":
        return [*known, StageRecord(name="step", status="failed", reason=failure.message), _run_record(facts), *course]
    if step is None or not step.steps:
        why = "The run ended before its first optimizer step was over."
        if run is not None and run.began_late:
            why = "No training forward of a model with trainable tensors was seen."
        return [*known, StageRecord(name="step", status="skipped", reason=why), _run_record(facts), *course]
    if not watched:
        why = "The run ended before its watched steps were over."
        return [*known, StageRecord(name="step", status="skipped", reason=why), _run_record(facts), *course]
    return [*known, StageRecord(name="step", status="done"), _run_record(facts), *course]


def _run_record(facts: Facts) -> StageRecord:
    run = facts.run
    if run is None:
        return StageRecord(name="run", status="skipped", reason=UNSEEN)
    failure = run.failure
    if failure is not None and failure.kind != "none":
        return StageRecord(name="run", status="failed", reason=failure.message)
    if run.troubles:
        return StageRecord(name="run", status="failed", reason=run.troubles[0])
    return StageRecord(name="run", status="done")


def _report(
    group: Sequence[Training],
    options: WatchOptions,
    check: CheckOptions,
    ended: Ended | None,
    command: Sequence[str],
    count: int,
) -> Report:
    from ..watching.merging import together

    try:
        facts = together(group)
    except ValueError as error:
        raise UsageError(f"The records of the run cannot be read: {str(error).splitlines()[0]}.") from error
    run = facts.run
    if run is not None:
        changes: dict[str, Any] = {"trainings": count, "command": " ".join(command) or None}
        logged = [record["step"] for record in group[0].series if isinstance(record.get("step"), int)]
        changes["steps"] = max([run.steps or 0, *logged])
        run = run.model_copy(update=changes)
        changes |= _how_ended(facts.model_copy(update={"run": run}), ended)
        if ended is not None and not ended.code and run.ended == "running" and not run.troubles:
            changes["troubles"] = [_CUT_OFF]
        if options.setup is not None:
            from .differences import differences

            changes["differences"] = differences(options.setup, facts)
        facts = facts.model_copy(update={"run": run.model_copy(update=changes)})
    facts = with_course(facts, group[0].series, group[0].document.get("arguments") or {})
    setup, facts = _with_data(facts, options.setup, check, ended, command)
    return judge_facts(facts, check, setup=setup)


def _with_data(
    facts: Facts, setup: Setup | None, check: CheckOptions, ended: Ended | None, command: Sequence[str]
) -> tuple[Setup | None, Facts]:
    """The facts with those of the config's data, where the run leaves open why it learns nothing, and with what was
    predicted, where it ran out of memory.

    The config is that of ``--config``, or the one that the command itself is given.
    """
    from .explaining import config_in, data_of, memory_of, needs_data

    if ended is not None and (memory := memory_of(facts, setup or config_in(command), check)) is not None:
        return setup, facts.model_copy(update={"memory": memory})
    if ended is None or not needs_data(facts):
        return setup, facts
    found = setup or config_in(command)
    data = data_of(found, check) if found is not None else None
    return (setup, facts) if data is None else (found, facts.model_copy(update={"data": data}))


def with_course(facts: Facts, series: Sequence[Mapping[str, Any]], arguments: Mapping[str, Any]) -> Facts:
    """The facts with those of the run's course, where its trainer logged something.

    Args:
        series: what was logged.
        arguments: of the trainer, as TrainingArguments names them.
    """
    run = facts.run
    if not series or run is None:
        return facts
    from ..probes.log import course_facts, course_from_records, known_from

    course = course_from_records(
        [dict(record) for record in series],
        name=run.trainer or "run",
        formats=["run"],
        planned_steps=float(run.max_steps) if run.max_steps and run.max_steps > 0 else None,
        resumed_at=[float(run.resumed_step)] if run.resumed_step else [],
    )
    if run.ended != "well":  # why it did not come to its end is for the rules of the run to say
        course.stopped_early = True
    course.ended_well = run.ended == "well"  # also of a loop, whose length nothing says
    found = course_facts(course, known_from(facts, {"training": dict(arguments)}))
    if len(course.get("loss")) < _POINTS:
        found = found.model_copy(update={"untrained_value": None, "loss_flat": None})
    return facts.model_copy(update={"course": found})


def _how_ended(facts: Facts, ended: Ended | None) -> dict[str, Any]:
    from ..facts.run import RunFailure

    run = facts.run
    assert run is not None
    if ended is None:
        return {}
    known: dict[str, Any] = {"exit_code": ended.code}
    if ended.aborted:
        return {**known, "ended": "stopped", "failure": RunFailure(kind="none", message="")}
    if run.failure is not None:
        return {**known, "failure": with_its_rule(run.failure)}
    if ended.code == 0:
        return {**known, "failure": RunFailure(kind="none", message="")}
    killed = ended.code > 128
    step = run.steps
    if killed:
        name = _signal_name(ended.code - 128)
        text = f"The command was ended by {name}."
        return {**known, "ended": "killed", "failure": RunFailure(kind="signal", signal=name, message=text, step=step)}
    text = f"The command ended with exit code {ended.code}."
    return {**known, "ended": "failed", "failure": RunFailure(kind="exit", message=text, step=step)}


def with_its_rule(failure: RunFailure) -> RunFailure:
    """A failure with the rule one of whose symptoms is its message."""
    from ..engine.search import rule_of_message

    rule = rule_of_message(failure.message) if failure.kind == "other" else None
    return failure if rule is None else failure.model_copy(update={"speaks_of_it": f"{rule.id} ({rule.name})"})


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _unseen(
    written: Sequence[Training],
    check: CheckOptions,
    ended: Ended | None,
    command: Sequence[str],
    given: Setup | None,
    reason: str,
) -> Report:
    """The report of a command that trained nothing that could be watched.

    Args:
        reason: why nothing was seen of one that ended well.
        written: by processes that an exception ended before they trained.
    """
    from ..facts import RunFacts

    failed = ended is not None and ended.code != 0
    if failed and ended:
        reason = f"The command ended with exit code {ended.code} before it trained."
    run, setup, facts = RunFacts(), given, Facts()
    records: list[StageRecord] = []
    if failed:
        from .explaining import known_of_config

        setup, facts, records = known_of_config(given, command, check)
        if written:
            run = Facts.model_validate(written[0].facts).run or run
            reason = run.failure.message if run.failure is not None else reason
    run = run.model_copy(
        update={
            "command": " ".join(command) or None,
            "exit_code": ended.code if ended else None,
            "failure": with_its_rule(run.failure) if run.failure is not None and failed else None,
        }
    )
    known = {record.name for record in records}
    records += [
        StageRecord(name=name, status="skipped", reason=reason) for name in RUN_STAGES[:-1] if name not in known
    ]
    records.append(StageRecord(name="run", status="failed" if failed else "skipped", reason=reason))
    return judge_facts(facts.model_copy(update={"run": run}), check, records=records, setup=setup)

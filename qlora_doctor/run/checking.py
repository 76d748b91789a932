"""One setup from file to Report: stages in order of cost, judged as facts arrive."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.errors import DoctorError, UsageError
from ..core.report import AFTERWARDS, NOT_ASKED_FOR, STAGES, Report, StageRecord
from ..core.text import cleaned
from ..facts import Facts
from .observer import Observer
from .session import REAL_STAGES, CheckOptions, Session

if TYPE_CHECKING:
    from ..engine import Rule
    from ..engine.suppression import Suppression
    from ..setup.setup import NotFollowed, Setup
    from ..watching.first_batches.request import RunData
    from ..worker.job import CureRequest, PlanRequest
    from .cache import Store
    from .gathering import Work

RUN_DATA = "--run-data runs the script up to its training, and looks at its own batches."
_NEEDS: dict[str, tuple[str, ...]] = {
    "structure": ("torch", "transformers", "peft", "bitsandbytes", "accelerate"),
    "memory": ("torch", "transformers", "peft", "bitsandbytes", "accelerate"),
    "data": ("torch", "transformers", "datasets"),
    "load": ("torch", "transformers", "peft", "bitsandbytes", "accelerate", "safetensors"),
    "step": ("torch", "transformers", "peft", "bitsandbytes", "accelerate", "safetensors"),
}


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
) -> Session:
    """Read a config; ``rules`` are those of the options where the caller has read them already.

    Raises:
        ConfigError: the config cannot be read or is invalid.
        UsageError: an option cannot be served.
    """
    from ..engine import check_selection
    from ..tables.refusals import refusal_ids

    rules = rules_of(options) if rules is None else rules
    session = Session(rules, options, observer, suppressions=options.suppressions)
    unknown = [name for name in options.stages or () if name not in STAGES]
    if unknown:
        raise UsageError(f"There is no stage {unknown[0]!r}; the stages are {', '.join(STAGES)}.")
    if options.selection is not None:
        check_selection(options.selection, session.rules, refusal_ids)
    if source is not None:
        _read(session, source)
    return session


def rules_of(options: CheckOptions) -> Sequence[Rule]:
    """The rules that these options judge by.

    Raises:
        UsageError: a folder holds pages that cannot be used.
    """
    from ..core.assets import asset_folder
    from ..engine import load_rules
    from .cache import pages_folder

    return load_rules(asset_folder("rules"), *options.rules, kept_in=pages_folder(results_folder(options)))


def _as_source(setup: str | os.PathLike[str] | Mapping[str, Any] | Setup) -> Path | Setup:
    if isinstance(setup, Mapping):
        from ..reading.native import setup_from_mapping

        return setup_from_mapping(cleaned(dict(setup)))
    if isinstance(setup, str | os.PathLike):
        return Path(setup)
    return setup


def _read(session: Session, source: Path | Setup) -> None:
    from ..reading import read_setup

    setup = read_setup(source, dialect=session.options.dialect) if isinstance(source, Path) else source
    if session.options.trust_remote_code:
        model = setup.model.model_copy(update={"trust_remote_code": True})
        setup = setup.model_copy(update={"model": model})
    if session.options.card is not None:
        from ..setup.meant_for import meant_for

        setup = meant_for(setup, session.options.card)
    session.setup = setup
    session.suppressions = (*session.options.suppressions, *_in_comments(setup))
    session.observer.on_setup(setup)


def _in_comments(setup: Setup) -> list[Suppression]:
    """What the comments of the config file tell not to count."""
    if setup.file is None:
        return []
    from ..reading.comments import remarks_in

    remarks = remarks_in(Path(setup.file), setup._document.text if setup._document is not None else None)
    if not remarks:
        return []
    from ..engine.suppression import Suppression

    return [
        Suppression(rule=rule, reason=remark.reason, origin=f"{setup.file}:{remark.line}", line=remark.covers)
        for remark in remarks
        for rule in remark.rules
    ]


def conclude_config(session: Session) -> None:
    """Stage config: what the file alone says, and what is installed here."""
    from ..probes.config.conclude import conclude
    from ..probes.environment import look_at_environment

    assert session.setup is not None
    session.observer.on_stage_start("config")
    started = time.perf_counter()
    environment = session.environment or look_at_environment()
    config = cleaned(conclude(session.setup, environment))
    session.facts = session.facts.model_copy(update={"environment": environment, "config": config})
    # Judged by the caller, once it is known which stages are left out: nothing else lies between.
    session.record(StageRecord(name="config", status="done", seconds=time.perf_counter() - started))


def work_of(session: Session, number: int = 0) -> Work | None:
    """Conclude what the config alone says; what is left to do for the stages on a built model, None where nothing is.

    Judged is what stands when there is nothing to do; else that is for the caller, when something more may be known.
    """
    conclude_config(session)
    runnable = _runnable(session)
    if not runnable:
        session.judge()
        return None
    from .gathering import Work

    assert session.setup is not None and session.facts.config is not None
    from ..probes.config.settle import settled

    return Work(
        number,
        settled(session.setup, session.facts.config),
        tuple(runnable),
        session.options,
        session.facts.environment,
        lambda: session.facts,
        session.take,
        run_data_of(session),
    )


OTHER_SETUP = "Check a config, or a script, that says it."


def _runnable(session: Session) -> list[str]:
    """The stages on a built model that were asked for and can be served; the others are skipped."""
    runnable = []
    setup = session.setup
    for name in REAL_STAGES:
        undecided = _undecided(setup, name)
        if not _wanted(name, session.options):
            session.skip(name, NOT_ASKED_FOR, f"--stage {name}")
        elif name == "data" and runs_script(session):
            runnable.append(name)
        elif undecided is not None:
            own = setup is not None and setup.traits.own_model
            remedy = "`qlora-doctor convert` writes it for a trainer whose model is built here." if own else OTHER_SETUP
            session.skip(name, undecided, RUN_DATA if name == "data" else remedy)
        elif (other := _another_run(session.setup, name)) is not None:
            remedy = RUN_DATA if name == "data" else "`qlora-doctor run` watches the script itself."
            session.skip(name, other, remedy)
        elif missing := missing_packages(name, session.facts):
            extra = "data" if missing == ["datasets"] else "probe"
            reason = f"It needs {', '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not installed."
            session.skip(name, reason, f"pip install 'qlora-doctor[{extra}]'")
        else:
            runnable.append(name)
    return runnable


def runs_script(session: Session) -> bool:
    """Whether stage data runs the user's script up to its training."""
    setup = session.setup
    return session.options.run_data and setup is not None and setup.dialect == "python" and setup.file is not None


def run_data_of(session: Session) -> RunData | None:
    """What is to be run, within its bounds; None where nothing is."""
    if not runs_script(session):
        return None
    from ..watching.first_batches.request import MEMORY, SECONDS, RunData

    setup, options = session.setup, session.options
    assert setup is not None and setup.file is not None
    code: str | None = None
    cells: tuple[int | None, ...] = ()
    if setup.file.endswith(".ipynb"):
        from ..reading.document import read_document
        from ..reading.python.source import read_source

        source = read_source(read_document(Path(setup.file)))
        code, cells = source.code, tuple(line.cell for line in source.lines)
    return RunData(
        script=str(Path(setup.file).resolve()),
        code=code,
        cells=cells,
        arguments=options.script_arguments,
        seconds=options.script_seconds or SECONDS,
        memory=options.script_memory or MEMORY,
    )


def _undecided(setup: Setup | None, stage: str) -> str | None:
    """Why the model of a script cannot be built: what it is built from is decided while the script runs.

    Stage ``data`` builds none; what it needs is the model's name, for the tokenizer.
    """
    if setup is not None and setup.dialect == "accelerate-config":
        return "An Accelerate config names no model: it says how a run is launched."
    if stage != "data" and setup is not None and setup.dialect != "python" and setup.is_unknown("model.name_or_path"):
        return f"The config does not say which model it is: {setup.origins['model.name_or_path'].note}"
    if stage != "data" and setup is not None and setup.traits.own_model:
        return f"{setup.traits.own_loop} builds a model of its own, whose layers have other names than transformers'."
    if setup is None or setup.dialect != "python":
        return None  # where a config is silent, its trainer has a default
    adapter = () if setup.model.adapter is not None else ("lora.r", "lora.target_modules")
    of_the_model = ("quantization.load_in_4bit", *adapter) if stage != "data" else ()
    for path in ("model.name_or_path", *of_the_model):
        if setup.is_unknown(path):
            return f"The script does not say {path}: {setup.origins[path].note}"
    kinds = _ANOTHER_MODEL if stage != "data" else {"resize"}
    other = next((each for each in setup.not_followed if each.kind in kinds), None)
    return None if other is None else _in_words(other)


_ANOTHER_MODEL = {"cast", "requires-grad", "resize", "loop-over-model", "module-replaced"}
"""Statements that leave another model than the one that would be built here."""
_ANOTHER_STEP = {"training-loop", "overridden-method", "trainer", "loss"}
"""Statements that make another step than the trainer's own."""


def _another_run(setup: Setup | None, stage: str) -> str | None:
    """Why a stage would look at another run than the script's: a step or a batch of its own."""
    if setup is None or setup.dialect != "python":
        return None
    if stage in ("memory", "step"):
        other = next((each for each in setup.not_followed if each.kind in _ANOTHER_STEP), None)
        if other is not None:
            return _in_words(other)
    if stage == "data":
        other = next((each for each in setup.not_followed if each.kind in ("tokenizer", "add-tokens")), None)
        if other is not None:
            return _in_words(other)
    batch = "training.per_device_train_batch_size"
    if stage == "memory" and setup.is_unknown(batch):
        return f"The script does not say {batch}: {setup.origins[batch].note}"
    return None


def _in_words(statement: NotFollowed) -> str:
    place = statement.place
    where = "" if place is None or place.line is None or place.cell is not None else f" (line {place.line})"
    return f"The script does something here that is not followed{where}: {statement.note}"


def store_of(options: CheckOptions) -> Store:
    """Where results are kept."""
    from .cache import Store

    return Store(results_folder(options))


def results_folder(options: CheckOptions) -> Path | None:
    """The folder in which results outlive the check; None where nothing may be written."""
    from .cache import cache_folder

    return (options.cache_folder or cache_folder()) if options.cache else None


def _do(session: Session, work: Work) -> None:
    """Run what is not known yet in one child process."""
    store = store_of(session.options)
    work.recall(store)
    if not work.left:
        store.close()
        return
    session.judge()
    from ..worker.job import CureRequest
    from ..worker.runner import run_stages

    job = work.job() if session.options.savings else work.job().model_copy(update={"cure": CureRequest()})
    events = run_stages(job)
    try:
        for event in events:
            work.take(event, store)
    except KeyboardInterrupt:  # it has ended the iterator, and with it the child
        session.interrupt(work.left)
    tell_trouble(store, session)


def tell_trouble(store: Store, session: Session) -> None:
    """Close the store; a folder that the user chose and that cannot be written is worth a word."""
    store.close()
    if store.trouble is not None and session.options.cache_folder is not None:
        session.observer.on_trouble(f"Results are not kept: {store.trouble}")


def _wanted(name: str, options: CheckOptions) -> bool:
    """A step needs a loaded base: who asks for the one gets the other."""
    asked = options.stages
    if name in options.left_out:
        return False
    return asked is None or name in asked or (name == "load" and "step" in asked)


def predict(
    session: Session, setup: Setup, *, plan: PlanRequest | None = None, cure: CureRequest | None = None
) -> None:
    """Run stage memory in a child process, with a table or a search that is asked for, and take what it tells."""
    from ..worker.job import Job
    from ..worker.runner import run_stages

    job = Job(setup=setup, stages=("memory",), options=session.options, facts=session.facts, plan=plan, cure=cure)
    events = run_stages(job)
    try:
        for event in events:
            session.take([event])
    except KeyboardInterrupt:  # as in a check: what is known by now is reported
        session.interrupt(["memory"])


def missing_packages(stage: str, facts: Facts) -> list[str]:
    """The packages that a stage needs and this environment lacks."""
    packages = facts.environment.packages if facts.environment else None
    return [name for name in _NEEDS[stage] if packages is None or getattr(packages, name) is None]


def _judge_recorded(session: Session, path: Path) -> None:
    """Judge a report or a facts document that was written earlier, perhaps on another machine."""
    try:
        document = cleaned(json.loads(path.read_text(encoding="utf-8")))
        recorded = Report.model_validate(document) if "schema_version" in document else None
        session.facts = recorded.facts if recorded else Facts.model_validate(document)
    except (OSError, ValueError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(f"{path} holds no facts that can be judged: {reason}.") from error
    session.widen_margin()
    session.covers = (*STAGES, *(name for name in AFTERWARDS if getattr(session.facts, name, None) is not None))
    if recorded is not None:
        session.stages = {record.name: record for record in recorded.stages}
    else:
        session.stages = {name: _recorded_stage(name, session.facts) for name in session.covers}
    session.judge()


_SUBJECT_OF = {name: name for name in (*STAGES, *AFTERWARDS)} | {"structure": "model"}


def _recorded_stage(name: str, facts: Facts) -> StageRecord:
    known = getattr(facts, _SUBJECT_OF[name], None) is not None
    reason = None if known else "The recorded facts do not hold it."
    return StageRecord(name=name, status="done" if known else "skipped", reason=reason)


def unread(source: Path | None, error: DoctorError, options: CheckOptions) -> Report:
    """What is known of a config that could not be read, or that the tool itself failed on."""
    from .._version import __version__
    from ..core.report import Tool
    from .session import now

    setup = {"file": str(source), "dialect": None} if source is not None else None
    record = StageRecord(name="config", status="failed", reason=error.message, remedy=error.remedy, requested=True)
    tool = Tool(version=__version__, created=now(), command=options.command)
    return cleaned(Report(tool=tool, setup=setup, stages=[record], exit_code=error.exit_code))

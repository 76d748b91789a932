"""``adapter``: what a run has stored, judged by its files, and where that is asked for by its weights at work."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from ..core.errors import StageError, UsageError
from ..core.report import Report, StageRecord
from ..facts import Facts
from ..facts.run import KeptOutputs, RunFacts
from .courses import REPORT
from .observer import Observer
from .session import CheckOptions, Session

if TYPE_CHECKING:
    from ..facts.stored import StoredFacts
    from ..probes.stored.trained import Trained

CONFIG = "adapter_config.json"
_READ_FROM_REPORT = ("tokenizer", "kept_outputs")
"""Facts of a run that are read out of its report."""


def judge_stored(
    folder: Path,
    options: CheckOptions,
    *,
    base: Path | None = None,
    adapter: Path | None = None,
    load: bool = False,
    rows: Path | None = None,
    run_report: Path | None = None,
    config: Path | None = None,
) -> Report:
    """The report of one folder.

    Args:
        folder: an adapter, a checkpoint that holds one, or a merged model.
        base: a folder with the base.
        adapter: of a merged model, the adapter that is to be in it.
        load: measure the ways to serve, with real weights.
        rows: text to measure on, one a line; None takes the built-in set.
        run_report: the JSON report of the run that trained it, with its tokenizer and what its model said; None takes
            qlora-doctor.json beside the adapter, where that is one.
        config: the config that the run was started with: base and tokenizer are held against it.

    Raises:
        UsageError: the folder does not exist, or what is asked for needs something that is not given.
    """
    from .checking import rules_of

    _check_given(folder, base, adapter)
    session = Session(rules_of(options), options, Observer(), suppressions=options.suppressions)
    session.covers, session.log = ("stored",), str(folder)
    started = time.perf_counter()
    session.observer.on_stage_start("stored")
    runs = _runs(run_report, adapter or folder)
    base = base or _base_of(adapter)
    stored = _of_files(folder, base, adapter, _trained(folder, adapter, runs, config, options))
    reason: str | None = None
    if load:
        from ..probes.stored.ways import measured

        merged = folder if stored.kind == "merged" else None
        try:
            own = _own_adapter(folder, adapter, merged)
            kept = _kept(own, run_report, runs)
            found = measured(own, base, rows, device=options.device, kept=kept, merged=merged)
            stored = stored.model_copy(update=found)
        except StageError as error:
            reason = " ".join(filter(None, (error.message, error.remedy)))
    session.facts = Facts(stored=stored)
    seconds = time.perf_counter() - started
    session.record(StageRecord(name="stored", status="failed" if reason else "done", reason=reason, seconds=seconds))
    session.judge()
    report = session.report()
    return report.model_copy(update={"setup": {"file": str(folder)}, "exit_code": 3 if reason else report.exit_code})


def _of_files(folder: Path, base: Path | None, adapter: Path | None, trained: Trained | None) -> StoredFacts:
    """What the files say; of a merged model with its adapter also whether it is in there.

    Raises:
        UsageError: an adapter is given to an adapter.
    """
    from ..probes.stored import stored_facts

    stored = stored_facts(folder, base, trained)
    if adapter is None or stored.kind not in ("adapter", "merged"):
        return stored
    if stored.kind == "adapter":
        raise UsageError(f"{folder} is an adapter itself: --adapter names the one that is in a merged model.")
    from ..probes.stored.merging import replayed

    return stored.model_copy(update=replayed(folder, base, adapter))


def _check_given(folder: Path, base: Path | None, adapter: Path | None) -> None:
    """Raises UsageError where a folder is not what it is given for, or numpy is missing."""
    if not folder.is_dir():
        raise UsageError(f"{folder} is no folder." if folder.exists() else f"{folder} does not exist.")
    if base is not None and not base.is_dir():
        raise UsageError(f"{base} is no folder with a base.")
    if adapter is not None and not (adapter / CONFIG).is_file():
        raise UsageError(f"{adapter} is no folder with an adapter.")
    if find_spec("numpy") is None:
        raise UsageError(
            "To read an adapter's tensors numpy is needed, and it is not installed.", remedy="pip install numpy"
        )


def _own_adapter(folder: Path, adapter: Path | None, merged: Path | None) -> Path:
    """The folder of the adapter that is measured.

    Raises:
        StageError: a merged model was given without its adapter.
    """
    if merged is not None and adapter is None:
        raise StageError(
            "The ways to serve a merged model are measured beside its adapter.",
            kind="missing-file",
            remedy="Give the adapter with --adapter.",
        )
    return adapter or folder


def _runs(report: Path | None, folder: Path) -> list[RunFacts]:
    """The runs that a report describes; none where it is not here.

    Raises:
        UsageError: a report that is named cannot be read.
    """
    beside = (place / REPORT for place in (folder, folder.parent, folder.parent.parent))
    path = report or next((each for each in beside if each.is_file()), None)
    if path is None:
        return []
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        every = [each["facts"].get("run") for each in (document if isinstance(document, list) else [document])]
        return [RunFacts.model_validate({key: each.get(key) for key in _READ_FROM_REPORT}) for each in every if each]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        if report is None:
            return []
        raise UsageError(f"{path} is no report of run: {str(error).splitlines()[0]}.") from error


def _base_of(adapter: Path | None) -> Path | None:
    """The base that an adapter names, where it is a folder here."""
    from ..probes.stored.bases import base_folder
    from ..probes.stored.texts import read_json

    return None if adapter is None else base_folder(None, read_json(adapter / CONFIG)[0])


def _kept(own: Path, report: Path | None, runs: Sequence[RunFacts]) -> KeptOutputs | None:
    """What the run that trained an adapter kept of its outputs.

    Raises:
        UsageError: a report that is named keeps nothing.
    """
    from ..probes.stored.reload import kept_of

    found = [each for run in runs for each in run.kept_outputs or []]
    if report is not None and not found:
        raise UsageError(
            f"{report} keeps no outputs of the trained model.",
            remedy="Train with `qlora-doctor run -o json=qlora-doctor.json -- …`, or with a DoctorCallback.",
        )
    return kept_of(own, found)


def _trained(
    folder: Path, adapter: Path | None, runs: Sequence[RunFacts], config: Path | None, options: CheckOptions
) -> Trained | None:
    """What is known of the training's tokenizer and base: by its report, by the files of the run, by its config."""
    from ..probes.stored.trained import Trained, trained_beside, trained_by

    told = next((run.tokenizer for run in reversed(runs) if run.tokenizer is not None), None)
    found = Trained("the report of the run", told) if told is not None else trained_beside(folder, adapter)
    if config is None:
        return found
    from .checking import open_session

    setup = open_session(config, replace(options, stages=("config",)), Observer()).setup
    if setup is None:
        return found
    by_config = trained_by(setup)
    return by_config if found is None else replace(found, setup=setup)

"""``adapter``: what a run has stored, judged by its files, and where that is asked for by its weights at work."""

from __future__ import annotations

import json
import time
from importlib.util import find_spec
from pathlib import Path

from ..core.errors import StageError, UsageError
from ..core.report import Report, StageRecord
from ..facts import Facts
from ..facts.run import KeptOutputs
from .courses import REPORT
from .observer import Observer
from .session import CheckOptions, Session


def judge_stored(
    folder: Path,
    options: CheckOptions,
    *,
    base: Path | None = None,
    adapter: Path | None = None,
    load: bool = False,
    rows: Path | None = None,
    run_report: Path | None = None,
    observer: Observer | None = None,
) -> Report:
    """The report of one folder.

    Args:
        folder: an adapter, a checkpoint that holds one, or a merged model.
        base: a folder with the base.
        adapter: of a merged model, the adapter that is to be in it.
        load: measure the ways to serve, with real weights.
        rows: text to measure on, one a line; None takes the built-in set.
        run_report: the JSON report of the run that trained it, with what its model said; None takes qlora-doctor.json
            beside the adapter, where that is one.

    Raises:
        UsageError: the folder does not exist, or what is asked for needs something that is not given.
    """
    from ..probes.stored import stored_facts
    from .checking import rules_of

    if not folder.is_dir():
        raise UsageError(f"{folder} is no folder." if folder.exists() else f"{folder} does not exist.")
    if base is not None and not base.is_dir():
        raise UsageError(f"{base} is no folder with a base.")
    if find_spec("numpy") is None:
        raise UsageError(
            "To read an adapter's tensors numpy is needed, and it is not installed.", remedy="pip install numpy"
        )
    session = Session(rules_of(options), options, observer or Observer(), suppressions=options.suppressions)
    session.covers, session.log = ("stored",), str(folder)
    started = time.perf_counter()
    session.observer.on_stage_start("stored")
    stored = stored_facts(folder, base)
    reason: str | None = None
    if stored.kind == "merged" and base is not None and adapter is not None:
        from ..probes.stored.merging import replayed

        stored = stored.model_copy(update=replayed(folder, base, adapter))
    if load:
        from ..probes.stored.reload import kept_of
        from ..probes.stored.ways import measured

        try:
            kept = kept_of(folder, _kept(run_report, folder))
            stored = stored.model_copy(update=measured(folder, base, rows, device=options.device, kept=kept))
        except StageError as error:
            reason = error.message
    session.facts = Facts(stored=stored)
    session.record(
        StageRecord(
            name="stored",
            status="failed" if reason else "done",
            reason=reason,
            seconds=time.perf_counter() - started,
        )
    )
    session.judge()
    report = session.report()
    return report.model_copy(update={"setup": {"file": str(folder)}, "exit_code": 3 if reason else report.exit_code})


def _kept(report: Path | None, folder: Path) -> list[KeptOutputs]:
    """What the run that trained an adapter kept of its outputs; nothing where its report is not here.

    Raises:
        UsageError: a report that is named cannot be read, or keeps nothing.
    """
    beside = (place / REPORT for place in (folder, folder.parent, folder.parent.parent))
    path = report or next((each for each in beside if each.is_file()), None)
    if path is None:
        return []
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        runs = [each["facts"].get("run") or {} for each in (document if isinstance(document, list) else [document])]
        found = [KeptOutputs.model_validate(each) for run in runs for each in run.get("kept_outputs") or []]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        if report is None:
            return []
        raise UsageError(f"{path} is no report of run: {str(error).splitlines()[0]}.") from error
    if report is not None and not found:
        raise UsageError(
            f"{path} keeps no outputs of the trained model.",
            remedy="Train with `qlora-doctor run -o json=qlora-doctor.json -- …`, or with a DoctorCallback.",
        )
    return found

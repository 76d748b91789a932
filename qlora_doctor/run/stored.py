"""``adapter``: what a run has stored, judged by its files, and where that is asked for by its weights at work."""

from __future__ import annotations

import time
from importlib.util import find_spec
from pathlib import Path

from ..core.errors import StageError, UsageError
from ..core.report import Report, StageRecord
from ..facts import Facts
from .session import CheckOptions, Observer, Session


def judge_stored(
    folder: Path,
    options: CheckOptions,
    *,
    base: Path | None = None,
    adapter: Path | None = None,
    load: bool = False,
    rows: Path | None = None,
    observer: Observer | None = None,
) -> Report:
    """The report of one folder.

    Args:
        folder: an adapter, a checkpoint that holds one, or a merged model.
        base: a folder with the base.
        adapter: of a merged model, the adapter that is to be in it.
        load: measure the ways to serve, with real weights.
        rows: text to measure on, one a line; None takes the built-in set.

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
        from ..probes.stored.ways import measured

        try:
            stored = stored.model_copy(update=measured(folder, base, rows, device=options.device))
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

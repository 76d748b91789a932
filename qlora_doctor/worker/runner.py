"""Run the stages on a built model in a child process, and tell what it tells; imports nothing heavy.

A child, because a real load can be killed, hang or take the device down with it: the parent outlives it, says which
stage was under way and why it ended, and keeps what was learned before.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ..core.report import StageRecord
from ..facts import Facts
from ..setup.setup import Setup
from ..watching.first_batches.request import RunData
from .events import Event, Finished
from .job import CureRequest, Job, PlanRequest
from .pool import Pool


def run_stages(
    setup: Setup,
    stages: Sequence[str],
    *,
    device: str | None = None,
    timeout: float | None = None,
    offline: bool = False,
    trust_remote_code: bool = False,
    requested: Sequence[str] | None = None,
    facts: Facts | None = None,
    ended: Sequence[StageRecord] = (),
    plan: PlanRequest | None = None,
    cure: CureRequest | None = None,
    run_data: RunData | None = None,
    debug: bool = False,
) -> Iterator[Event]:
    """Run stages in one child process and yield its events; every stage of ``stages`` gets its ``End``.

    Args:
        timeout: seconds that all stages may take together; None is no limit.
        requested: stages asked for by name: on a CPU they run however long they take.
        facts: what is known already.
        ended: stages that are not to be run again, and how they ended.
        plan: the table that stage memory makes instead of one prediction.
        cure: the search that stage memory makes on top.
        run_data: the script that stage data runs up to its training.
        debug: pass the child's stderr on as it comes.

    Closing the iterator, or an exception in its consumer (Ctrl-C), ends the child.
    """
    job = Job(
        setup=setup,
        stages=tuple(stages),
        device=device,
        offline=offline,
        trust_remote_code=trust_remote_code,
        requested=tuple(requested) if requested is not None else None,
        facts=facts or Facts(),
        ended=tuple(ended),
        plan=plan,
        cure=cure,
        run_data=run_data,
    )
    pool = Pool(1, timeout=timeout, offline=offline, debug=debug)
    try:
        pool.begin(job)
        while (event := pool.next()) is not None and not isinstance(event, Finished):
            yield event
    finally:
        pool.close()

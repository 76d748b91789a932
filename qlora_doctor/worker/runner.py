"""Run the stages on a built model in a child process, and tell what it tells; imports nothing heavy.

A child, because a real load can be killed, hang or take the device down with it: the parent outlives it, says which
stage was under way and why it ended, and keeps what was learned before.
"""

from __future__ import annotations

from collections.abc import Iterator

from .events import Event, Finished
from .job import Job
from .pool import Pool


def run_stages(job: Job) -> Iterator[Event]:
    """Do a job in one child process and yield its events; each of its stages gets its ``End``.

    Closing the iterator, or an exception in its consumer (Ctrl-C), ends the child.
    """
    pool = Pool(1, job.options)
    try:
        pool.begin(job)
        while (event := pool.next()) is not None and not isinstance(event, Finished):
            yield event
    finally:
        pool.close()

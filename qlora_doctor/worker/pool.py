"""A few worker processes that serve many jobs: what a worker imports, it imports once.

A worker that dies, or takes longer than it may, ends its own job alone: another takes its place. One that was killed
between two jobs costs nobody anything, however late that is seen. One that has run a real stage is replaced as well, so
that every load and every measured peak begins in a clean process.
"""

from __future__ import annotations

import queue
import time
from collections import deque
from dataclasses import dataclass

from .events import Event, Finished, decode
from .job import Job
from .options import RunOptions
from .process import Reason, WorkerProcess
from .turns import forget_turns, turns_folder
from .watch import Watch

_LONG = 1e6
"""Seconds; more than this is no limit to a queue."""


@dataclass
class _Task:
    """A job at a worker."""

    job: Job
    watch: Watch
    worker_is_new: bool
    was_heard_of: bool = False


class Pool:
    """At most ``size`` workers, started when there is something to do.

    Args:
        options: how all jobs are run; waiting for a device does not count as time that a job takes.
        threads: of each worker's arithmetic; None leaves it to the libraries.
    """

    def __init__(
        self,
        size: int,
        options: RunOptions,
        *,
        threads: int | None = None,
    ) -> None:
        self._size, self._options, self._threads = size, options, threads
        self._inbox: queue.Queue[tuple[WorkerProcess, bytes | None]] = queue.Queue()
        self._idle: list[WorkerProcess] = []
        self._busy: dict[WorkerProcess, _Task] = {}
        self._told: deque[Event] = deque()
        self._turns = turns_folder()

    @property
    def has_room(self) -> bool:
        """Whether a job can begin now."""
        return len(self._busy) < self._size

    @property
    def at_work(self) -> bool:
        """Whether events are to come."""
        return bool(self._busy or self._told)

    def begin(self, job: Job) -> None:
        """Give a job to a worker; ``has_room`` must be true."""
        idle = self._idle_worker()
        options = self._options
        worker = idle or WorkerProcess(self._inbox, threads=self._threads, offline=options.offline, debug=options.debug)
        self._busy[worker] = _Task(job, Watch(job.stages, options.timeout), worker_is_new=idle is None)
        try:
            worker.give(job.model_copy(update={"turns": str(self._turns)}))
        except Exception:  # a job that cannot be written down is no worker's
            del self._busy[worker]
            worker.end()
            raise

    def next(self, patience: float | None = None) -> Event | None:
        """The next event of any job; its last is ``Finished``. None after ``patience`` seconds without one."""
        until = float("inf") if patience is None else time.monotonic() + patience
        while not self._told and self._busy:
            self._end_the_late()
            if self._told:
                break
            left = max(0.0, min(until - time.monotonic(), *(task.watch.left for task in self._busy.values())))
            try:
                worker, line = self._inbox.get(timeout=left if left < _LONG else None)
            except queue.Empty:
                if time.monotonic() >= until:
                    return None
                continue
            self._hear(worker, line)
        return self._told.popleft() if self._told else None

    def close(self) -> None:
        """End all workers, at work or not."""
        for worker in (*self._busy, *self._idle):
            worker.end()
        self._busy.clear()
        self._idle.clear()
        forget_turns(self._turns)

    def _idle_worker(self) -> WorkerProcess | None:
        """A worker that waits for a job and still lives; those that were killed meanwhile are reaped."""
        while self._idle:
            worker = self._idle.pop()
            if worker.lives:
                return worker
            worker.end()
        return None

    def _hear(self, worker: WorkerProcess, line: bytes | None) -> None:
        if worker not in self._busy:
            if line is None and worker in self._idle:  # killed while it had nothing to do
                self._idle.remove(worker)
                worker.end()
            return
        task = self._busy[worker]
        if line is None:
            self._outlive(worker, task)
            return
        try:
            event = decode(line)
        except ValueError:
            worker.note(line)
            return
        if event.job != task.job.number:
            return
        task.was_heard_of = True
        task.watch.see(event)
        if isinstance(event, Finished):
            del self._busy[worker]
            if event.spent:
                worker.end()
            else:
                self._idle.append(worker)
        self._told.append(event)

    def _outlive(self, worker: WorkerProcess, task: _Task) -> None:
        """Go on after a worker's end: its job failed, unless the worker was dying before it saw the job."""
        if task.worker_is_new or task.was_heard_of:
            self._give_up(worker, worker.why_it_ended())
            return
        # The kernel still called it alive when it was given the job: a process whose first thread has ended can only
        # be reaped when its last one has.
        del self._busy[worker]
        worker.end()
        self.begin(task.job)

    def _end_the_late(self) -> None:
        for worker, task in list(self._busy.items()):
            if task.watch.left <= 0:
                message = f"It took longer than {self._options.timeout:g} s."
                self._give_up(worker, Reason("timeout", message, "Allow more time with --timeout."))

    def _give_up(self, worker: WorkerProcess, reason: Reason) -> None:
        """End a worker, and say of its job why."""
        task = self._busy.pop(worker)
        number = task.job.number
        worker.end()
        self._told.extend(event.model_copy(update={"job": number}) for event in task.watch.unfinished(reason))
        self._told.append(Finished(job=number, spent=True))

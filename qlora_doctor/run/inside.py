"""The watching from inside a program: ``DoctorCallback()`` for transformers and TRL, ``watch(...)`` for a loop."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.errors import UsageError
from .outputs import split_output, write_file
from .session import CheckOptions

if TYPE_CHECKING:
    from ..core.report import Report
    from ..watching.callback import RunCallback
    from ..watching.watcher import Watch


class Watched:
    """What a training that is watched from inside has shown so far.

    Attributes:
        steps: optimizer steps that are looked at closely.
    """

    def __init__(
        self, outputs: Sequence[str], quiet: bool, steps: int, check: CheckOptions, keep_outputs: bool = True
    ) -> None:
        self.steps, self._keep_outputs = steps, keep_outputs
        from ..reporters import FORMATS

        self._outputs = [split_output(text, FORMATS) for text in outputs]
        self._quiet, self._check = quiet, check
        self._watches: list[Watch] = []
        self._told = 0

    @property
    def report(self) -> Report | None:
        """The report of the latest training, judged now; None before one began."""
        if not self._watches:
            return None
        from .watched import judge_facts, with_course

        watch = self._watches[-1]
        return judge_facts(with_course(watch.facts, watch.series, watch.arguments), self._check)

    def begin(self, model: Any, *, trainer: Any = None, **known: Any) -> Watch:
        """A training begins."""
        from ..watching.records import Options, rank_of
        from ..watching.watcher import Watch

        if self._watches:
            self._watches[-1].end()
        watch = Watch(
            model, None, Options(self.steps, keep_outputs=self._keep_outputs), trainer=trainer, ranks=rank_of()
        )
        self._watches.append(watch)
        watch.begin(**known)
        return watch

    def end(self, error: BaseException | None = None) -> None:
        """The training is over: tell what was seen, on rank 0, and write it where that was asked for."""
        if not self._watches or self._told == len(self._watches):
            return
        self._told = len(self._watches)
        watch = self._watches[-1]
        watch.end(error)
        report = self.report
        if report is None or watch.rank != 0:
            return
        from ..reporters import render

        if not self._quiet:
            sys.stderr.write(render(report, "text"))
        for format, path in self._outputs:
            try:
                write_file(Path(path), render(report, format))
            except UsageError as failed:
                sys.stderr.write(f"qlora-doctor: {failed.message}\n")


def DoctorCallback(
    *outputs: str, quiet: bool = False, steps: int = 2, keep_outputs: bool = True, **options: Any
) -> RunCallback:
    """A callback for transformers' Trainer and TRL's that watches the training: ``callbacks=[DoctorCallback()]``.

    Args:
        outputs: documents to write when the training ends, as ``html=report.html``.
        quiet: print no report to stderr.
        steps: optimizer steps that are looked at closely.
        keep_outputs: after a save and at the end, keep what the model says to a few fixed tokens, for a later
            ``adapter DIR --load``.
        options: fields of ``CheckOptions``: ``selection``, ``fail_on``, ``rules``.

    Returns:
        the callback; its ``report`` is the report as it stands.
    """
    from ..watching.callback import RunCallback

    watched = Watched(outputs, quiet, steps, CheckOptions(**options), keep_outputs)
    return RunCallback(watched.begin, end=watched.end, report=lambda: watched.report)


@contextmanager
def watch(
    model: Any,
    optimizer: Any = None,
    *outputs: str,
    tokenizer: Any = None,
    loader: Any = None,
    quiet: bool = False,
    steps: int = 2,
    keep_outputs: bool = True,
    **options: Any,
) -> Iterator[Watched]:
    """Watch a training loop of one's own: ``with watch(model, optimizer):`` around it.

    Args:
        model: a (PEFT) model, before its first step.
        optimizer: the one that trains it; one that is made later is found when it steps.
        outputs: documents to write at the end, as ``html=report.html``.
        tokenizer: the one that made the batches; the only one in the process is found by itself.
        loader: what yields the batches.
        quiet: print no report to stderr.
        steps: optimizer steps that are looked at closely.
        keep_outputs: after a save and at the end, keep what the model says to a few fixed tokens, for a later
            ``adapter DIR --load``.
        options: fields of ``CheckOptions``.

    Yields:
        what has been seen: its ``report`` is the report as it stands.
    """
    watched = Watched(outputs, quiet, steps, CheckOptions(**options), keep_outputs)
    watched.begin(model, optimizer=optimizer, tokenizer=tokenizer, loader=loader)
    try:
        yield watched
    except BaseException as error:
        watched.end(error)
        raise
    watched.end()

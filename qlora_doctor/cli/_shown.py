"""``--format``, ``-o``, ``--quiet``, ``--no-color``: how a command shows its reports, the same for all that judge."""

from __future__ import annotations

import sys
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, NamedTuple, TextIO

import click

from ._terminal import show, wants_color, width

if TYPE_CHECKING:
    from ..core.report import Report
    from ..run.outputs import Output


class Shown(NamedTuple):
    """How reports are shown.

    Attributes:
        format: of the document on stdout.
        outputs: ``FORMAT=PATH`` of each document to write.
        quiet: no progress on stderr.
        no_color: no colours, also in a terminal.
        verbose: the text document holds also what findings rest on, and what was not evaluated.
    """

    format: str = "text"
    outputs: tuple[str, ...] = ()
    quiet: bool = False
    no_color: bool = False
    verbose: bool = False

    def color(self, stream: TextIO | None = None) -> bool:
        """Whether a stream gets colours; None is stdout."""
        return wants_color(stream or sys.stdout, self.no_color)

    def parsed(self, reports: int = 1, formats: Collection[str] | None = None) -> list[Output]:
        """What ``-o`` asks for, looked at before anything is paid for.

        Args:
            reports: how many reports a document may have to hold.
            formats: those that this command can write; None is all.

        Raises:
            UsageError: a format or a path cannot be served.
        """
        from ..reporters import FORMATS
        from ..run.outputs import check_format, parse_outputs

        check_format(self.format, formats or FORMATS)
        return parse_outputs(self.outputs, reports, formats or FORMATS)

    def print(self, reports: Sequence[Report], *, err: bool = False) -> None:
        """The reports on stdout, or on stderr."""
        from ..reporters import render, text

        color = self.color(sys.stderr if err else None)
        if self.format == "text":
            show("\n".join(text.render(report, color=color, width=width()) for report in reports), color=color, err=err)
            return
        document = render(reports if len(reports) > 1 else reports[0], self.format)
        click.echo(document, nl=bool(document) and not document.endswith("\n"), err=err)

    def write(self, outputs: Sequence[Output], reports: Sequence[Report]) -> None:
        """The documents of ``-o``.

        Raises:
            UsageError: one cannot be written.
        """
        from ..run.outputs import write_outputs

        for path in write_outputs(outputs, reports):
            self.note(f"wrote {path}")

    def note(self, line: str) -> None:
        """A line on stderr, unless nothing is to be said there."""
        if not self.quiet:
            show(line, err=True)

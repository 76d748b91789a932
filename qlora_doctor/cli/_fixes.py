"""``check --fix`` and ``check --diff``: one config after the other, so that what is written is what was looked at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..core.errors import ConfigError, UsageError
from ._terminal import one_line, show, show_error, width

if TYPE_CHECKING:
    from ..core.report import Report
    from ..run.fixing import Fixed
    from ..run.session import CheckOptions
    from ._progress import Told
    from ._shown import Shown


@dataclass(frozen=True)
class Fixing:
    """What is to become of findings that can be fixed.

    Attributes:
        fix: write the fixes into the files.
        diff: print what would be written, and write nothing.
        unsafe_fixes: also fixes that may change what is trained.
    """

    fix: bool = False
    diff: bool = False
    unsafe_fixes: bool = False

    def check(self, configs: Sequence[Path], facts: Path | None) -> None:
        """Look whether the options go together.

        Raises:
            UsageError: they do not.
        """
        if self.fix and self.diff:
            raise UsageError("--diff writes nothing and --fix writes; give one of them.")
        if self.fix and Path("-") in configs:
            raise UsageError("Standard input cannot be written; --diff prints the fixes.")
        if self.unsafe_fixes and not (self.fix or self.diff):
            raise UsageError("--unsafe-fixes says how far --fix or --diff goes, and neither is given.")
        if facts is not None and (self.fix or self.diff):
            raise UsageError("--facts judges what was recorded, so there is no file to fix.")


def fix_all(
    sources: Sequence[Path | None],
    options: Sequence[CheckOptions | ConfigError],
    common: CheckOptions,
    fixing: Fixing,
    shown: Shown,
    watcher: Told,
) -> list[Report]:
    """The reports of all configs: with --fix of what remains, with --diff of the files as they stand.

    Args:
        options: of each config, or why its settings cannot be read.
        common: what the command line says.

    Raises:
        UsageError: a file may not be written.
    """
    from ..reporters import text
    from ..run.checking import unread
    from ..run.fixing import fix

    color = shown.color()
    reports = []
    for source, option in zip(sources, options, strict=True):
        assert source is not None
        watcher.on_part(f"fixing {source}")
        try:
            if isinstance(option, ConfigError):
                raise option
            fixed = fix(source, option, unsafe=fixing.unsafe_fixes, observer=watcher)
        except ConfigError as error:
            with watcher.room():
                show_error(error, no_color=shown.no_color)
            reports.append(unread(source, error, common))
            continue
        with watcher.room():
            if fixing.diff:
                click.echo(fixed.diff, nl=False)
            else:
                fixed.write()
                if shown.format == "text":
                    show(text.render(fixed.last, color=color, width=width()), color=color)
            shown.note(_told(fixed, fixing))
        reports.append(fixed.first if fixing.diff else fixed.last)
    return reports


def _told(fixed: Fixed, fixing: Fixing) -> str:
    """One line: what was fixed, what is held back, and whether it came to rest."""
    count = len(fixed.rules)
    verb = "would fix" if fixing.diff else "fixed"
    what = f"{verb} {count} finding{'s' * (count != 1)}" if count else f"{verb} nothing"
    rules = f" ({', '.join(dict.fromkeys(fixed.rules))})" if count else ""
    line = f"{one_line(str(fixed.path))}: {what}{rules}"
    if not count and (left := [f.rule for f in fixed.last.findings if f.suppressed is None and f.severity != "info"]):
        line += f"; no fix that can be written for {', '.join(dict.fromkeys(left))}: `explain` says what to do by hand"
    held = [finding.rule for finding in fixed.held_back]
    if held and not fixing.unsafe_fixes:
        line += f"; --unsafe-fixes would fix {len(held)} more ({', '.join(dict.fromkeys(held))})"
    if not fixed.settled:
        line += "; fixes undo each other, so look at the rest by hand"
    return line

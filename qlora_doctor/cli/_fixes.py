"""``check --fix`` and ``check --diff``: one config after the other, so that what is written is what was looked at."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..core.errors import ConfigError
from ._terminal import one_line, show, show_error, wants_color, width

if TYPE_CHECKING:
    from ..core.report import Report
    from ..run.fixing import Fixed
    from ..run.session import CheckOptions
    from ._progress import Told


def fix_all(
    sources: Sequence[Path | None],
    options: Sequence[CheckOptions | ConfigError],
    common: CheckOptions,
    given: dict[str, Any],
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

    color = wants_color(sys.stdout, given["no_color"])
    reports = []
    for source, option in zip(sources, options, strict=True):
        assert source is not None
        watcher.on_part(f"fixing {source}")
        try:
            if isinstance(option, ConfigError):
                raise option
            fixed = fix(source, option, unsafe=given["unsafe_fixes"], observer=watcher)
        except ConfigError as error:
            with watcher.room():
                show_error(error, no_color=given["no_color"])
            reports.append(unread(source, error, common))
            continue
        with watcher.room():
            if given["diff"]:
                click.echo(fixed.diff, nl=False)
            else:
                fixed.write()
                if given["format"] == "text":
                    show(text.render(fixed.last, color=color, width=width()), color=color)
            if not given["quiet"]:
                show(_told(fixed, given), err=True)
        reports.append(fixed.first if given["diff"] else fixed.last)
    return reports


def _told(fixed: Fixed, given: dict[str, Any]) -> str:
    """One line: what was fixed, what is held back, and whether it came to rest."""
    count = len(fixed.rules)
    verb = "would fix" if given["diff"] else "fixed"
    what = f"{verb} {count} finding{'s' * (count != 1)}" if count else f"{verb} nothing"
    rules = f" ({', '.join(dict.fromkeys(fixed.rules))})" if count else ""
    line = f"{one_line(str(fixed.path))}: {what}{rules}"
    held = list(dict.fromkeys(finding.rule for finding in fixed.held_back))
    left = [f.rule for f in fixed.last.findings if f.suppressed is None and f.severity != "info" and f.rule not in held]
    if not count and left:
        line += f"; no fix that can be written for {', '.join(dict.fromkeys(left))}: `explain` says what to do by hand"
    if held and not given["unsafe_fixes"]:
        line += f"; --unsafe-fixes would fix {len(fixed.held_back)} more ({', '.join(held)})"
    if not fixed.settled:
        line += "; fixes undo each other, so look at the rest by hand"
    return line

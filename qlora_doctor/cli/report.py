"""``qlora-doctor report result.json -o html=report.html``"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..core.errors import UsageError
from ._help import examples

if TYPE_CHECKING:
    from ..core.report import Report


@click.command(
    "report",
    epilog=examples(
        "report report.json -o html=report.html",
        "report report.json --format markdown",
        "report --follow",
    ),
)
@click.argument("result", required=False, type=click.Path(path_type=Path))
@click.option("--follow", is_flag=True, help="Show a run while it goes on, in one line; then its report. Default: the "
                                             "run that began last.")  # fmt: skip
@click.option("--format", "format", metavar="FORMAT", help="Print the report in a format that check -o takes.")
@click.option("-o", "--output", "outputs", multiple=True, metavar="FORMAT=PATH",
              help="Write a document. May be repeated; {name} stands for the config's name.")  # fmt: skip
@click.option("--no-color", is_flag=True, help="No colours.")
def command(result: Path | None, follow: bool, format: str | None, outputs: tuple[str, ...], no_color: bool) -> None:
    """Render a report in other formats.

    RESULT is a JSON report, or the folder with the records of a run: one that goes on, or that was cut off.
    """
    from ._shown import Shown

    if follow:
        from ..run.following import newest_run

        result = result or newest_run()
        _show(result)
    if result is None:
        raise UsageError("No report is named.", remedy="qlora-doctor report report.json, or --follow for a run")
    reports = read_reports(result)
    shown = Shown(format=format or "text", outputs=outputs, no_color=no_color)
    shown.write(shown.parsed(len(reports)), reports)
    if format is not None or not outputs:
        shown.print(reports)


def _show(folder: Path) -> None:
    """One line that moves, on a terminal; a line for each change in a log."""
    from ..run.following import follow, is_run
    from ._terminal import is_terminal, one_line, width

    if not is_run(folder):
        raise UsageError(f"{folder} holds no records of a run.")
    moving = is_terminal(sys.stderr)
    for line in follow(folder):
        if moving:
            click.echo("\r\x1b[K" + one_line(line, width() - 1), nl=False, err=True)
        else:
            click.echo(one_line(line), err=True)
    if moving:
        click.echo("", err=True)


def read_reports(path: Path) -> list[Report]:
    """The reports of a JSON document, one or a list, or of the records of a run.

    Raises:
        UsageError: the file cannot be read or is no report.
    """
    from pydantic import ValidationError

    from ..core.report import Report
    from ..run.following import command_of, ended_of, is_run

    if is_run(path):
        from ..run.session import CheckOptions
        from ..run.watched import WatchOptions, reports_of

        return reports_of(path, WatchOptions(), CheckOptions(), ended_of(path), command_of(path))
    try:
        document: Any = json.loads(path.read_text(encoding="utf-8"))
        documents = document if isinstance(document, list) else [document]
        reports = [Report.model_validate(each) for each in documents]
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror or error}.") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise UsageError(
            f"{path} is not a report: {where or 'it'}: {first['msg']}.",
            remedy="qlora-doctor check CONFIG -o json=report.json writes one.",
        ) from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} is not a JSON report: {str(error).splitlines()[0]}.") from error
    if not reports:
        raise UsageError(f"{path} holds no report.")
    return reports

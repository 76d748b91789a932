"""``qlora-doctor data CONFIG``"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ._help import examples
from ._options import command_line, of, offline, outputs, running, talking


@click.command(
    "data",
    epilog=examples(
        "data config.yaml --rows 5",
        "data train.py --rows 12 --no-color",
        "data train.py --run-data --script-args '--max-length 512'",
        "data qlora.yml -o html=rows.html",
    ),
)
@click.argument("config", metavar="CONFIG", type=click.Path(path_type=Path))
@click.option("--rows", type=click.IntRange(min=1, max=12), default=5, show_default=True,
              help="Rows to show: the shortest, the median, the longest, then others.")  # fmt: skip
@click.option("--format", "format", default="text", show_default=True, metavar="FORMAT",
              help="Format of the document on stdout: text, json, html, markdown, …")  # fmt: skip
@outputs("Write a document to a file. May be repeated.")
@click.option("--dialect", metavar="NAME", help="Whose config it is. Default: recognised from the content.")
@offline()
@running()
@talking("No findings, and nothing on stderr but errors.", color="Marks in place of colours", libraries=True)
def command(**given: Any) -> int:
    """Show rows of the data as the model sees them: decoded, with what is trained, masked, special and cut off.

    The samples are read, rendered, masked and cut as the config's trainer does; whose rules were followed is told where
    the trainer itself is not here. Findings about the data go to stderr.

    Exit codes: 0 clean, 1 errors in the data, 2 usage or unreadable config, 3 the data could not be looked at.
    """
    from ..reporters import rows
    from ..run.checking import run_check
    from ..run.session import CheckOptions
    from ._shown import Shown
    from ._terminal import one_line, show

    shown = of(Shown, given)
    outputs = shown.parsed()
    # Rows are what this command shows: --rows says how many.
    options = of(CheckOptions, {**given, "rows": True, "stages": ("config", "data"), "command": command_line()})
    report = run_check(given["config"], options)
    if shown.format == "text":
        color = shown.color()
        show(rows.render(report, rows=given["rows"], color=color), color=color)
    else:
        shown.print([report])
    about = [each for each in report.findings if each.rule.startswith("QD6")]
    for each in about:
        shown.note(f"{each.severity}[{each.rule}] {one_line(each.message)}")
    shown.write(outputs, [report])
    if report.facts.data is None or report.facts.data.failure is not None:
        return 3
    return 1 if any(each.severity == "error" for each in about) else 0

"""``qlora-doctor data CONFIG``"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from ._help import examples
from ._options import offline, outputs, running, running_options, talking


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
    from ..reporters import FORMATS, render, rows
    from ..run.checking import run_check
    from ..run.session import CheckOptions
    from ._outputs import check_format, parse_outputs, write_outputs
    from ._terminal import one_line, show, wants_color

    check_format(given["format"], FORMATS)
    outputs = parse_outputs(given["outputs"], 1)
    options = CheckOptions(
        stages=("config", "data"),
        offline=given["offline"],
        dialect=given["dialect"],
        command=" ".join(["qlora-doctor", *sys.argv[1:]]),
        **running_options(given),
    )
    report = run_check(given["config"], options)
    if given["format"] == "text":
        color = wants_color(sys.stdout, given["no_color"])
        show(rows.render(report, rows=given["rows"], color=color), color=color)
    else:
        click.echo(render(report, given["format"]), nl=False)
    about = [each for each in report.findings if each.rule.startswith("QD6")]
    if not given["quiet"]:
        for each in about:
            show(f"{each.severity}[{each.rule}] {one_line(each.message)}", err=True)
    for path in write_outputs(outputs, [report]):
        if not given["quiet"]:
            click.echo(f"wrote {path}", err=True)
    if report.facts.data is None or report.facts.data.failure is not None:
        return 3
    return 1 if any(each.severity == "error" for each in about) else 0

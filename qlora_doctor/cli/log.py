"""``qlora-doctor log PATH…``"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from ._help import examples
from ._options import document, fail_on, judging, outputs, talking


@click.command(
    "log",
    epilog=examples(
        "log outputs/",
        "log outputs/trainer_state.json --config config.yaml -o html=course.html",
        "log train.log --report report.json",
        "log runs/a runs/b",
    ),
)
@click.argument("paths", metavar="PATH...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--config", type=click.Path(path_type=Path), metavar="FILE",
              help="The config that the run was started with: causes that it excludes are not named.")  # fmt: skip
@click.option("--report", type=click.Path(path_type=Path), metavar="FILE",
              help="A JSON report of check of the same setup. Default: qlora-doctor.json beside the log.")  # fmt: skip
@judging("QD7")
@fail_on()
@document("the document on stdout")
@outputs("Write a document to a file. May be repeated; {name} stands for the log's name.")
@talking("Nothing on stderr but errors.")
def command(**given: Any) -> int:
    """Read what a trainer logged, and say what went wrong in the run, since when, and what to look at first.

    PATH is a trainer_state.json, trainer_log.jsonl or logging.jsonl, a TensorBoard, W&B or MLflow folder, a CSV, a
    captured output, or a folder that holds such; several runs are laid over one another.

    Exit codes: 0 clean, 1 findings at or above --fail-on, 2 usage, or no log that can be read.
    """
    from ..reporters import FORMATS, render, text
    from ..run.courses import judge_logs
    from ..run.session import CheckOptions
    from ._outputs import check_format, parse_outputs, write_outputs
    from ._settings import found_settings, with_settings
    from ._terminal import show, wants_color, width

    check_format(given["format"], FORMATS)
    options = CheckOptions(command=" ".join(["qlora-doctor", *sys.argv[1:]]))
    options = with_settings(options, found_settings(given["config"], given), given)
    reports = judge_logs(given["paths"], options, config=given["config"], report=given["report"])
    if given["format"] == "text":
        color = wants_color(sys.stdout, given["no_color"])
        documents = [text.render(report, color=color, width=width()) for report in reports]
        show("\n".join(documents), color=color)
    else:
        click.echo(render(reports if len(reports) > 1 else reports[0], given["format"]), nl=False)
    for path in write_outputs(parse_outputs(given["outputs"], len(reports)), reports):
        if not given["quiet"]:
            click.echo(f"wrote {path}", err=True)
    return max(report.exit_code for report in reports)

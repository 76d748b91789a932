"""``qlora-doctor log PATH…``"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ._help import examples
from ._options import command_line, document, fail_on, judging, of, outputs, talking


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
    from ..run.courses import judge_logs
    from ..run.session import CheckOptions
    from ._settings import Judging, with_settings
    from ._shown import Shown

    shown, config = of(Shown, given), given["config"]
    shown.parsed()
    options = with_settings(CheckOptions(command=command_line()), of(Judging, given), config)
    reports = judge_logs(given["paths"], options, config=config, report=given["report"])
    shown.print(reports)
    shown.write(shown.parsed(len(reports)), reports)
    return max(report.exit_code for report in reports)

"""``qlora-doctor run -- CMD…``"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..core.errors import UsageError
from ._help import examples
from ._options import baseline, command_line, document, fail_on, judging, of, outputs, own_rules, settings, talking

if TYPE_CHECKING:
    from ..core.report import Report
    from ..run.outputs import Output
    from ..run.watched import Ended
    from ._shown import Shown


@click.command(
    "run",
    context_settings={"ignore_unknown_options": False, "allow_interspersed_args": False},
    epilog=examples(
        "run -- python train.py",
        "run -o html=report.html -- torchrun --nproc-per-node 2 train.py",
        "run --stop-after 2 --fail-on warning -- accelerate launch train.py",
    ),
)
@click.argument("command", metavar="-- CMD...", nargs=-1, type=click.UNPROCESSED, required=True)
@click.option("--steps", type=click.IntRange(min=1), default=2, show_default=True, metavar="N",
              help="Optimizer steps that are looked at closely.")  # fmt: skip
@click.option("--stop-after", type=click.IntRange(min=1), metavar="N",
              help="End the training after N optimizer steps; the exit code is then that of check.")  # fmt: skip
@click.option("--abort-on", type=click.Choice(["error", "warning", "info"]),
              help="End the training at the first finding of this severity or above.")  # fmt: skip
@click.option("--config", type=click.Path(path_type=Path), metavar="FILE",
              help="Hold what the run does against what this config says.")  # fmt: skip
@click.option("--records", type=click.Path(path_type=Path, file_okay=False), metavar="DIR",
              help="Where the run's processes write what they see. Default: a folder of its own in "
                   "$QLORA_DOCTOR_RUNS, or in the user's cache folder.")  # fmt: skip
@click.option(
    "--keep-outputs/--no-keep-outputs",
    default=True,
    show_default=True,
    help="After a save and at the end, keep what the model says to a few fixed tokens, for adapter --load.",
)
@judging("QD3")
@fail_on("Least severity that makes the exit code 1 under --stop-after and --abort-on. Default: error.")
@settings("here")
@baseline()
@document("the report on stderr")
@outputs("Write a report to a file. May be repeated; {name} stands for the training's number.")
@own_rules()
@talking("No report on stderr; -o writes all the same.")
def command(command: tuple[str, ...], **given: Any) -> int:
    """Watch a real training: any command, unmodified, on every rank.

    The command's output, input, signals and exit code are its own. The report goes to stderr when it has ended.

    Exit codes: the command's own. With --stop-after and --abort-on those of check: 0 clean, 1 findings at or
    above --fail-on, 3 the command failed, or nothing could be watched.
    """
    from ..run.following import note_end, note_start
    from ..run.outputs import append_summary
    from ..run.session import CheckOptions
    from ..run.watched import WatchOptions, records_folder, reports_of, run_watched
    from ._baseline import KnownFindings
    from ._settings import Judging, with_settings
    from ._shown import Shown
    from ._terminal import show_error

    shown = of(Shown, given)
    outputs = shown.parsed()
    known = KnownFindings(given["baseline"], write=given["write_baseline"], prune=given["prune_baseline"])
    common = CheckOptions(suppressions=known.suppressions(), command=command_line(), debug=given["debug"])
    check = with_settings(common, of(Judging, given), given["config"])
    options = of(WatchOptions, {**given, "setup": _setup(given["config"])})
    if options.stop_after is not None:
        options = replace(options, steps=min(options.steps, options.stop_after))
    with records_folder(given["records"]) as (folder, stays):
        note_start(folder, list(command))
        ended = run_watched(command, folder, options, check)
        note_end(folder, ended)
        reports = reports_of(folder, options, check, ended, command)
        try:
            if not shown.quiet:
                _tell(reports, shown, folder if stays else None)
            if "github" in (shown.format, *(output.format for output in outputs)):
                append_summary(reports)
            shown.write(_for_each(outputs, len(reports)), reports)
            known.end(reports, quiet=shown.quiet)
        except UsageError as error:  # the command has run, and its exit code is its own
            show_error(error, no_color=shown.no_color)
        judged = 3 if all(report.facts.model is None for report in reports) else known.exit_code(reports)
        return _exit_code(ended, judged, stops=options.stop_after is not None)


def _exit_code(ended: Ended, judged: int, *, stops: bool) -> int:
    """The command's own; where the doctor was asked to end it, what was found."""
    if not stops and not ended.aborted:
        return ended.code
    if ended.code != 0 and not ended.aborted:
        click.echo(f"qlora-doctor: the command ended with exit code {ended.code}.", err=True)
        return 3
    return judged


def _for_each(outputs: list[Output], reports: int) -> list[Output]:
    """Formats of which a document holds one report get a document for each of several trainings."""
    from ..reporters import TOGETHER

    if reports < 2:
        return outputs
    found = []
    for output in outputs:
        path = Path(output.path)
        if output.format not in TOGETHER and "{name}" not in output.path:
            output = replace(output, path=str(path.with_name(f"{path.stem}-{{name}}{path.suffix}")))
        found.append(output)
    return found


def _setup(path: Path | None) -> Any:
    if path is None:
        return None
    if not path.exists():
        raise UsageError(f"{path} does not exist.")
    from ..reading.dialects import read_setup

    return read_setup(path)


def _tell(reports: Sequence[Report], shown: Shown, kept: Path | None) -> None:
    """The report on stderr: stdout is the command's."""
    nothing = all(report.facts.model is None and not report.findings for report in reports)
    if shown.format == "text" and nothing:
        click.echo(f"qlora-doctor: {reports[0].stages[-1].reason}", err=True)
        return
    shown.print(reports, err=True)
    if shown.format == "text" and kept is not None:
        click.echo(f"records: {kept}", err=True)

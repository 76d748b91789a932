"""``qlora-doctor check CONFIG…``"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..core.errors import ConfigError, UsageError
from ._help import examples
from ._options import (
    baseline,
    command_line,
    device,
    document,
    fail_on,
    judging,
    listed,
    of,
    offline,
    outputs,
    own_rules,
    running,
    settings,
    talking,
)
from ._progress import Told, progress

if TYPE_CHECKING:
    from ..core.report import Report
    from ..engine.suppression import Suppression
    from ..run.session import CheckOptions
    from ._folders import Found
    from ._settings import Judging
    from ._shown import Shown


def _share(context: click.Context, parameter: click.Parameter, value: str | None) -> float | None:
    """``5%``, ``5 %`` or ``0.05`` → 0.05."""
    if value is None:
        return None
    try:
        number = float(value.strip().removesuffix("%"))
    except ValueError:
        raise click.BadParameter(f"{value!r} is neither a percentage such as 5% nor a share such as 0.05.") from None
    share = number / 100 if value.strip().endswith("%") else number
    if not 0 <= share < 1:
        raise click.BadParameter(f"{value!r} is not between 0 and 100%.")
    return share


@click.command(
    "check",
    epilog=examples(
        "check config.yaml -o html=report.html",
        "check --stage config,structure --format github configs/*.yaml",
        "check configs/*.yaml --baseline known.json --write-baseline",
        "check --facts report.json --select QD3",
    ),
)
@click.argument("configs", metavar="CONFIG...", nargs=-1, type=click.Path(path_type=Path))
@click.option("--stage", "stages", multiple=True, callback=listed, metavar="NAME",
              help="Run this stage: config, structure, memory, data, load, step, or all. May be repeated. "
                   "Without it, every stage that this machine can run.")  # fmt: skip
@click.option("--gpu", "card", metavar="CARD",
              help="The card that the run is meant for, in place of the config's: t4, 24GiB, 2xrtx-4090.")  # fmt: skip
@device()
@click.option("--timeout", type=click.FloatRange(min=0, min_open=True), metavar="SECONDS",
              help="Time that the stages on a built model may take together.")  # fmt: skip
@click.option("--margin", callback=_share, metavar="PERCENT",
              help="Error band to hold predicted memory against a card with: 5%. "
                   "Default: the prediction's own, 2%.")  # fmt: skip
@click.option("--jobs", "-j", type=click.IntRange(min=1), metavar="N",
              help="Configs at a time, in their own processes. Default: as processors and memory allow.")  # fmt: skip
@click.option("--no-cache", is_flag=True, help="Look at everything again, and keep nothing for the next run.")
@click.option("--cache-dir", type=click.Path(path_type=Path, file_okay=False), metavar="DIR",
              help="Where results are kept. Default: $QLORA_DOCTOR_CACHE, or qlora-doctor/facts in the user's "
                   "cache folder.")  # fmt: skip
@judging("QD3")
@fail_on(
    "Least severity that makes the exit code 1; from unknown on, a run of which not all is known that "
    "decides it makes it 3. Default: unknown.",
    "error",
    "unknown",
    "warning",
    "info",
    "never",
)
@settings("a config")
@click.option("--explain-selection", is_flag=True, help="Print which rules would judge, and why; check nothing.")
@baseline()
@click.option("--diff", is_flag=True, help="Print what --fix would write as a diff, in place of the document.")
@click.option("--fix", is_flag=True, help="Write fixes that do not change what is trained into the config files.")
@click.option("--unsafe-fixes", is_flag=True, help="With --fix or --diff: also fixes that may change it.")
@document("the document on stdout")
@outputs(
    "Write a document to a file. May be repeated; {name} stands for the config's name; "
    "html=DIR/ writes a page for each config and an index."
)
@click.option("--facts", type=click.Path(path_type=Path), metavar="FILE",
              help="Judge the facts of a report, recorded here or elsewhere, instead of looking.")  # fmt: skip
@own_rules()
@click.option(
    "--dialect",
    metavar="NAME",
    help="Whose config it is. Default: recognised from the content; in a folder, only files of this dialect.",
)
@click.option("--exclude", multiple=True, metavar="PATTERN",
              help="Pass over what is called so in a folder: a glob of a name or a path. May be repeated.")  # fmt: skip
@offline()
@click.option("--trust-remote-code", is_flag=True, help="Run Python code that stands in the model's folder.")
@click.option("--no-rows", is_flag=True, help="Keep the text of the training data out of every document.")
@running()
@click.option("--verbose", "-v", is_flag=True,
              help="Tell also the facts that findings rest on, whole diffs, and what was not evaluated.")  # fmt: skip
@talking(libraries=True)
def command(**given: Any) -> int:
    """Check setups end to end: read them, build them, load them, train a step, judge what was seen.

    CONFIG is a file in any dialect, a saved adapter or model, or a folder in which all configs are meant; - is
    standard input.

    Exit codes: 0 clean, 1 findings at or above --fail-on (by default errors), 2 usage, unreadable or
    invalid config, 3 a stage that was asked for could not be completed, or the config does not tell all
    that decides the run (model, 4 bits, rank, rate, batch; --fail-on error lets that pass).
    """
    from ._shown import Shown

    shown = of(Shown, given)
    # What is under way before it is known what these stand for.
    named = [*given["configs"], *([given["facts"]] if given["facts"] else [])]
    first = f"reading {named[0] if len(named) == 1 else 'configs'}"
    with progress(first, quiet=shown.quiet or given["explain_selection"]) as watcher:
        return _check(given, shown, watcher)


def _check(given: dict[str, Any], shown: Shown, watcher: Told) -> int:
    from ..reporters import TOGETHER
    from ..run.cache import cache_folder
    from ..run.outputs import append_summary
    from ._baseline import KnownFindings
    from ._fixes import Fixing, fix_all
    from ._folders import with_folders
    from ._settings import Judging, explain_selection

    configs, facts, judging = given["configs"], given["facts"], of(Judging, given)
    found = with_folders(configs, given["exclude"], given["dialect"], judging, shown, watcher)
    alone = facts or given["explain_selection"]
    sources: Sequence[Path | None] = found.configs or ((None,) if alone else ())
    if not sources:
        raise UsageError("No config is named.", remedy="`qlora-doctor init` writes one, `check --help` says more.")
    if given["explain_selection"]:
        explain_selection(sources[0], judging, None if given["no_cache"] else given["cache_dir"] or cache_folder())
        return 0
    if facts is not None and not facts.exists():
        raise UsageError(f"{facts} does not exist.")
    if facts is not None and len(sources) > 1:
        raise UsageError("--facts holds one machine's facts, and several configs are given.")
    fixing = of(Fixing, given)
    fixing.check(configs, facts)
    outputs = shown.parsed(len(sources))
    known = KnownFindings(given["baseline"], write=given["write_baseline"], prune=given["prune_baseline"])
    common = _options(given, known.suppressions())
    options = [_options_of(source, common, judging) for source in sources]
    if shown.format not in TOGETHER and len(sources) > 1:
        raise UsageError(f"One {shown.format} document holds one report.", remedy=f"-o {shown.format}=r-{{name}}")
    if fixing.fix or fixing.diff:
        reports = fix_all(sources, options, common, fixing, shown, watcher)
    elif len(sources) == 1:
        reports = [_check_one(sources[0], options[0], shown, watcher)]
    else:
        reports = _check_all(found, options, common, given["jobs"], shown, watcher)
    watcher.close()
    if shown.format != "text" and not fixing.diff:
        shown.print(reports)
    if "github" in (shown.format, *(output.format for output in outputs)):
        append_summary(reports)
    shown.write(outputs, reports)
    known.end(reports, quiet=shown.quiet)
    return known.exit_code(reports) if len(reports) == len(sources) else 3  # interrupted before the others began


def _options(given: dict[str, Any], suppressions: tuple[Suppression, ...]) -> CheckOptions:
    """What the command line says; the settings of each config come on top."""
    from ..run.session import CheckOptions

    return replace(
        of(CheckOptions, {**given, "fail_on": "unknown"}),
        stages=_stages(given["stages"]),
        suppressions=suppressions,
        cache=not given["no_cache"],
        cache_folder=given["cache_dir"],
        command=command_line(),
        rows=not given["no_rows"],
    )


def _stages(named: tuple[str, ...]) -> tuple[str, ...] | None:
    """The stages asked for; ``all`` asks for each by name, so that the exit code shows one that cannot run."""
    from ..core.report import STAGES

    return STAGES if "all" in named else named or None


def _options_of(source: Path | None, common: CheckOptions, judging: Judging) -> CheckOptions | ConfigError:
    """The options of one config with the settings that hold for it, or why these cannot be read."""
    from ._settings import with_settings

    try:
        return with_settings(common, judging, source)
    except ConfigError as error:
        if judging.settings:  # named on the command line, they are those of all
            raise
        return error


def _check_all(
    found: Found,
    options: Sequence[CheckOptions | ConfigError],
    common: CheckOptions,
    jobs: int | None,
    shown: Shown,
    watcher: Told,
) -> list[Report]:
    """The reports of all configs that were begun, in their order."""
    from ..core.report import Report
    from ..reporters import overview
    from ..run.checking import unread
    from ._many import check_all
    from ._terminal import show

    results = check_all(found.configs, options, jobs, shown, watcher)
    watcher.close()
    reports = []
    for number, result in sorted(results.items()):
        if isinstance(result, Report):
            reports.append(result)
            continue
        if common.debug:
            import traceback

            traceback.print_exception(result)
        reports.append(unread(found.configs[number], result, common))
    if shown.format == "text":
        color, left = shown.color(), len(found.configs) - len(reports)
        table = overview.render(reports, color=color, not_begun=left, left_out=found.left_out)
        show(table, color=color)
    return reports


def _check_one(source: Path | None, options: CheckOptions | ConfigError, shown: Shown, watcher: Told) -> Report:
    """One config through all stages; a config that cannot be read is a report too, with exit code 2."""
    from ..run.checking import run_check, unread
    from ._stream import TextStream
    from ._terminal import show_error

    if isinstance(options, ConfigError):
        raise options
    stream = TextStream(color=shown.color(), verbose=shown.verbose) if shown.format == "text" else None
    watcher.document = stream
    try:
        report = run_check(source, options, watcher)
    except ConfigError as error:
        watcher.close()
        if options.debug:
            import traceback

            traceback.print_exc()
        show_error(error, no_color=shown.no_color)
        return unread(source, error, options)
    finally:
        watcher.close()
    if stream is not None:
        stream.end(report)
    return report

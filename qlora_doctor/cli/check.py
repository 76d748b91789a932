"""``qlora-doctor check CONFIG…``"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..core.errors import ConfigError, UsageError
from ._help import examples
from ._options import (
    baseline,
    device,
    document,
    fail_on,
    judging,
    listed,
    offline,
    outputs,
    own_rules,
    running,
    running_options,
    settings,
    talking,
)
from ._progress import Told, progress

if TYPE_CHECKING:
    from ..core.report import Report
    from ..engine.suppression import Suppression
    from ..run.session import CheckOptions


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
              help="The card that the run is meant for, in place of the config's: rtx-4090, t4, 24GiB.")  # fmt: skip
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
@document("the document on stdout", "text, concise, json, html, sarif, github, gitlab, junit, markdown")
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
    with progress(_first_words(given), quiet=given["quiet"] or given["explain_selection"]) as watcher:
        return _check(given, watcher)


def _first_words(given: dict[str, Any]) -> str:
    """What is under way before it is known what the arguments stand for."""
    named = [*given["configs"], *([given["facts"]] if given["facts"] else [])]
    return f"reading {named[0] if len(named) == 1 else 'configs'}"


def _check(given: dict[str, Any], watcher: Told) -> int:
    from ..reporters import FORMATS, TOGETHER
    from ._baseline import KnownFindings
    from ._folders import with_folders
    from ._outputs import append_summary, check_format, parse_outputs, write_outputs
    from ._settings import explain_selection

    alone = given["facts"] or given["explain_selection"]
    found = with_folders(given["configs"], given, watcher)
    sources: Sequence[Path | None] = found.configs or ((None,) if alone else ())
    if not sources:
        raise UsageError("No config is named.", remedy="`qlora-doctor init` writes one, `check --help` says more.")
    if given["explain_selection"]:
        explain_selection(sources[0], given)
        return 0
    if given["facts"] is not None and not given["facts"].exists():
        raise UsageError(f"{given['facts']} does not exist.")
    if given["facts"] is not None and len(sources) > 1:
        raise UsageError("--facts holds one machine's facts, and several configs are given.")
    _check_fixes(given)
    check_format(given["format"], FORMATS)
    outputs = parse_outputs(given["outputs"], len(sources))
    known = KnownFindings(given)
    common = _options(given, known.suppressions())
    options = [_options_of(source, common, given) for source in sources]
    if given["format"] not in TOGETHER and len(sources) > 1:
        raise UsageError(f"One {given['format']} document holds one report.", remedy=f"-o {given['format']}=r-{{name}}")
    if given["fix"] or given["diff"]:
        from ._fixes import fix_all

        reports = fix_all(sources, options, common, given, watcher)
    else:
        reports = _check_all(sources, options, common, {**given, "left_out": found.left_out}, watcher)
    watcher.close()
    if given["format"] != "text" and not given["diff"]:
        _print_document(reports, given["format"])
    if "github" in (given["format"], *(output.format for output in outputs)):
        append_summary(reports)
    for path in write_outputs(outputs, reports):
        if not given["quiet"]:
            click.echo(f"wrote {path}", err=True)
    known.end(reports, quiet=given["quiet"])
    return known.exit_code(reports) if len(reports) == len(sources) else 3  # interrupted before the others began


def _check_fixes(given: dict[str, Any]) -> None:
    if given["fix"] and given["diff"]:
        raise UsageError("--diff writes nothing and --fix writes; give one of them.")
    if given["fix"] and Path("-") in given["configs"]:
        raise UsageError("Standard input cannot be written; --diff prints the fixes.")
    if given["unsafe_fixes"] and not (given["fix"] or given["diff"]):
        raise UsageError("--unsafe-fixes says how far --fix or --diff goes, and neither is given.")
    if given["facts"] is not None and (given["fix"] or given["diff"]):
        raise UsageError("--facts judges what was recorded, so there is no file to fix.")


def _options(given: dict[str, Any], suppressions: tuple[Suppression, ...]) -> CheckOptions:
    """What the command line says; the settings of each config come on top."""
    from ..run.session import CheckOptions

    return CheckOptions(
        stages=_stages(given["stages"]),
        card=given["card"],
        device=given["device"],
        timeout=given["timeout"],
        margin=given["margin"],
        facts=given["facts"],
        offline=given["offline"],
        trust_remote_code=given["trust_remote_code"],
        dialect=given["dialect"],
        debug=given["debug"],
        rules=given["rules"],
        suppressions=suppressions,
        cache=not given["no_cache"],
        cache_folder=given["cache_dir"],
        command=" ".join(["qlora-doctor", *sys.argv[1:]]),
        rows=not given["no_rows"],
        **running_options(given),
    )


def _stages(named: tuple[str, ...]) -> tuple[str, ...] | None:
    """The stages asked for; ``all`` asks for each by name, so that the exit code shows one that cannot run."""
    from ..core.report import STAGES

    return STAGES if "all" in named else named or None


def _options_of(source: Path | None, common: CheckOptions, given: dict[str, Any]) -> CheckOptions | ConfigError:
    """The options of one config with the settings that hold for it, or why these cannot be read."""
    from ._settings import found_settings, with_settings

    try:
        return with_settings(common, found_settings(source, given), given)
    except ConfigError as error:
        if given["settings"]:  # named on the command line, they are those of all
            raise
        return error


def _check_all(
    sources: Sequence[Path | None],
    options: Sequence[CheckOptions | ConfigError],
    common: CheckOptions,
    given: dict[str, Any],
    watcher: Told,
) -> list[Report]:
    """The reports of all configs that were begun, in their order."""
    if len(sources) == 1:
        if isinstance(options[0], ConfigError):
            raise options[0]
        return [_check_one(sources[0], options[0], given, watcher)]
    from ..core.report import Report
    from ..reporters import overview
    from ..run.checking import unread
    from ._many import check_all
    from ._terminal import show, wants_color

    results = check_all([source for source in sources if source is not None], options, given, watcher)
    watcher.close()
    reports = []
    for number, result in sorted(results.items()):
        if isinstance(result, Report):
            reports.append(result)
            continue
        if common.debug:
            import traceback

            traceback.print_exception(result)
        reports.append(unread(sources[number], result, common))
    if given["format"] == "text":
        color = wants_color(sys.stdout, given["no_color"])
        table = overview.render(reports, color=color, not_begun=len(sources) - len(reports), left_out=given["left_out"])
        show(table, color=color)
    return reports


def _check_one(source: Path | None, options: CheckOptions, given: dict[str, Any], watcher: Told) -> Report:
    """One config through all stages; a config that cannot be read is a report too, with exit code 2."""
    from ..run.checking import run_check, unread
    from ._stream import TextStream
    from ._terminal import show_error, wants_color

    color = wants_color(sys.stdout, given["no_color"])
    stream = TextStream(color=color, verbose=given["verbose"]) if given["format"] == "text" else None
    watcher.document = stream
    try:
        report = run_check(source, options, watcher)
    except ConfigError as error:
        watcher.close()
        if options.debug:
            import traceback

            traceback.print_exc()
        show_error(error, no_color=given["no_color"])
        return unread(source, error, options)
    finally:
        watcher.close()
    if stream is not None:
        stream.end(report)
    return report


def _print_document(reports: Sequence[Report], format: str) -> None:
    from ..reporters import render

    document = render(reports if len(reports) > 1 else reports[0], format)
    click.echo(document, nl=not document.endswith("\n"))

"""``qlora-doctor compare A.json B.json`` and ``compare --against REF CONFIG``"""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..core.errors import UsageError
from ._help import examples
from ._options import offline, outputs

if TYPE_CHECKING:
    from ..core.report import Report

_STAGES = ("config", "structure", "memory")


@click.command(
    "compare",
    epilog=examples(
        "compare before.json after.json",
        "compare --against main configs/llama.yaml -o html=changes.html",
    ),
)
@click.argument("sides", nargs=-1, metavar="BEFORE.json AFTER.json | CONFIG", type=click.Path(path_type=Path))
@click.option("--against", metavar="REF",
              help="Compare a config with itself at this git revision: both are checked, now and here.")  # fmt: skip
@click.option("--stage", "stages", multiple=True, metavar="NAME",
              help="With --against: a stage to run. Default: config, structure and memory.")  # fmt: skip
@click.option("--settings", type=click.Path(path_type=Path), metavar="FILE",
              help="With --against: settings, as check takes them.")  # fmt: skip
@offline()
@click.option("--format", "format", default="text", show_default=True, metavar="FORMAT",
              help="Format on stdout: text, json, markdown, html.")  # fmt: skip
@click.option("-v", "--verbose", is_flag=True, help="All that changed, in tables; by default 20 lines of what matters.")
@outputs("Write a document to a file.")
def command(
    sides: tuple[Path, ...],
    against: str | None,
    stages: tuple[str, ...],
    settings: Path | None,
    offline: bool,
    format: str,
    verbose: bool,
    outputs: tuple[str, ...],
) -> int:
    """Show what changed between two reports: setup, facts, findings, and memory by part.

    Exit codes: 0 no regression, 1 a broken budget or a new error, 2 usage.
    """
    from ..reporters.comparing import compare
    from ..reporters.comparison import FORMATS, in_full, in_short, render
    from ..run.outputs import write_file
    from ._shown import Shown
    from ._terminal import show, width

    files = Shown(format=format, outputs=outputs).parsed(formats=FORMATS)
    if against is not None:
        if len(sides) != 1:
            raise UsageError("--against takes one config.", remedy="qlora-doctor compare --against main config.yaml")
        config = sides[0]
        before, after = _at_revision(config, against, stages or _STAGES, settings, offline)
        names = (f"{config} at {against}", str(config))
    elif len(sides) == 2:
        before, after = _one(sides[0]), _one(sides[1])
        names = (_name(before, sides[0]), _name(after, sides[1]))
    else:
        raise UsageError("compare takes two JSON reports.", remedy="qlora-doctor check config.yaml -o json=after.json")
    comparison = compare(before, after, names)
    if format == "text":
        show(in_full(comparison) if verbose else in_short(comparison, width()))
    else:
        click.echo(render(comparison, format), nl=False)
    for output in files:
        write_file(Path(output.path), render(comparison, output.format))
    return int(bool(comparison.regressions))


def _one(path: Path) -> Report:
    from .report import read_reports

    reports = read_reports(path)
    if len(reports) > 1:
        raise UsageError(f"{path} holds {len(reports)} reports; compare takes one.")
    return reports[0]


def _name(report: Report, path: Path) -> str:
    return f"{(report.setup or {}).get('file') or 'objects in memory'} ({path.name})"


def _at_revision(
    config: Path, revision: str, stages: tuple[str, ...], settings: Path | None, offline: bool
) -> tuple[Report, Report]:
    """Both checks, with the settings of now. Folders that the config names are those of now as well."""
    from ..reading import read_setup
    from ..run.checking import run_check
    from ..run.session import CheckOptions
    from ._settings import Judging, with_settings

    options = with_settings(CheckOptions(stages=stages, offline=offline), Judging(settings=settings), config)
    with tempfile.TemporaryDirectory() as folder:
        old = Path(folder) / config.name
        old.write_bytes(_content(config, revision))
        setup = read_setup(old)
        before = run_check(setup.model_copy(update={"file": str(config)}), options)
    return before, run_check(config, options)


def _content(config: Path, revision: str) -> bytes:
    """The file at a revision.

    Raises:
        UsageError: git has no such file there.
    """
    if revision.startswith("-"):
        raise UsageError(f"{revision!r} is no git revision.")
    command = ["git", "-C", str(config.parent), "show", f"{revision}:./{config.name}"]
    try:
        done = subprocess.run(command, capture_output=True, check=False)
    except OSError as error:
        raise UsageError(f"git cannot be run: {error.strerror or error}.") from error
    if done.returncode != 0:
        reason = done.stderr.decode(errors="replace").strip().splitlines()
        raise UsageError(f"git has no {config} at {revision}: {reason[-1] if reason else 'no reason was given'}.")
    return done.stdout

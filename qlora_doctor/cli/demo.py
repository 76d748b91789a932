"""``qlora-doctor demo``"""

from __future__ import annotations

import sys
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..core.errors import UsageError
from ._help import examples

if TYPE_CHECKING:
    from ..core.report import Report

_NEEDS = ("torch", "transformers", "peft", "bitsandbytes", "accelerate", "tokenizers", "safetensors")


@click.command("demo", epilog=examples("demo", "demo --device cpu /tmp/demo"))
@click.argument("folder", type=click.Path(path_type=Path), default="demo")
@click.option("--device", metavar="DEVICE", help="cpu, cuda or cuda:N. Default: CUDA where there is one.")
@click.option("--quiet", "-q", is_flag=True, help="No progress on stderr.")
@click.option("--no-color", is_flag=True, help="No colours.")
@click.option("--debug", is_flag=True, help="Show tracebacks and what libraries print.")
def command(folder: Path, device: str | None, quiet: bool, no_color: bool, debug: bool) -> int:
    """Make a small model with a healthy and a broken setup in FOLDER (demo/) and check both, end to end.

    \b
    Exit codes: 0 the healthy setup is clean and the broken one is not, 1 otherwise.
    """
    missing = [name for name in _NEEDS if not _installed(name)]
    if missing:
        what = f"The demo needs {', '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not installed."
        raise UsageError(what, remedy="pip install 'qlora-doctor[probe]'")
    from ..reporters import render
    from . import example
    from ._outputs import write_file

    try:
        made = example.make(folder)
    except OSError as error:
        raise UsageError(f"{folder} cannot be written: {error.strerror or error}.") from error
    codes, pages = [], []
    for config in (made.healthy, made.broken):
        click.secho(f"\nqlora-doctor check {config}\n", bold=True, color=_color(no_color))
        report = _check(config, device, quiet, no_color, debug)
        codes.append(report.exit_code)
        write_file(config.with_suffix(".report.json"), render(report, "json"))
        pages.append(write_file(config.with_suffix(".html"), render(report, "html")))
    click.echo(f"\nThe healthy setup's report: {pages[0]}\nThe broken setup's report:  {pages[1]}")
    return 0 if codes[0] == 0 and codes[1] == 1 else 1


def _check(config: Path, device: str | None, quiet: bool, no_color: bool, debug: bool) -> Report:
    from ..run.checking import run_check
    from ..run.session import CheckOptions
    from ._progress import observer
    from ._stream import TextStream
    from ._terminal import wants_color

    stream = TextStream(color=_color(no_color))
    watcher = observer(stream, quiet=quiet, color=wants_color(sys.stderr, no_color))
    options = CheckOptions(device=device, offline=True, debug=debug, command=f"qlora-doctor check {config}")
    try:
        report = run_check(config, options, watcher)
    finally:
        watcher.close()
    stream.end(report)
    return report


def _color(no_color: bool) -> bool:
    from ._terminal import wants_color

    return wants_color(sys.stdout, no_color)


def _installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True

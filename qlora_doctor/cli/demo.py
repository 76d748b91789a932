"""``qlora-doctor demo``"""

from __future__ import annotations

import os
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..core.errors import UsageError
from ._help import examples
from ._options import device, talking

if TYPE_CHECKING:
    from ..core.report import Finding, Report
    from .example import Demo

_NEEDS = ("torch", "transformers", "peft", "bitsandbytes", "accelerate", "tokenizers", "safetensors", "wrapt")
_QUIET = {"TRANSFORMERS_VERBOSITY": "error", "PYTHONWARNINGS": "ignore", "HF_HUB_DISABLE_PROGRESS_BARS": "1",
          "TQDM_DISABLE": "1", "PYTHONUNBUFFERED": "1"}  # fmt: skip
"""What the demo's script is started with: what libraries print would hide what it prints itself."""


@click.command("demo", epilog=examples("demo", "demo --device cpu /tmp/demo"))
@click.argument("folder", type=click.Path(path_type=Path), default="demo")
@device()
@talking(libraries=True)
def command(folder: Path, device: str | None, quiet: bool, no_color: bool, debug: bool) -> int:
    """Show what this tool does, on a small model made in FOLDER (demo/): a silent failure found, a peak of memory
    predicted and cured, a healthy and a broken setup checked end to end. No network, no GPU.

    Exit codes: 0 each part came out as it should, 1 otherwise.
    """
    missing = [name for name in _NEEDS if not _installed(name)]
    if missing:
        what = f"The demo needs {', '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not installed."
        raise UsageError(what, remedy="pip install 'qlora-doctor[probe]'")
    from . import example

    try:
        made = example.make(folder)
    except OSError as error:
        raise UsageError(f"{folder} cannot be written: {error.strerror or error}.") from error
    show = _Show(made, device, quiet, no_color, debug)
    return 0 if all([show.silent_failure(), show.peak(), show.end_to_end()]) else 1


class _Show:
    """The parts of the demo; each says whether it came out as it should."""

    def __init__(self, made: Demo, device: str | None, quiet: bool, no_color: bool, debug: bool) -> None:
        self.made, self.device, self.quiet, self.no_color, self.debug = made, device, quiet, no_color, debug

    def silent_failure(self) -> bool:
        """A script that trains to its end and learns nothing, watched."""
        from ..run.session import CheckOptions
        from ..run.watched import WatchOptions, new_folder, reports_of, run_watched

        self._title("1 · A silent failure, found", f"qlora-doctor run -- python {self.made.silent}")
        self._say("A script trains an adapter on a 4-bit base. It ends without an error:")
        command = (sys.executable, str(self.made.silent))
        records, options = new_folder(), WatchOptions()
        line = f"qlora-doctor run -- python {self.made.silent}"
        check = CheckOptions(command=line, debug=self.debug)
        sys.stdout.flush()
        with _environment({} if self.debug else _QUIET):
            ended = run_watched(command, records, options, check)
        reports = reports_of(records, options, check, ended, command)
        errors = [finding for report in reports for finding in report.findings if finding.severity == "error"]
        self._say("What its first steps really did:")
        for finding in errors:
            self._finding(finding)
        self._write(reports[0], self.made.silent)
        return ended.code == 0 and any(finding.rule == "QD416" for finding in errors)

    def peak(self) -> bool:
        """The predicted peak of a real model on a card that is not here, and the closest setup that fits."""
        from ..run.curing import cure
        from ..run.session import CheckOptions
        from ._progress import progress
        from ._terminal import width
        from .cure import text_of

        self._title("2 · A peak predicted, and its cure", f"qlora-doctor cure {self.made.large}")
        self._say("Llama-3.1-8B, four samples of 4,096 tokens, on an RTX 4090. No GPU, no weights, no network:\n")
        line = f"qlora-doctor cure {self.made.large}"
        with progress(f"reading {self.made.large}", quiet=self.quiet) as watcher:
            options = CheckOptions(offline=True, debug=self.debug, command=line)
            cured = cure(self.made.large, options, observer=watcher)
        click.echo(textwrap.indent(text_of(cured, width() - 2), "  "), nl=False)
        self._write(cured.first, self.made.large)
        return cured.memory is not None and cured.memory.cure is not None

    def end_to_end(self) -> bool:
        """A healthy and a broken setup through all stages: really loaded in 4-bit, really stepped."""
        from ..reporters.text import render_verdict

        self._title("3 · A healthy and a broken setup, end to end", f"qlora-doctor check {self.made.healthy}")
        codes = []
        for config in (self.made.healthy, self.made.broken):
            report = self._check(config)
            codes.append(report.exit_code)
            click.echo(f"  {config}: {render_verdict(report, color=bool(self._color)).removeprefix('verdict: ')}")
            self._write(report, config, document=True)
        click.echo(f"\nOpen {self.made.broken.with_suffix('.html')}, or run one of the commands above for all of it.")
        return codes == [0, 1]

    def _check(self, config: Path) -> Report:
        from ..run.checking import run_check
        from ..run.session import CheckOptions
        from ._progress import progress

        line = f"qlora-doctor check {config}"
        options = CheckOptions(device=self.device, offline=True, debug=self.debug, command=line)
        with progress(f"reading {config}", quiet=self.quiet) as watcher:
            return run_check(config, options, watcher)

    def _write(self, report: Report, beside: Path, *, document: bool = False) -> None:
        from ..reporters import render
        from ..run.outputs import write_file

        if document:
            write_file(beside.with_suffix(".report.json"), render(report, "json"))
        path = write_file(beside.with_suffix(".html"), render(report, "html"))
        click.echo(f"  the whole report: {path}")

    def _title(self, text: str, command: str) -> None:
        click.secho(f"\n{text}", bold=True, color=self._color)
        click.echo(f"  $ {command}\n")

    def _say(self, text: str) -> None:
        click.echo(f"  {text}")

    def _finding(self, finding: Finding) -> None:
        click.secho(f"  {finding.severity} {finding.rule} {finding.name}", fg="red", color=self._color)
        told = [finding.message] + ([finding.remediation.text] if finding.remediation is not None else [])
        for sentence in told:
            click.echo(textwrap.fill(sentence, 96, initial_indent="    ", subsequent_indent="    "))

    @property
    def _color(self) -> bool | None:
        from ._terminal import wants_color

        return wants_color(sys.stdout, self.no_color)


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """With these variables where nobody set them, and as it was afterwards."""
    added = {name: value for name, value in values.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


def _installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True

"""``qlora-doctor convert FILE --to DIALECT``"""

from __future__ import annotations

from pathlib import Path

import click

from ..core.errors import UsageError
from ._help import examples


@click.command(
    "convert",
    epilog=examples(
        "convert config.yaml --to axolotl -o axolotl.yaml",
        "convert axolotl.yaml --to python",
    ),
)
@click.argument("file", metavar="FILE", type=click.Path(path_type=Path))
@click.option("--to", "target", required=True, metavar="DIALECT",
              help="native, axolotl, llamafactory, trl or python.")  # fmt: skip
@click.option("-o", "--output", type=click.Path(path_type=Path), metavar="FILE",
              help="Where to write it. Default: stdout.")  # fmt: skip
@click.option("--force", is_flag=True, help="Replace a file that is there already.")
@click.option("--dialect", metavar="NAME", help="Whose config it is. Default: recognised from the content.")
def command(file: Path, target: str, output: Path | None, force: bool, dialect: str | None) -> None:
    """Write a config as another trainer takes it.

    What could not be carried over is said on stderr, one line each: key, value, why.
    """
    from ..reading import read_setup
    from ..run.outputs import write_file
    from ..writing.convert import convert
    from ._terminal import one_line, show

    if output is not None and output.exists() and not force:
        raise UsageError(f"{output} exists already.", remedy="Name another file, or replace it with --force.")
    if output is not None and not output.parent.is_dir():
        raise UsageError(f"The folder {output.parent} does not exist.")
    converted = convert(read_setup(file, dialect=dialect), target)
    if output is None:
        click.echo(converted.text, nl=False)
    else:
        write_file(output, converted.text)
    for lost in converted.lost:
        show(f"not carried over: {one_line(str(lost), 500)}", err=True)
    if output is not None:
        click.echo(f"wrote {output}; next: qlora-doctor check {output}", err=True)

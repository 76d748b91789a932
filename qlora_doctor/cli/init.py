"""``qlora-doctor init``"""

from __future__ import annotations

from pathlib import Path

import click

from ..core.errors import UsageError
from ._help import examples


@click.command("init", epilog=examples("init --model meta-llama/Llama-3.1-8B --gpu rtx-4090 -o config.yaml"))
@click.option("--model", required=True, metavar="ID|FOLDER", help="Hub id or folder of the base model.")
@click.option("--gpu", metavar="NAME", help="The card that the run is meant for, for example rtx-4090 or t4.")
@click.option("-o", "--output", type=click.Path(path_type=Path), metavar="FILE",
              help="Where to write it. Default: stdout.")  # fmt: skip
@click.option("--schema", metavar="URL", help="JSON schema that the first line names for editors; "
              "`none` leaves the line out. Default: the docs site's where one is set, "
              "else this installation's.")  # fmt: skip
@click.option("--force", is_flag=True, help="Replace a file that is there already.")
def command(model: str, gpu: str | None, output: Path | None, schema: str | None, force: bool) -> None:
    """Write a commented config to start from, for a model and a card."""
    from ..run.outputs import write_file
    from ..writing.starter import starter_config

    name = output.name if output is not None else "config.yaml"
    text = starter_config(model, gpu, file=name, schema=_schema(schema))
    if output is None:
        click.echo(text, nl=False)
        return
    if output.exists() and not force:
        raise UsageError(f"{output} exists already.", remedy="Name another file, or replace it with --force.")
    if not output.parent.is_dir():
        raise UsageError(f"The folder {output.parent} does not exist.")
    write_file(output, text)
    click.echo(f"wrote {output}; next: qlora-doctor check {output}", err=True)


def _schema(given: str | None) -> str | None:
    """The address for the first line; one that could end the comment is left out."""
    from ..core.assets import asset_folder
    from ..core.links import schema_url
    from ..reading.schema import ID

    if given == "none":
        return None
    address = given or schema_url(ID) or (asset_folder("reports") / "schema" / ID).as_uri()
    return None if any(character.isspace() for character in address) else address

"""``qlora-doctor schema``"""

from __future__ import annotations

import json
from typing import Any

import click

from ._help import examples


@click.command("schema", epilog=examples("schema config", "schema facts"))
@click.argument("what", type=click.Choice(["config", "report", "facts"]))
def command(what: str) -> None:
    """Print the JSON Schema of the config, the report or the facts."""
    click.echo(json.dumps(schema_of(what), indent=2, ensure_ascii=False))


def schema_of(what: str) -> dict[str, Any]:
    """The schema: draft-07 for the config, which editors read; 2020-12 for the documents that the tool writes."""
    if what == "config":
        from ..reading.schema import config_schema

        return config_schema()
    from ..reporters.schema import schema

    return schema(what)

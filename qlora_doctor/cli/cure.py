"""``qlora-doctor cure config.yaml --gpu rtx-4090``"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..core.errors import UsageError
from ._help import examples
from ._options import command_line, listed, of, offline, talking
from ._progress import progress
from ._terminal import width

if TYPE_CHECKING:
    from ..memory.levers import Prefer
    from ..run.curing import Cured


@click.command(
    "cure",
    epilog=examples(
        "cure config.yaml --gpu rtx-4090",
        "cure config.yaml --gpu 16GiB --keep lora.r,max_length --prefer speed -o fits.yaml",
        "cure config.yaml --fix",
    ),
)
@click.argument("config", type=click.Path(path_type=Path))
@click.option("--gpu", "card", metavar="CARD",
              help="The card to fit: rtx-4090, a100-80gb, 24GiB. Default: the one that the config names, else the one "
                   "that is here.")  # fmt: skip
@click.option("--keep", multiple=True, callback=listed, metavar="KEY,…",
              help="Keys that stay as they are: lora.r, max_length, a key of the file. May be repeated.")  # fmt: skip
@click.option("--prefer", type=click.Choice(["quality", "speed", "memory"]),
              help="Which cure is taken. Default: the one with the fewest changes.")  # fmt: skip
@click.option("--alter", is_flag=True,
              help="Changes of what is learned count as any other: length, rank, targets, base. Without it they "
                   "are made only where nothing else is left.")  # fmt: skip
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
              help="Write the cured config to this file.")  # fmt: skip
@click.option("--fix", is_flag=True, help="Write it into the config itself.")
@click.option("--format", "format", default="text", show_default=True, type=click.Choice(["text", "json"]),
              help="Format of the document on stdout.")  # fmt: skip
@click.option("--timeout", type=click.FloatRange(min=0, min_open=True), metavar="SECONDS", help="Time it may take.")
@click.option("--dialect", metavar="NAME", help="Whose config it is. Default: recognised from the content.")
@offline()
@click.option("--trust-remote-code", is_flag=True, help="Run Python code that stands in the model's folder.")
@talking(libraries=True)
def command(**given: Any) -> int:
    """The closest setup that fits: safe fixes, then changes of which every combination is predicted.

    What is learned stays as it is where that is possible. Nothing is written without -o or --fix.

    Exit codes: 0 it fits, as it is or with the cure, 1 no cure was found, or errors are left in the cured config,
    2 usage, unreadable or invalid config, 3 its peak cannot be predicted.
    """
    if given["fix"] and given["output"] is not None:
        raise UsageError("--fix writes into the config, -o into another file; give one of them.")
    with progress(f"reading {given['config']}", quiet=given["quiet"]) as watcher:
        from ..run.curing import cure
        from ..run.session import CheckOptions

        options = of(CheckOptions, {**given, "command": command_line()})
        prefer: Prefer = given["prefer"] or "closest"
        cured = cure(
            given["config"], options, keep=given["keep"], prefer=prefer, alters=given["alter"], observer=watcher
        )
    if given["format"] == "json":
        click.echo((cured.last or cured.first).model_copy(update={"facts": cured.first.facts}).model_dump_json())
    else:
        click.echo(text_of(cured, width()), nl=False)
    code = _exit_code(cured)
    if code == 3 and given["output"] is not None:
        click.echo(f"{given['output']} is not written: there is no cure", err=True)
    elif target := given["output"] or (cured.path if given["fix"] else None):
        _write(cured, target, quiet=given["quiet"])
    return code


def _write(cured: Cured, target: Path, *, quiet: bool) -> None:
    from ..core.files import write_whole
    from ..reading.document import encoded

    if not cured.before:
        raise UsageError(f"{cured.path} is no file that can be written again, so its cure is only shown.")
    if cured.by_hand:
        raise UsageError(f"What has to change in {cured.path} is no literal there, so its cure is only shown.")
    if target == cured.path and cured.after == cured.before:
        click.echo(f"{cured.path}: there is nothing to write", err=True)
        return
    try:
        write_whole(target, encoded(cured.path, cured.after))
    except OSError as error:
        raise UsageError(f"{target} cannot be written: {error.strerror or error}.") from error
    if not quiet:
        click.echo(f"wrote {target}", err=True)


def text_of(cured: Cured, columns: int) -> str:
    """The document of a search for a cure, as text."""
    from ..reporters import cure as document

    return document.render(
        cured.first, fixed=cured.fixed, diff=cured.diff, beside=cured.beside, by_hand=cured.by_hand, last=cured.last,
        width=columns,
    )  # fmt: skip


def _exit_code(cured: Cured) -> int:
    memory = cured.memory
    if memory is None or memory.predicted is None:
        return 3
    if any(stage.name == "memory" and stage.status != "done" for stage in cured.first.stages):
        return 3
    if memory.cures is None:
        return 0
    return 0 if memory.cure is not None and (cured.last is None or not cured.last.summary.error) else 1

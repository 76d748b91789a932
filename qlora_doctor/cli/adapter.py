"""``qlora-doctor adapter DIR``"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from ._help import examples
from ._options import device, document, fail_on, judging, outputs, talking


@click.command(
    "adapter",
    epilog=examples(
        "adapter outputs/adapter",
        "adapter outputs/adapter --base models/llama-3.1-8b -o html=adapter.html",
        "adapter merged/ --base models/llama-3.1-8b --adapter outputs/adapter",
        "adapter outputs/adapter --base models/llama-3.1-8b --load --rows held-out.txt --report run.json",
    ),
)
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--base", type=click.Path(path_type=Path), metavar="DIR",
              help="The base's folder. Default: the one that the adapter names, as far as it is here.")  # fmt: skip
@click.option("--adapter", "adapter", type=click.Path(path_type=Path), metavar="DIR",
              help="Of a merged model: the adapter that is to be in it; the merge is replayed.")  # fmt: skip
@click.option("--load", is_flag=True, help="Load the base and measure the ways to serve, side by side.")
@click.option("--rows", type=click.Path(path_type=Path), metavar="FILE",
              help="Text to measure on, a row a line, or JSON lines. Default: a small built-in set.")  # fmt: skip
@click.option("--report", type=click.Path(path_type=Path), metavar="FILE",
              help="The JSON report of the run that trained it: --load then says whether the reload gives the outputs "
                   "of training. Default: qlora-doctor.json beside the adapter.")  # fmt: skip
@device()
@judging("QD37")
@fail_on()
@document("the document on stdout")
@outputs("Write a document to a file. May be repeated.")
@talking("Nothing on stderr but errors.")
def command(**given: Any) -> int:
    """Say whether a stored adapter, or a merged model, is whole, what it learned, and how to serve it.

    DIR is an adapter's folder, a checkpoint of a run, or a merged model. Its files are read and nothing in them is run.

    Exit codes: 0 clean, 1 findings at or above --fail-on, 2 usage, 3 --load could not be completed.
    """
    from ..reporters import FORMATS, render, text
    from ..run.session import CheckOptions
    from ..run.stored import judge_stored
    from ._outputs import check_format, parse_outputs, write_outputs
    from ._settings import found_settings, with_settings
    from ._terminal import show, wants_color, width

    check_format(given["format"], FORMATS)
    outputs = parse_outputs(given["outputs"], 1)
    options = CheckOptions(command=" ".join(["qlora-doctor", *sys.argv[1:]]), device=given["device"])
    options = with_settings(options, found_settings(None, given), given)
    report = judge_stored(
        given["folder"],
        options,
        base=given["base"],
        adapter=given["adapter"],
        load=given["load"],
        rows=given["rows"],
        run_report=given["report"],
    )
    if given["format"] == "text":
        color = wants_color(sys.stdout, given["no_color"])
        show(text.render(report, color=color, width=width()), color=color)
    else:
        click.echo(render(report, given["format"]), nl=False)
    for path in write_outputs(outputs, [report]):
        if not given["quiet"]:
            click.echo(f"wrote {path}", err=True)
    return report.exit_code

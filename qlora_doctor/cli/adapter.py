"""``qlora-doctor adapter DIR``"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ._help import examples
from ._options import command_line, device, document, fail_on, judging, of, outputs, talking


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
              help="The JSON report of the run that trained it: its tokenizer is compared, and with --load "
                   "what it said. Default: qlora-doctor.json beside the adapter.")  # fmt: skip
@click.option("--config", type=click.Path(path_type=Path), metavar="FILE",
              help="The config that the run was started with: base and tokenizer are held against it.")  # fmt: skip
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
    from ..run.session import CheckOptions
    from ..run.stored import judge_stored
    from ._settings import Judging, with_settings
    from ._shown import Shown

    shown = of(Shown, given)
    outputs = shown.parsed()
    options = CheckOptions(command=command_line(), device=given["device"])
    report = judge_stored(
        given["folder"],
        with_settings(options, of(Judging, given), given["config"]),
        base=given["base"],
        adapter=given["adapter"],
        load=given["load"],
        rows=given["rows"],
        run_report=given["report"],
        config=given["config"],
    )
    shown.print([report])
    shown.write(outputs, [report])
    return report.exit_code

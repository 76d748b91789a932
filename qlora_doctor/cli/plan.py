"""``qlora-doctor plan config.yaml --gpu rtx-4090``"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..core.errors import UsageError
from ._help import examples
from ._options import command_line, of, offline, outputs, talking
from ._progress import Told, progress

if TYPE_CHECKING:
    from ..core.report import Report
    from ..run.outputs import Output
    from ..setup.setup import Setup
    from ._shown import Shown

FORMATS = ("text", "json", "html")
OUTPUTS = (*FORMATS, "card", "badge")


def _numbers(context: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> tuple[int, ...] | None:
    """``--batch 1,2 --batch 4`` → (1, 2, 4); None where nothing was said."""
    parts = [part.strip() for value in values for part in value.split(",") if part.strip()]
    try:
        return tuple(int(part.replace("_", "")) for part in parts) or None
    except ValueError:
        raise click.BadParameter(f"{', '.join(parts)!r} is not a list of whole numbers.") from None


def _values(context: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> tuple[tuple[str, Any], ...]:
    """``lora.r=32`` → ("lora.r", 32); a list is written with commas."""
    pairs = []
    for text in values:
        path, sign, written = text.partition("=")
        if not sign or not path.strip():
            raise click.BadParameter(f"{text!r} is not KEY=VALUE.")
        pairs.append((path.strip(), _value(written.strip())))
    return tuple(pairs)


def _value(text: str) -> Any:
    """A value as JSON has it; words stand for themselves."""
    words: dict[str, Any] = {"true": True, "false": False, "none": None, "null": None}
    if text.lower() in words:
        return words[text.lower()]
    try:
        return json.loads(text)
    except ValueError:
        return [part.strip() for part in text.split(",")] if "," in text else text


@click.command(
    "plan",
    epilog=examples(
        "plan --model Qwen/Qwen2.5-14B --gpu rtx-4090 --r 32 --batch 2 --sequence 4096",
        "plan config.yaml --gpu rtx-4090 --gpu a100-80gb",
        "plan config.yaml --memory 24GiB --sequence 2048,4096 -o html=plan.html",
        "plan config.yaml --gpu rtx-4090 -o card=fit.svg -o badge=badge.svg",
    ),
)
@click.argument("config", required=False, type=click.Path(path_type=Path))
@click.option("--model", metavar="ID|FOLDER",
              help="In place of CONFIG: a base model, set up as `qlora-doctor init` writes it.")  # fmt: skip
@click.option(
    "--r", "rank", type=click.IntRange(min=1), metavar="N", help="Rank of the adapter; short for --set lora.r=N."
)
@click.option("--set", "values", multiple=True, callback=_values, metavar="KEY=VALUE",
              help="Any key of LoraConfig, TrainingArguments or BitsAndBytesConfig: lora.target_modules=q_proj,v_proj, "
                   "optim=adamw_torch. May be repeated.")  # fmt: skip
@click.option("--gpu", "gpus", multiple=True, metavar="CARD",
              help="A card: rtx-4090, a100-80gb, h100, t4, 2xrtx-4090, … May be repeated. "
                   "Default: the card that the config names, else the one that is here.")  # fmt: skip
@click.option("--memory", "memories", multiple=True, metavar="SIZE",
              help="A card of which only the memory is known: 24GiB. May be repeated.")  # fmt: skip
@click.option("--batch", "batches", multiple=True, callback=_numbers, metavar="N,…",
              help="Samples a device of the table. Default: ten values around the config's own.")  # fmt: skip
@click.option("--sequence", "sequences", multiple=True, callback=_numbers, metavar="N,…",
              help="Tokens a sample of the table. Default: ten values around the config's own.")  # fmt: skip
@click.option("--format", "format", default="text", show_default=True, type=click.Choice(FORMATS),
              help="Format of the document on stdout.")  # fmt: skip
@outputs("Write a file: text, json, html, or a picture of the answer: card or badge (.svg or .png). May be repeated.")
@click.option("--timeout", type=click.FloatRange(min=0, min_open=True), metavar="SECONDS", help="Time it may take.")
@click.option("--dialect", metavar="NAME", help="Whose config it is. Default: recognised from the content.")
@offline()
@click.option("--trust-remote-code", is_flag=True, help="Run Python code that stands in the model's folder.")
@click.option("--no-cache", is_flag=True, help="Trace again, and keep nothing for the next question.")
@talking(libraries=True)
def command(**given: Any) -> int:
    """Does it fit? The first line answers; below it stands what fits, by batch and length, and which cards suffice.

    Needs no GPU, no weights and, for well-known models, no network.

    Exit codes: 0 the table was made, 2 usage, unreadable or invalid config,
    3 it could not be made (a package is missing, the model cannot be built or traced).
    """
    if (given["config"] is None) == (given["model"] is None):
        raise UsageError(
            "plan takes a config, or --model.", remedy="qlora-doctor plan --model Qwen/Qwen2.5-7B --gpu l4"
        )
    from ._shown import Shown

    shown = of(Shown, given)
    with progress(f"planning {given['config'] or given['model']}", quiet=shown.quiet) as watcher:
        outputs = shown.parsed(formats=OUTPUTS)
        report = _planned(given, watcher)
    _print(report, shown)
    for output in outputs:
        _write(report, output)
        shown.note(f"wrote {output.path}")
    made = report.facts.memory is not None and bool(report.facts.memory.plans)
    return 0 if made else 3


def _planned(given: dict[str, Any], watcher: Told) -> Report:
    from ..run.planning import run_plan
    from ..run.session import CheckOptions
    from ..worker.job import PlanRequest

    _must_be_sizes(given["memories"])
    rank = (("lora.r", given["rank"]),) if given["rank"] is not None else ()
    asked = PlanRequest(
        cards=(*given["gpus"], *given["memories"]), batches=given["batches"], sequences=given["sequences"]
    )
    options = of(CheckOptions, {**given, "cache": not given["no_cache"], "command": command_line()})
    source = given["config"] or _setup_of(given["model"], given["gpus"])
    return run_plan(source, asked, options, values=(*rank, *given["values"]), observer=watcher)


def _setup_of(model: str, cards: Sequence[str]) -> Setup:
    """The setup of a model that is named alone."""
    from ..core.errors import DoctorError
    from ..setup.meant_for import counted
    from ..writing.starter import starter_setup

    try:
        return starter_setup(model, counted(cards[0])[1] if cards else None)
    except DoctorError:
        return starter_setup(model)  # --gpu may be a size, or no card: said where it is looked at


def _must_be_sizes(memories: tuple[str, ...]) -> None:
    from ..tables.cards import parse_memory

    for memory in memories:
        try:
            parse_memory(memory)
        except ValueError as error:
            raise UsageError(str(error), remedy="--memory 24GiB") from error


def _print(report: Report, shown: Shown) -> None:
    if shown.format != "text":
        shown.print([report])
        return
    from ..reporters import plan
    from ._terminal import show, width

    color = shown.color()
    show(plan.render(report, color=color, width=width()), color=color)


def _write(report: Report, output: Output) -> None:
    from ..reporters import plan, render
    from ..run.outputs import write_file

    text = plan.render(report) if output.format == "text" else render(report, output.format)
    write_file(output.path_for(report, set()), text)

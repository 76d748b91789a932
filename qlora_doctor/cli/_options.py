"""Options that several commands share: each is described once, with what differs as an argument."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click

from ..core.errors import UsageError

Fields = TypeVar("Fields")
Command = TypeVar("Command", bound=Callable[..., Any] | click.Command)

DOCUMENTS = "text, concise, json, html, sarif, github, gitlab, junit, markdown"
"""The formats of a report that every judging command writes, by the names that its help lists."""


def of(kind: type[Fields], given: Mapping[str, Any]) -> Fields:
    """Those options of a command that are fields of a named tuple or a dataclass, as one value of it."""
    names = getattr(kind, "_fields", None) or getattr(kind, "__dataclass_fields__", {})
    return kind(**{name: given[name] for name in names if name in given})


def command_line() -> str:
    """This command as it was typed, for the report."""
    return " ".join(["qlora-doctor", *sys.argv[1:]])


def together(*parts: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """Several options as one decorator; ``--help`` lists them in this order."""

    def add(command: Command) -> Command:
        for part in reversed(parts):
            command = part(command)
        return command

    return add


def listed(context: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    """``--stage a,b --stage c`` → (a, b, c)."""
    return tuple(part.strip() for value in values for part in value.split(",") if part.strip())


def severities(context: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    """``QD301=warning`` → {QD301: warning}."""
    pairs = {}
    for value in listed(context, parameter, values):
        rule, _, level = value.partition("=")
        if level not in ("error", "warning", "info"):
            raise click.BadParameter(f"{value!r} is not RULE=error, RULE=warning or RULE=info.")
        pairs[rule] = level
    return pairs


def judging(beginning: str) -> Callable[[Command], Command]:
    """Which rules judge, and how severely; ``beginning`` is the example of ids that begin alike."""
    return together(
        click.option("--select", multiple=True, callback=listed, metavar="RULE",
                     help=f"Judge by these rules only: an id, the beginning of ids ({beginning}), or a name."),
        click.option("--ignore", multiple=True, callback=listed, metavar="RULE", help="Do not judge by these rules."),
        click.option("--severity", multiple=True, callback=severities, metavar="RULE=LEVEL",
                     help="Give a rule another severity: error, warning or info."),
        profile(),
    )  # fmt: skip


def profile(
    says: str = "Which rules judge where --select is silent. Default: recommended.",
) -> Callable[[Command], Command]:
    """``--profile``"""
    return click.option("--profile", type=click.Choice(["min", "recommended", "strict"]), help=says)


def fail_on(
    says: str = "Least severity that makes the exit code 1. Default: error.", *levels: str
) -> Callable[[Command], Command]:
    """``--fail-on``; ``levels`` where they are more than the severities and never."""
    return click.option(
        "--fail-on", type=click.Choice(list(levels) or ["error", "warning", "info", "never"]), help=says
    )


def settings(above: str) -> Callable[[Command], Command]:
    """``--settings``: a file, in place of the nearest ``above`` something."""
    says = f"Settings. Default: qlora-doctor.toml or pyproject.toml, the nearest above {above}."
    return click.option("--settings", type=click.Path(path_type=Path), metavar="FILE", help=says)


def baseline() -> Callable[[Command], Command]:
    """``--baseline`` and what is done with it."""
    return together(
        click.option("--baseline", type=click.Path(path_type=Path), metavar="FILE",
                     help="Findings that were known before and do not count."),
        click.option("--write-baseline", is_flag=True, help="Write what is found now to the baseline."),
        click.option("--prune-baseline", is_flag=True, help="Remove from the baseline what is no longer found."),
    )  # fmt: skip


def document(where: str, formats: str = DOCUMENTS) -> Callable[[Command], Command]:
    """``--format`` of what is written to ``where``."""
    return click.option("--format", "format", default="text", show_default=True, metavar="FORMAT",
                        help=f"Format of {where}: {formats}.")  # fmt: skip


def outputs(says: str) -> Callable[[Command], Command]:
    """``-o FORMAT=PATH``"""
    return click.option("-o", "--output", "outputs", multiple=True, metavar="FORMAT=PATH", help=says)


def own_rules() -> Callable[[Command], Command]:
    """``--rules DIR``"""
    return click.option("--rules", "rules", multiple=True, type=click.Path(path_type=Path), metavar="DIR",
                        help="A folder with rule pages of your own.")  # fmt: skip


def device() -> Callable[[Command], Command]:
    """``--device``"""
    return click.option("--device", metavar="DEVICE", help="cpu, cuda or cuda:N. Default: CUDA where there is one.")


def offline() -> Callable[[Command], Command]:
    """``--offline``"""
    return click.option("--offline", is_flag=True, help="Download nothing.")


def talking(
    quiet: str = "No progress on stderr.", *, color: str = "No colours", libraries: bool = False
) -> Callable[[Command], Command]:
    """``--quiet``, ``--no-color``, ``--debug``; ``libraries`` where their own output can be shown."""
    return together(
        click.option("--quiet", "-q", is_flag=True, help=quiet),
        click.option("--no-color", is_flag=True, help=f"{color}; NO_COLOR and FORCE_COLOR work as well."),
        click.option("--debug", is_flag=True,
                     help=f"Show tracebacks{' and what libraries print' if libraries else ''}."),
    )  # fmt: skip


def _size(context: click.Context, parameter: click.Parameter, value: str | None) -> int | None:
    """``12GiB`` → bytes."""
    if value is None:
        return None
    from ..tables.cards import parse_memory

    try:
        return parse_memory(value)
    except ValueError:
        raise click.BadParameter(f"{value!r} is no size such as 12GiB.") from None


def _words(context: click.Context, parameter: click.Parameter, value: str) -> tuple[str, ...]:
    """``--max-length 512`` → its words, as a shell splits them.

    Raises:
        UsageError: a quote is not closed.
    """
    import shlex

    try:
        return tuple(shlex.split(value))
    except ValueError as error:
        raise UsageError(f"--script-args cannot be read: {error}.") from None


def _environment(context: click.Context, parameter: click.Parameter, value: Path | None) -> str | None:
    """Absolute, since it is started in another folder."""
    return str(value.absolute()) if value is not None else None


def running() -> Callable[[Command], Command]:
    """What forms the data: the trainer's Python, and ``--run-data`` with the bounds of the script that it runs."""
    return together(
        click.option("--trainer-python", type=click.Path(path_type=Path, exists=True), callback=_environment,
                     metavar="PATH", help="Python, or environment, of the config's trainer (axolotl, LLaMA-Factory, "
                     "ms-swift), whose own code then forms the rows. Default: this one, that of the trainer's command "
                     "on PATH, or of the active environment."),
        click.option("--run-data", is_flag=True,
                     help="Run a script up to its training, in a process of its own without network or GPU, and look "
                          "at its own first batches. It executes the script."),
        click.option("--script-args", "script_arguments", default="", callback=_words, metavar="ARGS",
                     help="With --run-data: the script's command line."),
        click.option("--script-seconds", type=click.FloatRange(min=1), metavar="SECONDS",
                     help="With --run-data: time up to the training. Default: 300."),
        click.option("--script-memory", callback=_size, metavar="SIZE",
                     help="With --run-data: memory of the script, 12GiB. Default: 8GiB."),
    )  # fmt: skip

"""How a shell script starts a training: the launcher, its processes, and what a trainer makes of being started so."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ...setup.setup import Origin, Remark, Setup, Source
from ..accelerate import config_named, with_launch
from ..shell import Word

FLAG = re.compile(r"--?([A-Za-z][\w.\-]*)(?:=(.*))?\Z", re.DOTALL)
"""An option, with its value where it stands behind an equals sign."""


class Run(NamedTuple):
    """A command that starts a training.

    Attributes:
        program: a CLI of a trainer, or ``python``.
        action: what follows the CLI's name, or the path or module that Python runs.
        arguments: what follows.
        launcher: ``accelerate``, ``torchrun``, ``deepspeed``, and its own options; None without one.
    """

    program: str
    action: str
    arguments: tuple[Word, ...]
    launcher: str | None
    options: tuple[Word, ...]
    environment: Mapping[str, Word]
    at: int


def launched(run: Run, setup: Setup, folders: Sequence[Path] = ()) -> Setup:
    """What the launcher says of processes, and what its own config file says where that is here.

    Args:
        folders: where the command may be started, the nearest first.
    """
    count = _processes(run)
    launcher = run.launcher or ("swift" if run.program == "swift" else None)
    if count is not None and count > 0:
        setup = with_value(setup, "hardware.count", count, "explicit", f"processes that {launcher} starts")
    elif run.launcher is not None:
        setup = with_value(
            setup, "hardware.count", None, "unknown", f"How many processes {launcher} starts is not said."
        )
    elif run.program == "python" and "hardware.count" not in setup.origins:
        setup = with_value(setup, "hardware.count", 1, "dialect_default", "python starts one process")
    if run.launcher == "accelerate":
        options = options_of(run.options)
        return with_launch(setup, config_named(options.get("config_file"), folders), options, folders)
    return setup


_COUNTS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "accelerate": (("num_processes",), ()),
    "torchrun": (("nproc_per_node",), ("nnodes",)),
    "deepspeed": (("num_gpus",), ("num_nodes",)),
}


def _processes(run: Run) -> int | None:
    """Processes in all; None where that is not said."""
    if run.program == "swift" and run.launcher is None:
        word = run.environment.get("NPROC_PER_NODE")
        return int(word.text) if word is not None and word.known and word.text.isdigit() else None
    if run.launcher is None:
        return None
    options = options_of(run.options)
    each, nodes = _COUNTS[run.launcher]
    number = next((options[key] for key in each if key in options), None)
    times = next((options[key] for key in nodes if key in options), "1")
    if number is None or not number.isdigit() or not times.isdigit():
        return None
    return int(number[:6]) * int(times[:6])


def options_of(words: Sequence[Word]) -> dict[str, str]:
    """The options of a launcher by their names, without dashes; empty where the value is not known."""
    found: dict[str, str] = {}
    for at, word in enumerate(words):
        flag = FLAG.match(word.text)
        if flag is None:
            continue
        following = words[at + 1].text if at + 1 < len(words) and words[at + 1].known else ""
        found[flag[1].replace("-", "_")] = flag[2] if flag[2] is not None else following
    return found


def with_value(setup: Setup, path: str, value: Any, source: Source, note: str) -> Setup:
    """The Setup with another value at a canonical path."""
    section, _, field = path.partition(".")
    changed = getattr(setup, section).model_copy(update={field: value})
    origins = {**setup.origins, path: Origin(source=source, note=note)}
    return setup.model_copy(update={section: changed, "origins": origins})


_UNLAUNCHED = "launched-without-torchrun"


def started_by_llamafactory(run: Run, setup: Setup) -> Setup:
    """DeepSpeed wants several processes or torchrun (hparams/parser.py); the command says whether it is started so."""
    remarks = [remark for remark in setup.remarks if remark.kind != _UNLAUNCHED]
    if len(remarks) == len(setup.remarks):
        return setup
    forced = run.environment.get("FORCE_TORCHRUN")
    if run.launcher is None and run.program == "python":
        note = "LLaMA-Factory stops: DeepSpeed is started by torchrun, or by llamafactory-cli with FORCE_TORCHRUN=1."
        told = Remark(kind=_UNLAUNCHED, effect="refused", about="distribution", key="deepspeed", note=note)
        return setup.model_copy(update={"remarks": [*remarks, told]})
    if run.launcher is not None or (forced is not None and forced.text.lower() not in ("0", "false", "n", "no")):
        return setup.model_copy(update={"remarks": remarks})
    return setup

"""What a config says of a run that learned nothing or ran out of memory: looked at once the run has ended."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.errors import DoctorError
from ..facts import DataFacts, Facts, MemoryFacts
from .session import CheckOptions

if TYPE_CHECKING:
    from ..core.report import StageRecord
    from ..setup.setup import Setup

_CONFIGS = (".yaml", ".yml", ".json", ".toml")
_LAUNCHERS = ("accelerate", "deepspeed")
"""Dialects of files that say how to launch, and not what to train."""


def config_in(command: Sequence[str]) -> Setup | None:
    """The config that a command is given, as ``axolotl train FILE`` and ``llamafactory-cli train FILE`` are; None where
    no argument is one, or several are."""
    from ..reading.dialects import read_setup

    found = []
    for text in command[1:]:
        path = Path(text)
        if path.suffix.lower() not in _CONFIGS or not path.is_file():
            continue
        try:
            setup = read_setup(path)
        except DoctorError:
            continue
        if setup.dialect not in _LAUNCHERS and setup.model.name_or_path:
            found.append(setup)
    return found[0] if len(found) == 1 else None


def script_in(command: Sequence[str]) -> Setup | None:
    """The script that a command runs, read as ``check`` reads it; None where it is given arguments of its own."""
    from ..reading.dialects import read_setup

    last = Path(command[-1]) if command else Path()
    if last.suffix not in (".py", ".ipynb") or not last.is_file():
        return None
    try:
        return read_setup(last)
    except DoctorError:
        return None


_OF_A_CONFIG = ("config", "structure", "data")


def known_of_config(
    given: Setup | None, command: Sequence[str], check: CheckOptions
) -> tuple[Setup | None, Facts, list[StageRecord]]:
    """What ``check`` knows of a command that failed before it trained: its config, its adapter's places, its data.

    Args:
        given: by ``--config``; without it, the command's own config or script.
    """
    from .checking import run_check

    setup = given or config_in(command) or script_in(command)
    if setup is None:
        return None, Facts(), []
    try:
        report = run_check(setup, _lightly(check, *_OF_A_CONFIG))
    except DoctorError:
        return given, Facts(), []
    return setup, report.facts, [each for each in report.stages if each.name in _OF_A_CONFIG]


def _lightly(check: CheckOptions, *stages: str) -> CheckOptions:
    """The options of a check beside a run: offline, of these stages, without what was asked of the run."""
    return replace(check, stages=stages, offline=True, facts=None, suppressions=(), budgets=())


def needs_data(facts: Facts) -> bool:
    """Whether the run leaves open why nothing was to be learnt: no label counts, or it died before its first step."""
    batch, run, step = facts.batch, facts.run, facts.step
    if batch is not None and batch.trained_tokens is not None:
        return batch.trained_tokens == 0
    failed = run is not None and (run.ended == "failed" or bool(run.exit_code))
    return failed and (step is None or not step.steps)


def data_of(setup: Setup, check: CheckOptions) -> DataFacts | None:
    """The data as stage ``data`` of a check sees it; None where it cannot be looked at."""
    from .checking import run_check

    try:
        return run_check(setup, _lightly(check, "config", "data")).facts.data
    except DoctorError:
        return None


def memory_of(facts: Facts, setup: Setup | None, check: CheckOptions) -> MemoryFacts | None:
    """What a run that ran out of memory was predicted to need, and what would have fit; None where nothing predicts it.

    Predicted for the config, or else for what the run itself showed: its model, its adapter, and the batch under way.
    The card is the one of the error.
    """
    from ..reading.native import setup_from_mapping
    from .checking import run_check

    failure = facts.run.failure if facts.run is not None else None
    if failure is None or failure.kind != "out-of-memory":
        return None
    try:
        found = setup or setup_from_mapping(_as_config(facts))
        card = f"{failure.card_bytes / 2**30:.2f}GiB" if failure.card_bytes else None
        options = replace(_lightly(check, "config", "memory"), card=card)
        memory = run_check(found, options).facts.memory
    except (DoctorError, ValueError):
        return None
    if memory is None or memory.predicted is None:
        return None
    measured = facts.memory.measured if facts.memory is not None else None
    return memory.model_copy(update={"measured": measured})


def _as_config(facts: Facts) -> dict[str, Any]:
    """What the run showed, as a config."""
    config, failure = facts.config, facts.run.failure if facts.run is not None else None
    if config is None or not config.model:
        raise ValueError("the run's model has no name")
    quantization: dict[str, Any] = {
        "load_in_4bit": config.four_bit,
        "load_in_8bit": config.eight_bit,
        "bnb_4bit_quant_type": config.quant_type,
        "bnb_4bit_use_double_quant": config.double_quant,
        "bnb_4bit_compute_dtype": config.compute_dtype,
        "bnb_4bit_quant_storage": config.storage_dtype,
    }
    lora: dict[str, Any] = {
        "r": config.lora_r,
        "lora_alpha": config.lora_alpha,
        "lora_dropout": config.lora_dropout,
        "target_modules": config.target_modules,
        "modules_to_save": config.modules_to_save or None,
        "use_dora": config.use_dora,
        "task_type": config.task_type,
    }
    training: dict[str, Any] = {
        "per_device_train_batch_size": (failure.batch if failure is not None else None) or config.batch,
        "max_length": (failure.sequence if failure is not None else None) or config.sequence,
        "gradient_checkpointing": config.gradient_checkpointing,
        "bf16": config.bf16,
        "fp16": config.fp16,
        "learning_rate": config.learning_rate,
    }
    sections: dict[str, dict[str, Any]] = {"quantization": quantization, "lora": lora, "training": training}
    return {
        "model": config.model,
        **{name: {k: v for k, v in section.items() if v is not None} for name, section in sections.items()},
    }

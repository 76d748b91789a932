"""What a stage's result depends on, as one digest per stage.

A key holds everything of the setup, the files and the machine that could change what a stage finds, and nothing that
could not, so that configs of small differences share results:

- ``structure`` builds base, quantization and adapter on meta. Of ``training`` it reads what
  prepare_model_for_kbit_training is given, and nothing else. Dropout is a layer or none (PEFT makes Identity of 0),
  whatever its rate; alpha scales values, which meta has not.
- ``memory`` traces a step of what structure builds: all of ``training`` that decides shapes, dtypes and optimizer, and
  the card. A learning rate or a number of steps is arithmetic on values; only whether it is there, zero or negative
  may choose another path, so that is what is kept of it.
- ``data`` tokenizes and collates: data, tokenizer, ``training`` as above; no adapter and no card.
- ``load`` reads weights onto the device and holds them against what structure predicted.
- ``step`` trains: everything.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import hashlib
import json
import os
import uuid
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..._version import __version__
from ...core.report import SECTIONS
from ...facts import ConfigFacts, EnvironmentFacts
from ...setup.setup import SUPERVISED, Setup
from .identity import data_identity, find, model_identity, tree_identity

if TYPE_CHECKING:
    from ...worker.options import RunOptions

FORMAT = 1
"""To be raised whenever an entry means something else."""

_PREPARED_WITH = ("prepare_for_kbit_training", "gradient_checkpointing", "gradient_checkpointing_kwargs")
_ARITHMETIC = (
    "learning_rate",
    "weight_decay",
    "num_train_epochs",
    "max_steps",
    "warmup_ratio",
    "warmup_steps",
    "logging_steps",
)
"""Fields of ``training`` whose size changes values alone, never a shape."""
_NOT_LOOKED_AT = ("output_dir",)
"""Fields of ``training`` that no stage before ``step`` reads: results go to a temporary folder."""
_VARIABLES = (
    "HF_HOME",
    "HF_HUB_CACHE",
    "HF_HUB_OFFLINE",
    "TRANSFORMERS_OFFLINE",
    "HF_DATASETS_OFFLINE",
    "CUDA_VISIBLE_DEVICES",
    "PYTORCH_CUDA_ALLOC_CONF",
    "PYTORCH_ALLOC_CONF",
    "BNB_CUDA_VERSION",
)
"""Environment variables that the libraries respect."""


def stage_keys(
    setup: Setup,
    stages: tuple[str, ...],
    options: RunOptions,
    environment: EnvironmentFacts | None,
    *,
    runs_script: bool = False,
) -> dict[str, str]:
    """A digest for each stage.

    Args:
        stages: the stages of this run that can be served, in their order.
        options: how they are run.
        environment: the machine.
        runs_script: stage data runs the user's script; what that gives is never found again.
    """
    sections = setup.model_dump(mode="json", exclude_none=True, include=set(SECTIONS))
    model, structure, training = (
        _model(setup, sections, options),
        _structure(setup, sections),
        _training(sections["training"]),
    )
    # What is named and not looked at is given as the reason, in the words of the file.
    named: list[Any] = [each.model_dump(mode="json", exclude_none=True, exclude={"place"}) for each in setup.named_data]
    named += [data_identity(file, setup) for each in setup.named_data for file in each.files or [each.name or ""]]
    data = {"said": sections["data"], "files": data_identity(setup.data.train, setup)}
    if setup.data.train and data["files"] is None:
        data["day"] = _today()  # a hub's data set: nothing on this machine says whether it is still the same
    from ...probes.config.one_process import launch_facts  # here: ``explain`` asks this package for its folders alone

    launch = launch_facts(setup, ConfigFacts.model_construct(distributed="none"), environment)
    card = [_card(environment), launch, sections["hardware"], sections["budgets"], options.device]
    asked = {"stages": stages, "requested": options.stages}
    looked_at: dict[str, Any] = {
        "structure": [model, structure],
        "memory": [model, structure, training, data, card],
        "data": [model, training, data, named, _trainer(setup, options), uuid.uuid4().hex if runs_script else None],
        "load": [model, structure, training, card, asked],
        "step": [model, sections, data, named, card, asked],
    }
    common = _common(setup, sections, options, environment)
    return {name: _digest([FORMAT, name, common, looked_at[name]]) for name in stages if name in looked_at}


_OF_A_CELL = ("per_device_train_batch_size", "per_device_eval_batch_size", "max_length")
"""Fields of ``training`` that a trace is scaled by."""


def trace_key(setup: Setup, options: RunOptions, environment: EnvironmentFacts | None) -> str:
    """A digest of what decides the traces of a setup's step whatever its batch, its length, its rank and its card.

    A method that builds its batches from the config's own length has no such traces: theirs are part of the key.
    """
    sections = setup.model_dump(mode="json", exclude_none=True, include=set(SECTIONS))
    training = _training(sections["training"])
    if training.get("method") in SUPERVISED:
        training = {name: "set" if name in _OF_A_CELL else value for name, value in training.items()}
    hardware = {name: value for name, value in sections["hardware"].items() if name == "count"}
    common = _common(setup, sections, options, environment)
    sections["lora"].pop("r", None)
    parts = [_model(setup, sections, options), _structure(setup, sections), training, sections["data"], hardware]
    return _digest([FORMAT, "traces", common, parts])


def _trainer(setup: Setup, options: RunOptions) -> dict[str, Any] | None:
    """The trainer that is asked what becomes of the rows."""
    from ...pipeline.own_code.finding import find_trainer

    found = find_trainer(setup, options.trainer_python)
    return dataclasses.asdict(found) if found is not None else None


def _model(setup: Setup, sections: dict[str, Any], options: RunOptions) -> dict[str, Any]:
    model = setup.model
    base = model_identity(model.name_or_path, model.revision, setup)
    part = {"said": sections["model"], "base": base, "adapter": model_identity(model.adapter, None, setup)}
    if setup.dialect == "peft-adapter" and setup.file is not None:  # the weights beside it are looked at too
        part["stored"] = model_identity(str(Path(setup.file).resolve().parent), None, setup)
    if base is None and not (options.offline or os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0")):
        part["day"] = _today()  # the hub may be asked, and may say something else tomorrow
    return part


def _structure(setup: Setup, sections: dict[str, Any]) -> dict[str, Any]:
    lora = {name: value for name, value in sections["lora"].items() if name != "lora_alpha"}
    if "lora_dropout" in lora:
        lora["lora_dropout"] = _kind_of_number(lora["lora_dropout"])
    prepared = {name: value for name, value in sections["training"].items() if name in _PREPARED_WITH}
    # Which layers all-linear stands for, and whether experts take a dropout, is the trainer's.
    whose = setup.dialect if setup.lora.target_modules == "all-linear" or not setup.traits.drops_on_experts else ""
    return {"quantization": sections["quantization"], "lora": lora, "training": prepared, "whose": whose}


def _training(said: dict[str, Any]) -> dict[str, Any]:
    kinds = {name: _kind_of_number(said[name]) for name in _ARITHMETIC if name in said}
    return {**{name: value for name, value in said.items() if name not in _NOT_LOOKED_AT}, **kinds}


def _kind_of_number(value: float) -> str:
    """Numbers of one kind take the same path through the libraries: their checks and shortcuts compare with 0 and 1."""
    if value in (0, 1):
        return str(int(value))
    return "below 0" if value < 0 else "a ratio" if value < 1 else "above 1" if value > 1 else "no number"


def _card(environment: EnvironmentFacts | None) -> dict[str, Any] | None:
    """The hardware, without what is free of it: a failure for want of memory is not kept."""
    if environment is None:
        return None
    shown = {"gpus", "driver", "cpu_count", "host_memory_bytes", "bitsandbytes_backends"}
    return environment.model_dump(mode="json", include=shown, exclude={"gpus": {"__all__": {"free_bytes"}}})


def _common(
    setup: Setup, sections: dict[str, Any], options: RunOptions, environment: EnvironmentFacts | None
) -> dict[str, Any]:
    return {
        "tool": [__version__, _tool()],
        "environment": environment
        and environment.model_dump(mode="json", include={"python", "platform", "packages", "torch_cuda"}),
        "variables": {name: os.environ[name] for name in _VARIABLES if name in os.environ},
        "offline": options.offline,
        "trust_remote_code": options.trust_remote_code,
        # A silent value is what the reader's dialect and the versions that the project asks for make of it.
        "reader": [setup.dialect, setup.dialect_version, setup.stored_keys],
        "versions": {name: asked.model_dump(mode="json", exclude={"by"}) for name, asked in setup.versions.items()},
        # Imports and calls of a script are tried with the libraries, with the values that it gives.
        "uses": [use.model_dump(mode="json") for use in setup.uses],
        "told": setup.uses
        and [each.model_dump() for each in (*setup.unknown_keys, *setup.removed_keys, *setup.remarks)],
        "origins": sorted(
            (path, origin.source)
            for path, origin in setup.origins.items()
            if origin.source == "unknown" or (origin.source == "explicit" and _is_null(sections, path))
        ),
        "changes": [change.model_dump(mode="json", exclude={"place"}) for change in setup.changes],
        # A chat template, a DeepSpeed config: whatever a value names that is a file.
        "files": {text: data_identity(text, setup) for text in sorted(set(_file_names(sections, setup)))},
    }


def _is_null(sections: Any, path: str) -> bool:
    """Whether nothing stands at a canonical path; ``sections`` holds no null."""
    for part in path.split("."):
        if not isinstance(sections, dict) or part not in sections:
            return True
        sections = sections[part]
    return False


def _file_names(value: Any, setup: Setup) -> list[str]:
    if isinstance(value, dict):
        return [name for item in value.values() for name in _file_names(item, setup)]
    if isinstance(value, list):
        return [name for item in value for name in _file_names(item, setup)]
    if not isinstance(value, str) or not 2 < len(value) < 1024 or not ("/" in value or "." in value or "\\" in value):
        return []
    try:
        path = find(value, setup)
        return [value] if path is not None and path.is_file() else []
    except (OSError, ValueError, RuntimeError):  # no path after all
        return []


@lru_cache(maxsize=1)
def _tool() -> str:
    """This package as it is: its version alone would not tell one working tree from the next."""
    return tree_identity(Path(__file__).resolve().parents[2])


def _today() -> str:
    return dt.datetime.now(dt.timezone.utc).date().isoformat()


def _digest(parts: Sequence[Any]) -> str:
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()

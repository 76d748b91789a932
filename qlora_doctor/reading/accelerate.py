"""An Accelerate config beside a training config: what ``accelerate launch --config_file`` makes of the run.

Read from accelerate 1.15 (commands/launch.py, utils/launch.py, utils/dataclasses.py) and transformers 5.23
(training_args.py): what the file says reaches the trainer as environment variables, and ``--num_processes`` and the
like on the command line win over it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..core.errors import ConfigError
from ..core.text import cleaned
from ..setup.resolved import Resolved
from ..setup.setup import Origin, Remark, Setup
from .document import Document, read_document

OPTIONS = ("num_processes", "mixed_precision")
"""Options of ``accelerate launch`` that say what the file says as well."""
SWITCHES = {"use_fsdp": "FSDP", "use_deepspeed": "DEEPSPEED", "multi_gpu": "MULTI_GPU"}
"""Options that choose how the ranks share the work, whatever the file says of it (_validate_launch_command)."""
_OF_DEEPSPEED = ("deepspeed_config_file", "zero_stage", "offload_optimizer_device", "offload_param_device")
_DISTRIBUTION = ("training.fsdp", "training.fsdp_config", "training.deepspeed")
LEFT_OPEN = ("training.fsdp", "training.deepspeed")
"""What a file that is not here may decide."""


def is_accelerate(data: Any) -> bool:
    """True for what ``accelerate config`` writes."""
    if not isinstance(data, dict):
        return False
    return "compute_environment" in data or {"distributed_type", "num_processes"} <= data.keys()


def says_something(options: Mapping[str, str]) -> bool:
    """True where options of the launcher say how it starts the run."""
    return bool({"config_file", *OPTIONS, *SWITCHES} & options.keys())


def with_launch(
    setup: Setup, config: Document | None, options: Mapping[str, str], folders: Sequence[Path] = ()
) -> Setup:
    """The setup as this Accelerate config, and these options of the launcher, start it.

    Args:
        config: the file; None where the launcher names none, or one that is not here: then what it decides is unknown.
        options: of the command line, without dashes.
        folders: where the command may be started, the nearest first.
    """
    data = dict(config.data) if config is not None and isinstance(config.data, dict) else {}
    change = _Change(setup, config, options)
    settings = data | {name: options[name] for name in OPTIONS if name in options}
    switches = [kind for name, kind in SWITCHES.items() if options.get(name, "false").lower() != "false"]
    count = _number(settings.get("num_processes"))
    if "cpu" in options or len(switches) > 1 or (config is None and (not switches or "config_file" in options)):
        if count is not None:
            change.put("hardware.count", count, "num_processes")
        _put_precision(change, settings)
        return _left_open(change.made())
    kind = switches[0] if switches else str(data.get("distributed_type", "NO")).upper()
    if kind == "NO" and "num_processes" not in options:
        count = 1
    if count is not None:
        change.put("hardware.count", count, "num_processes")
    if kind == "FSDP":
        _put_fsdp(change, data, options)
    elif kind == "DEEPSPEED":
        places = [config.path.parent] if config is not None and config.path is not None else []
        _put_deepspeed(change, data, options, [*places, *folders])
    else:
        for path in LEFT_OPEN:
            change.silence(path)
    _put_precision(change, settings)
    return change.made()


class _Change:
    """A setup, and what the launcher's config makes of it where the setup is silent or leaves it open."""

    def __init__(self, setup: Setup, config: Document | None, options: Mapping[str, str]) -> None:
        self.setup = setup
        self._config = config
        self._options = options
        self._values: dict[str, dict[str, Any]] = {}
        self._origins: dict[str, Origin] = {}
        self._remarks: list[Remark] = []

    def is_open(self, path: str) -> bool:
        return path not in self.setup.origins or self.setup.is_unknown(path)

    def put(self, path: str, value: Any, key: str) -> None:
        if not self.is_open(path):
            return
        section, _, field = path.partition(".")
        self._values.setdefault(section, {})[field] = value
        told = key if key in self._options else next((name for name in SWITCHES if name in self._options), None)
        if self._config is None or key in self._options or (told is not None and path in _DISTRIBUTION):
            self._origins[path] = Origin(source="explicit", note=f"--{told} of the command that starts it")
            return
        name = self._config.path.name if self._config.path is not None else "the Accelerate config"
        self._origins[path] = Origin(source="explicit", place=self._config.place(f"/{key}"), note=f"{key} of {name}")

    def refuse(self, kind: str, key: str, note: str) -> None:
        """Say that the launcher stops."""
        told = Remark(kind=kind, effect="refused", about="distribution", key=key, note=note, machine=None)
        self._remarks.append(told)

    def silence(self, path: str) -> None:
        """Take back that a value is unknown: the file leaves it out."""
        if self.setup.is_unknown(path):
            self._origins[path] = Origin(source="library_default")

    def made(self) -> Setup:
        changed: dict[str, Any] = {
            name: getattr(self.setup, name).model_copy(update=cleaned(fields)) for name, fields in self._values.items()
        }
        changed |= {
            "origins": {**self.setup.origins, **self._origins},
            "remarks": [*self.setup.remarks, *self._remarks],
        }
        return self.setup.model_copy(update=changed)


def _put_fsdp(change: _Change, data: dict[str, Any], options: Mapping[str, str]) -> None:
    # A text of the command line is true to the launcher, and to the ranks what it says.
    truths = {"true": True, "false": False}
    given = {key: truths.get(text.lower(), text) for key, text in options.items() if key.startswith("fsdp_")}
    written = {**_mapping(data.get("fsdp_config")), **given}
    settings = {str(key).removeprefix("fsdp_"): value for key, value in written.items()}
    version = _number(settings.get("version")) or 1
    strategy = str(settings.get("sharding_strategy", "FULL_SHARD")).lower()
    by_number = {
        "1": "full_shard",
        "2": "shard_grad_op",
        "3": "no_shard",
        "4": "hybrid_shard",
        "5": "hybrid_shard_zero2",
    }
    offloads = str(settings.get("offload_params")).lower() == "true"
    words = [by_number.get(strategy, strategy), "auto_wrap", *(["offload"] if offloads else [])]
    change.put("training.fsdp", " ".join(words), "distributed_type")
    # accelerate launch turns both on where the file is silent (commands/launch.py)
    loading = {"cpu_ram_efficient_loading": True} | ({"sync_module_states": True} if version == 1 else {})
    settings = {**loading, **settings, "version": version}
    change.put("training.fsdp_config", settings, "fsdp_config")
    change.silence("training.deepspeed")
    unsynced = version == 1 and settings["cpu_ram_efficient_loading"] and not settings["sync_module_states"]
    if unsynced and not given.keys() & {"fsdp_sync_module_states", "fsdp_cpu_ram_efficient_loading"}:
        change.refuse(
            "launched-without-sync",
            "training.fsdp_config",
            "accelerate launch stops: fsdp_cpu_ram_efficient_loading lets one rank alone read the weights, and "
            "fsdp_sync_module_states, which sends them to the others, is false.",
        )


def _put_deepspeed(change: _Change, data: dict[str, Any], options: Mapping[str, str], folders: Sequence[Path]) -> None:
    settings = _mapping(data.get("deepspeed_config")) | {key: options[key] for key in _OF_DEEPSPEED if key in options}
    change.silence("training.fsdp")
    named = settings.get("deepspeed_config_file")
    if isinstance(named, str) and named not in ("", "none", "None"):
        here = next((folder / named for folder in folders if (folder / named).is_file()), named)
        change.put("training.deepspeed", str(here), "deepspeed_config")
        return
    stage = _number(settings.get("zero_stage", 2))
    if stage is None:
        return
    inner: dict[str, Any] = {"stage": stage}
    for part in ("optimizer", "param"):
        device = settings.get(f"offload_{part}_device")
        if isinstance(device, str) and device not in ("none", "None", ""):
            inner[f"offload_{part}"] = {"device": device}
    change.put("training.deepspeed", {"zero_optimization": inner}, "deepspeed_config")


def _put_precision(change: _Change, settings: dict[str, Any]) -> None:
    """``mixed_precision`` counts where neither bf16 nor fp16 of the trainer does (TrainingArguments.__post_init__)."""
    asked = str(settings.get("mixed_precision", "no")).lower()
    if asked not in ("bf16", "fp16") or Resolved(change.setup).trainer != "transformers":
        return
    training = change.setup.training
    if training.bf16 or training.fp16 or change.setup.is_unknown("training.bf16"):
        return
    if all(change.is_open(f"training.{name}") for name in ("bf16", "fp16")):
        change.put(f"training.{asked}", True, "mixed_precision")


def _left_open(setup: Setup) -> Setup:
    """What a config of accelerate's that is not here may say is unknown."""
    why = Origin(source="unknown", note="accelerate's own config decides.")
    return setup.model_copy(
        update={"origins": {**{path: why for path in LEFT_OPEN if path not in setup.origins}, **setup.origins}}
    )


def _mapping(value: Any) -> dict[Any, Any]:
    return value if isinstance(value, dict) else {}


def _number(value: Any) -> int | None:
    text = str(value)
    return int(text) if text.isdigit() and len(text) < 7 and not isinstance(value, bool) else None


# -- which file a command names


def config_named(written: str | None, folders: Sequence[Path]) -> Document | None:
    """The Accelerate config of a command line, from the first of these folders that has it; None where none has."""
    if not written or "\0" in written or len(written) > 1024:
        return None
    for folder in folders:
        path = folder / written
        try:
            if not path.is_file():
                continue
            document = read_document(path)
        except (OSError, ValueError, ConfigError):
            continue
        return document if is_accelerate(document.data) else None
    return None

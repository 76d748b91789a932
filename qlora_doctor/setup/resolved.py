"""Resolved: what every canonical path stands for, with its origin; the one place where silence gets a value.

Everything behind the readers asks here (conclusions, pipeline, memory, conversion), so that a default is changed in one
row and every consumer follows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from . import defaults
from .defaults import Libraries
from .setup import SECTIONS, Origin, Setup


class Resolved:
    """A Setup in which silence has a value.

    >>> from qlora_doctor.setup.setup import Setup
    >>> Resolved(Setup(dialect="native"))["training.per_device_train_batch_size"]
    8

    Args:
        setup: what was understood of the file.
        libraries: the versions whose defaults count; without them, what depends on a version is None.
    """

    def __init__(self, setup: Setup, libraries: Libraries | None = None) -> None:
        self.setup = setup
        self.libraries = libraries if libraries is not None else Libraries()

    def __getitem__(self, path: str) -> Any:
        """The value at a canonical path; None where it cannot be known, or nothing sets it and it has no default."""
        if self.is_unknown(path):
            return None
        value = self.written(path)
        return self.default(path) if value is None else value

    def written(self, path: str) -> Any:
        """The value of the file or of its dialect's default; None where both are silent."""
        section, _, field = path.partition(".")
        return getattr(getattr(self.setup, section), field)

    def is_unknown(self, path: str) -> bool:
        """True where something that was not read decides the value."""
        return self.setup.is_unknown(path)

    def is_silent(self, path: str) -> bool:
        """True where nothing sets the value: neither the file, nor its dialect, nor something that was not read."""
        return not self.is_unknown(path) and self.written(path) is None

    def origin(self, path: str) -> Origin:
        """Where the value comes from: the file, the dialect, the library, or something that was not read."""
        origin = self.setup.origins.get(path)
        if origin is not None:
            return origin
        if self.written(path) is not None:
            return Origin(source="explicit")  # a Setup made by hand has no places
        return Origin(source="library_default", note=None if path in DEFAULTS else "It has no default.")

    def __iter__(self) -> Iterator[str]:
        """Every canonical path."""
        return (f"{name}.{field}" for name, model in SECTIONS.items() for field in model.model_fields)

    def default(self, path: str) -> Any:
        """What stands where the file and its dialect are silent, whatever they say; None where there is none."""
        default = DEFAULTS.get(path)
        return default(self) if callable(default) else default

    # -- what several paths decide together

    @property
    def trainer(self) -> str:
        """The class of trainer; transformers' where the config is silent or unknown."""
        return str(self["training.trainer"] or "transformers")

    @property
    def quantized(self) -> bool | None:
        """Whether the base is loaded in 4 or 8 bits."""
        return either(self["quantization.load_in_4bit"], self["quantization.load_in_8bit"])

    @property
    def trainer_checkpoints(self) -> bool | None:
        """Whether the trainer itself turns gradient checkpointing on."""
        path = "training.gradient_checkpointing"
        if self.is_unknown(path):
            return None
        value = self.written(path)
        return defaults.trainer_checkpoints(self.trainer, self.method, self.libraries) if value is None else value

    @property
    def method(self) -> str | None:
        """What is trained; None where it is unknown."""
        method = self["training.method"]
        return None if method is None else str(method)

    @property
    def prepared_by_trainer(self) -> bool:
        """Whether it is for TRL's trainer to prepare a quantized base: it gets one to which it attaches the adapter."""
        return (
            self.setup.traits.hands_base_to_trl
            and self.trainer == "trl"
            and self.is_silent("training.prepare_for_kbit_training")
        )

    def fsdp_version(self, settings: dict[str, Any]) -> Any:
        """Which FSDP ``settings`` (``fsdp_config``) ask for; None where it depends on a version that is not known."""
        return settings.get("version", settings.get("fsdp_version", defaults.fsdp_version(self.libraries)))

    @property
    def cuts_nothing(self) -> bool:
        """Whether ``max_length`` is written down as null, which is no default."""
        return self.setup.training.max_length is None and "training.max_length" in self.setup.origins


class Taken(Resolved):
    """A Setup as it is run here: with the installed libraries, and what cannot be known taken as if it were silent.

    Who builds the model, its batches or its step has to go on; what is taken as given is said beside the result.
    """

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup, Libraries.installed())

    def is_unknown(self, path: str) -> bool:
        """Nothing is: see the class."""
        return False

    @property
    def precision(self) -> str:
        """Of the trainer's autocast: ``bf16``, ``fp16`` or ``no``."""
        return "bf16" if self["training.bf16"] else "fp16" if self["training.fp16"] else "no"


_OF_TRANSFORMERS = ("model.dtype", "training.optim")


def with_asked_versions(setup: Setup) -> Setup:
    """The setup with the defaults that the versions decide which its project asks for, each saying so.

    What a range of versions leaves open is unknown; what other packages decide as well stays silent.
    """
    if not setup.versions:
        return setup
    each = [Resolved(setup, libraries) for libraries in Libraries().asked_for(setup.versions).each()]
    values: dict[str, dict[str, Any]] = {}
    origins: dict[str, Origin] = {}
    for path, row in DEFAULTS.items():
        package = "transformers" if path in _OF_TRANSFORMERS else "trl"
        if not callable(row) or package not in setup.versions or not each[0].is_silent(path):
            continue
        found = [resolved[path] for resolved in each]
        section, _, field = path.partition(".")
        by = setup.versions[package].by
        if any(value != found[0] for value in found):
            note = f"The default depends on the version of {_NAMES[package]}, and {by}."
            origins[path] = Origin(source="unknown", note=note)
        elif found[0] is not None and found[0] != Resolved(setup)[path]:
            values.setdefault(section, {})[field] = found[0]
            origins[path] = Origin(source="library_default", note=f"default of {_NAMES[package]}, of which {by}")
    changed = {name: getattr(setup, name).model_copy(update=fields) for name, fields in values.items()}
    return setup.model_copy(update=changed | {"origins": setup.origins | origins}) if origins else setup


_NAMES = {"transformers": "transformers", "trl": "TRL"}


def either(*values: bool | None) -> bool | None:
    """True where one is, None where none is and one is unknown."""
    known = [value for value in values if value is not None]
    if any(known):
        return True
    return False if len(known) == len(values) else None


def _four_bit(resolved: Resolved) -> bool:
    """A native config asks for QLoRA by being one; nothing else loads in 4-bit unless it is asked to."""
    plain = resolved["quantization.load_in_8bit"] is False and resolved["quantization.backend"] == "bitsandbytes"
    return resolved.setup.dialect == "native" and plain


def _of_bitsandbytes(name: str) -> Callable[[Resolved], Any]:
    """A default of bitsandbytes' is none of another backend."""

    def default(resolved: Resolved) -> Any:
        is_its_own = resolved["quantization.backend"] in ("bitsandbytes", None)
        return defaults.BITS_AND_BYTES[name] if is_its_own else None

    return default


def _checkpointing(resolved: Resolved) -> bool | None:
    """Where the switch is silent, prepare_model_for_kbit_training turns checkpointing on for a quantized base."""
    if resolved.prepared_by_trainer:  # it prepares with its own switch
        return resolved.trainer_checkpoints
    prepared = resolved["training.prepare_for_kbit_training"] and resolved.quantized
    return either(resolved.trainer_checkpoints, prepared)


def _prepared(resolved: Resolved) -> bool | None:
    if not resolved.prepared_by_trainer or resolved.quantized is False:
        return resolved.quantized
    prepares = defaults.prepares(resolved.method, resolved.libraries)
    # TRL before 0.26 left a base alone whose shards begin on the CPU or on meta ("is_sharded_qlora").
    sharded = resolved.setup.training.fsdp or resolved.setup.training.deepspeed
    return None if prepares and sharded else prepares


def _learning_rate(resolved: Resolved) -> float | None:
    return defaults.learning_rate(resolved.trainer, resolved.method, resolved.libraries)


def _max_length(resolved: Resolved) -> int | None:
    if resolved.cuts_nothing:
        return None
    return defaults.max_length(resolved.trainer, resolved.method, resolved.libraries)


def _dtype(resolved: Resolved) -> str | None:
    return defaults.model_dtype(resolved.libraries, resolved.quantized)


def _bf16(resolved: Resolved) -> bool | None:
    return defaults.bf16(resolved.trainer, resolved.method, resolved.libraries, resolved["training.fp16"])


DEFAULTS: dict[str, Any] = {
    "model.trust_remote_code": False,
    "model.dtype": _dtype,
    "model.use_cache": lambda resolved: defaults.use_cache(resolved.libraries),
    "quantization.backend": "bitsandbytes",
    "quantization.load_in_4bit": _four_bit,
    "quantization.load_in_8bit": False,
    **{f"quantization.{name}": _of_bitsandbytes(name) for name in defaults.BITS_AND_BYTES if name != "load_in_8bit"},
    **{f"lora.{name}": value for name, value in defaults.LORA.items()},
    "training.trainer": "transformers",
    "training.method": "sft",
    "training.prepare_for_kbit_training": _prepared,
    "training.learning_rate": _learning_rate,
    "training.optim": lambda resolved: defaults.optimizer(resolved.libraries),
    "training.bf16": _bf16,
    "training.gradient_checkpointing": _checkpointing,
    "training.max_length": _max_length,
    "training.eval_strategy": "no",
    **{f"training.{name}": value for name, value in defaults.TRAINING.items()},
    "hardware.count": 1,
}
"""Canonical path → what silence stands for: a value, or a function of what else is resolved. The one table of them."""

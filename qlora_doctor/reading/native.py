"""The native dialect: the sections of Setup, with the names that the libraries use."""

from __future__ import annotations

from typing import Any, NoReturn

from pydantic import BaseModel

from ..core.closest import closest
from ..core.errors import ConfigError
from ..core.place import Place
from ..core.pointers import dotted, escaped
from ..setup.setup import SECTIONS, KeyNote, NamedData, Origin, Setup
from ..setup.traits import NATIVE
from ..tables import known_arguments
from ..tables.keys import MOST_SUGGESTIONS, MOST_UNKNOWN_KEYS
from .dialects.named_data import kind_of
from .document import Document
from .lenient import Mismatch, describe_type, describe_value, read_as

name = "native"
TRAITS = NATIVE

ALIASES: dict[str, str] = {
    "model.torch_dtype": "model.dtype",
    "model.pretrained_model_name_or_path": "model.name_or_path",
    "training.max_seq_length": "training.max_length",
    "training.activation_checkpointing": "training.gradient_checkpointing",
    "training.activation_checkpointing_kwargs": "training.gradient_checkpointing_kwargs",
    "training.use_cache": "model.use_cache",
}
"""Other names of the same thing, as canonical paths."""

SCHEMA_KEY = "$schema"
"""Names the schema for editors; it says nothing about the run."""

PASSED_ON = {
    "model": known_arguments.MODEL,
    "quantization": known_arguments.QUANTIZATION,
    "lora": known_arguments.LORA,
    "training": known_arguments.TRAINING,
}
_DTYPES = {"bf16": "bfloat16", "fp16": "float16", "half": "float16", "fp32": "float32", "float": "float32"}
_DTYPE_FIELDS = ("dtype", "bnb_4bit_compute_dtype", "bnb_4bit_quant_storage")
_COMPUTE = ("bfloat16", "float16", "float32")
CHOICES: dict[str, tuple[str, ...]] = {
    "model.dtype": (*_COMPUTE, "auto"),
    "model.task": (
        "causal-lm",
        "image-text-to-text",
        "seq2seq-lm",
        "speech-seq2seq",
        "multimodal-lm",
        "sequence-classification",
        "token-classification",
        "multiple-choice",
        "question-answering",
    ),
    "quantization.bnb_4bit_quant_type": ("nf4", "fp4"),
    "quantization.bnb_4bit_compute_dtype": _COMPUTE,
    "quantization.bnb_4bit_quant_storage": ("uint8", "int8", "float16", "bfloat16", "float32", "float64"),
    "lora.bias": ("none", "all", "lora_only"),
}
DTYPE_CHOICES = frozenset(path for path in CHOICES if path.rpartition(".")[2] in _DTYPE_FIELDS)
"""Paths of which every trainer hands the word to torch."""
AT_LEAST: dict[str, float] = {
    "lora.r": 1,
    "lora.lora_dropout": 0,
    "training.per_device_train_batch_size": 1,
    "training.gradient_accumulation_steps": 1,
    "training.learning_rate": 0,
    "training.max_length": 1,
    "model.num_labels": 1,
    "hardware.count": 1,
    "budgets.step_seconds": 0,
}
_SIZES = ("hardware.memory", "budgets.peak_memory")
NO_MEANS_FALSE = {"training.eval_strategy", "training.save_strategy"}
"""Where ``no`` is a word that the trainer knows, and a truth value to YAML 1.1."""


def recognise(document: Document) -> float:
    """How sure it is that a document is a native config, 0…1."""
    data = document.data
    if not isinstance(data, dict) or "model" not in data:
        return 0.0
    sections = {key for key in data if key in SECTIONS}
    if len(sections) == 1 and len(data.keys() - {SCHEMA_KEY}) > 2:
        return 0.0
    strangers = data.keys() - SECTIONS.keys() - {SCHEMA_KEY}
    known = total = 0
    for section in sections - {"model"}:
        if not isinstance(data[section], dict):
            total += bool(strangers)  # beside others it is another tool's key of this name
            continue
        for key in data[section]:
            total += 1
            known += _is_known(section, str(key))
    model = data["model"]
    if isinstance(model, dict):
        if not {"name_or_path", "pretrained_model_name_or_path", "adapter"} & model.keys():
            return 0.1
    elif not isinstance(model, str):
        return 0.4  # a native config with a mistake in its first line reads better than an unknown file
    share = known / total if total else 1.0
    return round(max(0.0, share * (1 - len(strangers) / len(data))), 3)


def read(document: Document) -> Setup:
    """A native document → Setup.

    Raises:
        ConfigError: it is no mapping, names no model, or a value has the wrong type.
    """
    return _Reader(document).read()


def setup_from_mapping(data: dict[str, Any]) -> Setup:
    """A mapping with the native sections → Setup; its places have pointers only.

    Raises:
        ConfigError: as for ``read``.
    """
    return read(Document(None, "", "json", data))


class _Reader:
    """Reads one document; collects what is worth knowing about its keys on the way."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.file = str(document.path) if document.path is not None else None
        self.values: dict[str, dict[str, Any]] = {section: {} for section in SECTIONS}
        self.extras: dict[str, dict[str, Any]] = {section: {} for section in PASSED_ON}
        self.origins: dict[str, Origin] = {}
        self.unknown: list[KeyNote] = []
        self.removed: list[KeyNote] = []
        self.string_numbers: list[str] = []

    def read(self) -> Setup:
        data = self.document.data
        if not isinstance(data, dict):
            what = "holds no mapping" if data is not None else "holds nothing but comments"
            raise ConfigError(f"{self.file or 'The config'} {what}; a config starts with `model:`.")
        for key, value in data.items():
            if key != SCHEMA_KEY:
                self._section(str(key), value)
        model = self.values["model"]
        if not model.get("name_or_path") and not model.get("adapter"):
            raise ConfigError(
                f"{self.file or 'The config'} names no model.",
                remedy="Add `model:` with a hub id or the path of a model folder.",
                place=self._place("/model"),
            )
        task = known_arguments.TASK_OF_PEFT.get(str(self.values["lora"].get("task_type")))
        if task is not None and not model.get("task") and not model.get("model_class"):
            model["task"], self.origins["model.task"] = task, self._origin("/lora/task_type")
        sections: dict[str, Any] = {section: self._model(section) for section in SECTIONS}
        # model_construct: every value was read above, and building pydantic's validators would cost more than the rest.
        setup = Setup.model_construct(
            file=self.file,
            origins=self.origins,
            unknown_keys=self.unknown,
            removed_keys=self.removed,
            duplicate_keys=[dotted(pointer) for pointer in self.document.duplicates],
            string_numbers=list(dict.fromkeys(self.string_numbers)),
            named_data=self._named_data(),
            **sections,
        )
        setup._locate = self.document.place if self.file is not None else None
        setup._document = self.document
        return setup

    def _named_data(self) -> list[NamedData]:
        """The samples to train on; those to evaluate on are not looked at."""
        told = {"train": None, "eval": "Samples for evaluation are not looked at."}
        return [
            NamedData.model_construct(
                role=role,
                kind=kind_of(name),
                name=name,
                key=f"data.{role}",
                place=Place(file=self.file, pointer=f"/data/{role}"),
                not_followed=why,
            )
            for role, why in told.items()
            if (name := self.values["data"].get(role))
        ]

    def _section(self, section: str, value: Any) -> None:
        if section not in SECTIONS:
            self._unknown_key(section, None)
            return
        pointer = f"/{section}"
        self.origins[section] = self._origin(pointer)
        if section == "model" and isinstance(value, str):
            value, pointers = {"name_or_path": value}, {"name_or_path": pointer}
        else:
            pointers = {}
        if value is None:
            return
        if not isinstance(value, dict):
            self._wrong(section, "a mapping" + (" or a text" if section == "model" else ""), value, pointer)
        for key, inner in value.items():
            key = str(key)
            self._key(section, key, inner, pointers.get(key) or f"{pointer}/{escaped(key)}")

    def _key(self, section: str, key: str, value: Any, pointer: str) -> None:
        written = f"{section}.{key}"
        path = ALIASES.get(written, written)
        target, _, field = path.partition(".")
        if field in SECTIONS[target].model_fields and field != "extra":
            self.origins[path] = self._origin(pointer)
            self.values[target][field] = self._checked(path, value, pointer)
        elif key in PASSED_ON.get(section, ()):
            self.extras[section][key] = value
            self.origins[written] = self._origin(pointer)
        elif written in known_arguments.RENAMED:
            new, since = known_arguments.RENAMED[written]
            self.removed.append(KeyNote(key=written, closest=new, note=since))
            self.origins[written] = self._origin(pointer)
        else:
            self._unknown_key(key, section)

    def _unknown_key(self, key: str, section: str | None) -> None:
        if len(self.unknown) >= MOST_UNKNOWN_KEYS:
            return
        closest, note = _closest(key, section) if len(self.unknown) < MOST_SUGGESTIONS else (None, None)
        written = f"{section}.{key}" if section else key
        self.unknown.append(KeyNote(key=written, closest=closest, note=note))
        pointer = f"/{section}/{escaped(key)}" if section else f"/{escaped(key)}"
        self.origins[written] = self._origin(pointer)

    # -- values

    def _checked(self, path: str, value: Any, pointer: str) -> Any:
        """The value as the Setup takes it, or a ConfigError that says what stands there instead."""
        section, _, field = path.partition(".")
        if value is None:
            return None
        if value is False and path in NO_MEANS_FALSE:
            return "no"
        annotation = SECTIONS[section].model_fields[field].annotation
        if isinstance(value, str) and field in _DTYPE_FIELDS:
            value = value.removeprefix("torch.")
            value = _DTYPES.get(value, value)
        if path in CHOICES and value not in CHOICES[path]:
            self._wrong(path, f"one of {', '.join(CHOICES[path])}", value, pointer)
        try:
            read = read_as(annotation, value)
        except Mismatch:
            self._wrong(path, describe_type(annotation), value, pointer)
        if isinstance(value, str) and isinstance(read, int | float) and not isinstance(read, bool):
            self.string_numbers.append(path)
        if path in _SIZES or path == "hardware.gpu":
            self._hardware(path, read, pointer)
        least = AT_LEAST.get(path)
        if least is not None and isinstance(read, int | float) and read < least:
            self._wrong(path, f"at least {least:g}", value, pointer)
        return read

    def _hardware(self, path: str, value: Any, pointer: str) -> None:
        """A card or a memory size that nobody can read is reported here, where its place is known."""
        from ..tables.cards import UnknownCard, find_card, parse_memory

        try:
            find_card(value) if path == "hardware.gpu" else parse_memory(value)
        except UnknownCard as error:
            closest = f" Closest are {', '.join(error.closest)}." if error.closest else ""
            remedy = f"Name a known card, or give its memory as `hardware.memory: 24GiB`.{closest}"
            sentence = f"{path} {value!r} is not a known card."
            raise ConfigError(sentence, remedy=remedy, place=self._place(pointer)) from None
        except ValueError:
            self._wrong(path, "a memory size such as 24GiB, or a number of bytes", value, pointer)

    def _model(self, section: str) -> BaseModel:
        values = {key: value for key, value in self.values[section].items() if value is not None}
        if section in self.extras:
            values["extra"] = self.extras[section]
        return SECTIONS[section].model_construct(**{**_defaults(SECTIONS[section]), **values})

    # -- places and sentences

    def _origin(self, pointer: str) -> Origin:
        place = Place.model_construct(file=self.file, pointer=pointer)
        return Origin.model_construct(source="explicit", place=place)

    def _place(self, pointer: str) -> Place:
        return self.document.place(pointer) if self.file is not None else Place(pointer=pointer)

    def _wrong(self, path: str, expected: str, value: Any, pointer: str) -> NoReturn:
        raise ConfigError(f"{path} must be {expected}, found {describe_value(value)}.", place=self._place(pointer))


def _defaults(section: type[BaseModel]) -> dict[str, Any]:
    return {name: field.get_default(call_default_factory=True) for name, field in section.model_fields.items()}


def _is_known(section: str, key: str) -> bool:
    return (
        key in SECTIONS[section].model_fields
        or f"{section}.{key}" in ALIASES
        or f"{section}.{key}" in known_arguments.RENAMED
        or key in PASSED_ON.get(section, ())
    )


def _closest(key: str, section: str | None) -> tuple[str | None, str | None]:
    """(closest known path, remark) for a key that means nothing where it stands."""
    for other, fields in SECTIONS.items():
        if other != section and key in fields.model_fields and key != "extra":
            return f"{other}.{key}", f"{key} belongs to the section {other}."
    if section is None:
        found = closest(key, SECTIONS)
        return (found[0] if found else None), None
    names = [*SECTIONS[section].model_fields, *PASSED_ON.get(section, ())]
    names += [alias.partition(".")[2] for alias in ALIASES if alias.startswith(section)]
    found = closest(key, names)
    return (f"{section}.{found[0]}" if found else None), None


def other_spellings(path: str) -> list[str]:
    """Further spellings that the reader brings to one of the choices."""
    if path.rpartition(".")[2] not in _DTYPE_FIELDS:
        return []
    choices = [choice for choice in CHOICES[path] if choice != "auto"]
    return [f"torch.{choice}" for choice in choices] + [old for old, new in _DTYPES.items() if new in choices]

"""A Setup in another dialect: a series of edits on an almost empty file, each held against that dialect's reader.

So a converted file cannot mean something else than its reader says, and what it cannot say is known by name.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ..core.errors import UsageError
from ..core.pointers import join_pointer
from ..core.report import PatchOperation
from ..reading.dialects import dialect_named
from ..reading.document import Document
from ..setup.hf_names import in_hf_terms
from ..setup.meaning import Meaning, meanings, unknowns
from ..setup.setup import SECTIONS, Setup
from ..tables import known_arguments
from ..tables.keys import key_list
from .express import path_of_key, values_of, written
from .extras import Extras, extras_of, strangers
from .patch import CannotEdit
from .python_script import DATA_FILES, NO_MODEL, script

_FIRST = ("quantization.load_in_4bit", "quantization.load_in_8bit", "quantization.backend", "training.bf16",
          "training.fp16", "quantization.bnb_4bit_compute_dtype", "model.dtype", "lora.lora_dropout")  # fmt: skip
"""Values that others follow from come first."""
_MOST_NAMED = 6
_WHY = {
    (
        "axolotl",
        "data.train",
    ): "axolotl wants the type of a dataset, and the source does not say how samples are formatted",
    ("llamafactory", "data.train"): "LLaMA-Factory takes a name from its dataset_info.json",
}
_NATIVE_ONLY = ("hardware", "budgets")


@dataclass(frozen=True)
class Lost:
    """Something that the target cannot say.

    Attributes:
        key: as the source file calls it.
        value: None where it is not known.
        why: what the target does instead, or why it is not known.
    """

    key: str
    value: Any
    why: str

    def __str__(self) -> str:
        shown = json.dumps(self.value, ensure_ascii=False, default=str) if self.value is not None else None
        return f"{self.key}{f' = {shown}' if shown is not None else ''}: {self.why.rstrip('.')}."


@dataclass(frozen=True)
class Converted:
    """A file in the target dialect, and what it does not carry."""

    text: str
    lost: tuple[Lost, ...]


def convert(setup: Setup, to: str) -> Converted:
    """The same setup in another dialect.

    Args:
        setup: what the source file means.
        to: one of ``TARGETS``.

    Raises:
        UsageError: there is no such target.
    """
    if to not in TARGETS:
        raise UsageError(f"There is no target {to!r}; the targets are {', '.join(TARGETS)}.")
    setup = in_hf_terms(setup)
    text, lost = TARGETS[to](setup)
    return Converted(text, (*lost, *_never_known(setup), *_not_translated(setup)))


def _never_known(setup: Setup) -> Iterator[Lost]:
    for why, paths in unknowns(setup).items():
        more = f" and {len(paths) - _MOST_NAMED} more" if len(paths) > _MOST_NAMED else ""
        yield Lost(", ".join(paths[:_MOST_NAMED]) + more, None, f"not known and left out. {why}")


def _not_translated(setup: Setup) -> Iterator[Lost]:
    for key, value in strangers(setup).items():
        if key not in known_arguments.TRAINING or not setup.traits.hf_names:
            yield Lost(key, value, "qlora-doctor does not translate this key")


# -- into a config file


def _to_config(dialect: str, keys: str | None, start: Callable[[Setup], dict[str, Any]]) -> Callable[[Setup], Any]:
    def write(setup: Setup) -> tuple[str, list[Lost]]:
        target = _Target(setup, dialect, start(setup))
        target.say_everything()
        lost = target.compare()
        lost += target.pass_on(extras_of(setup), key_list(keys).names if keys is not None else None)
        source = Path(setup.file).name if setup.file is not None else setup.dialect
        return _text(target.now, f"Converted by qlora-doctor from {source} ({setup.dialect})."), lost

    return write


def _named(meaning: Meaning) -> str:
    """As the source file calls it; what it does not say itself is marked."""
    return meaning.key if meaning.explicit else f"{meaning.key} (a default of the source)"


class _Target:
    """A file that is being written."""

    def __init__(self, setup: Setup, dialect: str, data: dict[str, Any]) -> None:
        self.wanted = {
            path: meaning
            for path, meaning in meanings(setup).items()
            if dialect == "native" or path.partition(".")[0] not in _NATIVE_ONLY
        }
        self.dialect = dialect
        self.now = self._read(data)
        self._why: dict[str, str] = {}
        self._otherwise: set[str] = set()
        self._unsaid = [
            Lost(_named(meaning), meaning.value, f"{dialect} has no place for it")
            for path, meaning in meanings(setup).items()
            if path not in self.wanted and (meaning.explicit or path in setup.origins)
        ]

    def _read(self, data: Mapping[str, Any]) -> Setup:
        return dialect_named(self.dialect).read(Document(None, "", "yaml", dict(data)))

    def say_everything(self) -> None:
        """Write each value that the target does not stand for by itself, and those that the source says itself."""
        paths = [*(path for path in _FIRST if path in self.wanted), *(p for p in self.wanted if p not in _FIRST)]
        for _ in range(2):  # a value that was right may have followed a later one
            for path in paths:
                meaning = self.wanted[path]
                origin = self.now.origins.get(path)
                said = origin is not None and origin.source == "explicit"
                if not self._stands(path, meaning) or (meaning.explicit and not said):
                    self._say(path, meaning)

    def _stands(self, path: str, meaning: Meaning) -> bool:
        found = meanings(self.now).get(path)
        return found is not None and _alike(found.value, meaning.value)

    def _say(self, path: str, meaning: Meaning) -> None:
        value = _whole(meaning.value)
        operation = PatchOperation(op="add", path=join_pointer(path.split(".")), value=value)
        try:
            _, self.now = written(self.now, path, operation, [path])
        except CannotEdit as error:
            self._why[path] = str(error)
            if path == "training.warmup_ratio":
                self._warm_up(value)

    def _warm_up(self, share: Any) -> None:
        """transformers 5 takes the share of all steps as warmup_steps."""
        operation = PatchOperation(op="add", path="/training/warmup_steps", value=share)
        try:
            _, self.now = written(self.now, "training.warmup_steps", operation, ["training.warmup_steps"])
        except CannotEdit:
            return
        self._otherwise.add("training.warmup_ratio")

    def compare(self) -> list[Lost]:
        """What the finished file does not say, or says otherwise."""
        found = meanings(self.now)
        lost = list(self._unsaid)
        for path, meaning in self.wanted.items():
            there = found.get(path)
            if there is not None and _alike(there.value, meaning.value):
                continue
            if (path == "training.trainer" and not meaning.explicit) or path in self._otherwise:
                continue  # the target is a trainer of its own
            why = _WHY.get((self.dialect, path)) or self._why.get(path, "it follows from another key")
            if there is not None:
                why += f"; there it is {json.dumps(there.value, default=str)}"
            lost.append(Lost(_named(meaning), meaning.value, why))
        cut = found.get("training.max_length")
        if cut is not None and "training.max_length" not in self.wanted:
            lost.append(Lost("training.max_length", None, f"the source does not say it, and here it is {cut.value}"))
        return lost

    def pass_on(self, extras: Extras, names: frozenset[str] | None) -> list[Lost]:
        """Arguments under their libraries' own names, where the target takes them."""
        lost = []
        document: Document | None = self.now._document
        assert document is not None
        data = document.data
        if names is None:
            for section, values in {"training": extras.training, **extras.others}.items():
                if values:
                    head = data.get(section)
                    data[section] = {**({"name_or_path": head} if isinstance(head, str) else head or {}), **values}
        else:
            for key, value in extras.training.items():
                if key in names and key not in data:
                    data[key] = value
                else:
                    lost.append(Lost(f"training.{key}", value, f"{self.dialect} has no such key"))
            lost += [
                Lost(f"{section}.{key}", value, f"{self.dialect} has no such key")
                for section, values in extras.others.items()
                for key, value in values.items()
            ]
        self.now = self._read(data)
        return lost


def _whole(value: Any) -> Any:
    """A whole number without its ``.0``: some parsers take 16.0 for no rank."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _alike(one: Any, other: Any) -> bool:
    """True where two values mean the same; a list of one name is that name."""
    if isinstance(one, list) and isinstance(other, str):
        one, other = other, one
    if isinstance(one, str) and isinstance(other, list):
        return other == [one]
    return bool(one == other) and isinstance(one, bool) == isinstance(other, bool)


# -- what a file of each dialect begins with


def _name(setup: Setup) -> str:
    return setup.model.name_or_path or NO_MODEL


def _native_start(setup: Setup) -> dict[str, Any]:
    return {"model": _name(setup)}


def _axolotl_start(setup: Setup) -> dict[str, Any]:
    known = {path: meaning.value for path, meaning in meanings(setup).items()}
    start: dict[str, Any] = {
        "base_model": _name(setup),
        "adapter": "lora",
        # without these axolotl stops, or hands PEFT nothing
        "lora_r": known.get("lora.r"),
        "lora_alpha": known.get("lora.lora_alpha"),
        "micro_batch_size": known.get("training.per_device_train_batch_size", 1),
        "gradient_accumulation_steps": known.get("training.gradient_accumulation_steps", 1),
    }
    start = {key: _whole(value) for key, value in start.items() if value is not None}
    kind = {"text": "completion", "messages": "chat_template"}.get(str(setup.data.format))
    if setup.data.train is not None and kind is not None:
        field = {"field": setup.data.text_field} if kind == "completion" and setup.data.text_field else {}
        start["datasets"] = [{"path": setup.data.train, "type": kind, **field}]
    return start


def _llamafactory_start(setup: Setup) -> dict[str, Any]:
    return {"model_name_or_path": _name(setup), "stage": "sft", "do_train": True, "finetuning_type": "lora"}


def _trl_start(setup: Setup) -> dict[str, Any]:
    start: dict[str, Any] = {"model_name_or_path": _name(setup), "use_peft": True}
    if setup.training.method in (None, "sft"):
        start["packing"] = bool(setup.training.packing)  # tells SFT from TRL's other trainers
    kind = DATA_FILES.get(Path(setup.data.train).suffix.lower()) if isinstance(setup.data.train, str) else None
    if kind is not None:  # dataset_name takes a folder or a hub id
        start["datasets"] = [{"path": kind, "data_files": setup.data.train}]
    return start


# -- text


def _text(setup: Setup, head: str) -> str:
    """YAML with a group of lines for each section."""
    document: Document | None = setup._document
    assert document is not None
    order = list(values_of(setup))
    groups: dict[str, list[tuple[int, str]]] = {}
    for key, value in document.data.items():
        if setup.dialect == "native":
            section, rank = key, 0
            value = _in_order(key, value)
        else:
            path = _path(setup, key, value)
            section = _GROUPS.get(key) or (path.partition(".")[0] if path is not None else "training")
            rank = -1 if key in _GROUPS else order.index(path) if path is not None else len(order)
        dumped = yaml.dump({key: value}, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)
        groups.setdefault(section, []).append((rank, dumped))
    known = [section for section in SECTIONS if section in groups]
    ordered = [*known, *(section for section in groups if section not in SECTIONS)]
    texts = ["".join(text for _, text in sorted(groups[section], key=lambda each: each[0])) for section in ordered]
    return f"# {head}\n" + "\n".join(texts)


def _in_order(section: str, values: Any) -> Any:
    """The values of a native section in the order of its documentation."""
    if not isinstance(values, dict):
        return values
    fields = list(SECTIONS[section].model_fields)
    return dict(sorted(values.items(), key=lambda pair: fields.index(pair[0]) if pair[0] in fields else len(fields)))


_GROUPS = {"adapter": "quantization", "use_peft": "lora", "finetuning_type": "lora", "plugins": "training",
           "stage": "training", "do_train": "training", "datasets": "data"}  # fmt: skip


def _path(setup: Setup, key: str, value: Any) -> str | None:
    """The path that a key, or the first one below it, sets."""
    inner = f"{key}.{next(iter(value))}" if isinstance(value, dict) and value else key
    return path_of_key(setup, key) or path_of_key(setup, inner)


class _Dumper(yaml.SafeDumper):
    """Blocks whose lists are indented, and floats that YAML 1.1 reads as such."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        """Indent lists below their key."""
        super().increase_indent(flow, False)

    def ignore_aliases(self, data: Any) -> bool:
        """Write a value out wherever it stands."""
        return True


def _to_python(setup: Setup) -> tuple[str, list[Lost]]:
    text, unsaid = script(setup, extras_of(setup))
    return text, [Lost(key, value, why) for key, value, why in unsaid]


TARGETS: dict[str, Callable[[Setup], tuple[str, list[Lost]]]] = {
    "native": _to_config("native", None, _native_start),
    "axolotl": _to_config("axolotl", "axolotl", _axolotl_start),
    "llamafactory": _to_config("llamafactory", "llamafactory", _llamafactory_start),
    "trl": _to_config("trl", "trl", _trl_start),
    "python": _to_python,
}
"""Dialects that can be written."""

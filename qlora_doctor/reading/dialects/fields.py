"""The engine of every dialect: a table of keys, read into a Setup with the origin of each value.

A dialect's module says which of its keys means which canonical path (``Table``), what its trainer takes where a key is
absent (``Reading.default``), and what nobody can know from the file (``Reading.leave``). Everything else is here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import cached_property, lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pydantic import BaseModel

from ...core.errors import ConfigError
from ...core.place import Place
from ...core.pointers import dotted, escaped
from ...setup.setup import SECTIONS, Asked, Change, KeyNote, Origin, OwnKey, Remark, Setup, Source
from ...setup.traits import Traits
from ...tables.conditions import Condition
from ...tables.keys import MOST_SUGGESTIONS, MOST_UNKNOWN_KEYS, KeyList
from ..document import Document
from ..interpolation import interpolated
from ..lenient import Mismatch, describe_value, read_as
from ..native import CHOICES, DTYPE_CHOICES
from .named_data import TEMPLATE_KEYS, keys_beside, named_in
from .values import Unreadable, is_own_word, is_template

Table = Mapping[str, "str | tuple[str, Callable[[Any], Any]]"]
"""Key of the dialect (dotted below the top) → canonical path, with a conversion where the value is written otherwise.

Where several keys mean the same path, the first row that the file sets counts.
"""

Writing = Callable[[Any, Mapping[str, Any]], Mapping[str, Any]]
"""How a dialect writes what its reader concludes from several keys or from words of its own: canonical value and the
file's data → what to write at own keys (dotted), None to take a key away; empty where the reader's own tables do.

A dialect's module has them in ``WRITINGS`` by canonical path. What they give is held against the reader.
"""

SCRIPT_DECIDES = "The file does not say; the script that reads it decides."


_UNKNOWN = Traits()


class Reading:
    """One file on its way to a Setup.

    Attributes:
        data: the file's mapping.
        version: whose defaults are meant, for example ``axolotl 0.18``.
        changes, stored_keys: what ``Setup`` has under these names.
        stops_at_unknown_keys: the same.
        by_omegaconf: see ``read_by_omegaconf``.
        truths_are_numbers: pydantic reads the file, and takes true for 1 and false for 0 where a number stands.
    """

    def __init__(
        self,
        document: Document,
        dialect: str,
        version: str,
        *,
        traits: Traits = _UNKNOWN,
        typed: bool = True,
        plain_data: bool = False,
        own_words: bool = False,
    ) -> None:
        """Begin to read a document.

        Args:
            document: what the file holds.
            dialect: the dialect's name.
            version: the trainer and its version, as notes say it.
            traits: of the dialect's trainer.
            typed: the trainer refuses a value of the wrong type; otherwise such a value is called unknown.

            own_words: a script that is not seen turns words such as ``auto`` into values.
            plain_data: the trainer reads samples as TRL does; otherwise it formats them by templates of its own, so
                that its samples cannot be looked at here.

        Raises:
            ConfigError: the document is no mapping.
        """
        if not isinstance(document.data, dict):
            raise ConfigError(f"{document.path or 'The config'} holds no mapping, as a {dialect} config does.")
        self.document = document
        self.dialect = dialect
        self.traits = traits
        self.version = version
        self.typed = typed
        self.own_words = own_words
        self.plain_data = plain_data
        self.data: dict[str, Any] = document.data
        self.file = str(document.path) if document.path is not None else None
        self._values: dict[str, dict[str, Any]] = {section: {} for section in SECTIONS}
        self._origins: dict[str, Origin] = {}
        self._unknown_keys: list[KeyNote] = []
        self._removed_keys: list[KeyNote] = []
        self._deprecated_keys: list[KeyNote] = []
        self._remarks: list[Remark] = []
        self.changes: list[Change] = []
        self._pointers: dict[str, str] = {}
        self.stored_keys: dict[str, bool] = {}
        self.stops_at_unknown_keys = False
        self.by_omegaconf = False
        self.truths_are_numbers = False
        self._tables: list[tuple[str, Table]] = []
        self._brought_about: dict[str, dict[str, None]] = {}

    # -- the file's side

    def read_by_omegaconf(self) -> None:
        """OmegaConf reads the file: it resolves ``${key}`` within it, and refuses keys that stand twice."""
        self.by_omegaconf = True
        if "${" in self.document.text:
            self.data = interpolated(self.document.data)

    def get(self, key: str, default: Any = None) -> Any:
        """The value at a dotted key; ``default`` where it is absent or null."""
        value, _ = self._find(key)
        return default if value is None else value

    def has(self, key: str) -> bool:
        """True where the file sets the key to something other than null."""
        return self._find(key)[0] is not None

    def written(self, key: str) -> bool:
        """True where the key stands in the file, be it null."""
        return self._find(key)[1] is not None

    def origin(self, path: str) -> Origin | None:
        """Where the value at a canonical path comes from, so far."""
        return self._origins.get(path)

    def place_of(self, key: str) -> Place | None:
        """Where a dotted key stands; None where it is absent."""
        pointer = self._find(key)[1]
        return Place(file=self.file, pointer=pointer) if pointer is not None else None

    def _find(self, key: str) -> tuple[Any, str | None]:
        """(value, JSON pointer); a key whose own name has dots (``train.lora_rank``) is found as well."""
        if key in self.data:
            return self.data[key], "/" + escaped(key)
        value: Any = self.data
        pointer = ""
        for step in key.split("."):
            if isinstance(value, list) and step.isdigit() and int(step) < len(value):
                value = value[int(step)]
            elif isinstance(value, dict) and step in value:
                value = value[step]
            else:
                return None, None
            pointer += "/" + escaped(step)
        return value, pointer

    # -- the Setup's side

    def take(self, table: Table, prefix: str = "") -> None:
        """Read every key of a table that the file sets."""
        self._tables.append((prefix, table))
        for key, row in table.items():
            path, convert = (row, None) if isinstance(row, str) else row
            if path not in self._origins:
                self._take(prefix + key, path, convert)

    def _take(self, key: str, path: str, convert: Callable[[Any], Any] | None) -> None:
        value, pointer = self._find(key)
        if pointer is None or value is None:
            return
        if path in ("data.train", "data.eval") and not self.plain_data:
            self._set(path, None, "unknown", f"{self.version} formats the samples by templates of its own.", pointer)
            return
        if is_template(value):
            self._set(path, None, "unknown", f"{value} is filled in when the run starts.", pointer)
            return
        if self.own_words and is_own_word(path, value):
            self._set(path, None, "unknown", f"{value!r} is a word that the script turns into a value.", pointer)
            return
        try:
            value = convert(value) if convert is not None else value
            value = self._checked(path, value)
        except Unreadable as error:
            self._refuse(key, path, value, error.expected, pointer)
            return
        if value is not None:
            self._set(path, value, "explicit", None, pointer)

    def _checked(self, path: str, value: Any) -> Any:
        if self.truths_are_numbers and isinstance(value, bool):
            try:
                return checked_value(path, value)
            except Unreadable:
                return checked_value(path, int(value))
        return checked_value(path, value)

    def _refuse(self, key: str, path: str, value: Any, expected: str, pointer: str) -> None:
        sentence = f"{key} must be {expected}, found {describe_value(value)}."
        if self.typed:
            raise ConfigError(sentence, place=self.document.place(pointer) if self.file else Place(pointer=pointer))
        self._set(path, None, "unknown", sentence, pointer)

    def put(self, path: str, value: Any, key: str | None = None, note: str | None = None) -> None:
        """Set a value that a key of the file brings about, in place of what stood at the path.

        Without a key the value is the trainer's own.
        """
        written, pointer = self._find(key) if key is not None else (None, None)
        if key is not None:
            self._brought_about.setdefault(path, {})[key] = None
        source: Source = "explicit" if written is not None else "dialect_default"
        note = note if written is not None or note is not None else f"default of {self.version}"
        if is_template(written):
            self._set(path, None, "unknown", f"{written} is filled in when the run starts.", pointer)
            return
        try:
            self._set(path, checked_value(path, value), source, note, pointer)
        except Unreadable as error:
            self._refuse(key or path, path, value, error.expected, pointer or "")

    def default(self, path: str, value: Any, note: str | None = None) -> None:
        """What the trainer takes where the file is silent."""
        if path not in self._origins:
            said = f"{self.version}: {note}" if note else f"default of {self.version}"
            self._set(path, checked_value(path, value), "dialect_default", said, None)

    def defaults(self, values: Mapping[str, Any]) -> None:
        """Several of the trainer's defaults, by canonical path."""
        for path, value in values.items():
            self.default(path, value)

    def extra(self, section: str, *keys: str) -> None:
        """Pass on keys that Setup does not model, under their own names."""
        found = {key: self.get(key) for key in keys if self.has(key)}
        if found:
            self._values[section]["extra"] = self._values[section].get("extra", {}) | found

    def leave(self, *paths: str, why: str = SCRIPT_DECIDES) -> None:
        """Say of paths that the file does not set that they cannot be known."""
        for path in paths:
            if path not in self._origins:
                self._set(path, None, "unknown", why, None)

    def forget(self, path: str, why: str, key: str | None = None) -> None:
        """Say of a path that it cannot be known, whatever stood there."""
        self._set(path, None, "unknown", why, self._find(key)[1] if key is not None else None)

    def leave_rest(self, *sections: str, why: str = SCRIPT_DECIDES) -> None:
        """Say of all that was not set in these sections that it cannot be known."""
        for section in sections:
            for field in SECTIONS[section].model_fields:
                if field != "extra":
                    self.leave(f"{section}.{field}", why=why)

    def value(self, path: str) -> Any:
        """What stands at a canonical path so far; None where nothing does or it is unknown."""
        section, _, field = path.partition(".")
        return self._values[section].get(field)

    def knows(self, path: str) -> bool:
        """True where the path has a value or is already said to be unknown."""
        return path in self._origins

    def _set(self, path: str, value: Any, source: Source, note: str | None, pointer: str | None) -> None:
        section, _, field = path.partition(".")
        place = Place(file=self.file, pointer=pointer) if pointer is not None else None
        if value is None:
            self._values[section].pop(field, None)
        else:
            self._values[section][field] = value
        self._origins[path] = Origin(source=source, place=place, note=note) if place else _unplaced(source, note)
        if pointer is not None:
            self._pointers[pointer] = path

    def keys_of(self, path: str) -> list[OwnKey]:
        """The dialect's keys that set a canonical path: those of the tables, then those that bring it about."""
        return self._own_keys.get(path, [])

    @cached_property
    def _own_keys(self) -> dict[str, list[OwnKey]]:
        found: dict[str, dict[str, OwnKey]] = {}
        for prefix, table in self._tables:
            for key, row in table.items():
                path, convert = (row, None) if isinstance(row, str) else row
                found.setdefault(path, {}).setdefault(prefix + key, OwnKey(prefix + key, convert))
        for path, keys in self._brought_about.items():
            for key in keys:
                found.setdefault(path, {}).setdefault(key, OwnKey(key))
        return {path: list(keys.values()) for path, keys in found.items()}

    # -- what is worth knowing about the keys themselves

    def remark(self, kind: str, key: str | None, note: str, machine: Condition | None = None) -> None:
        """Keys that together mean something else than they say; kinds are listed in ``facts.config``.

        Args:
            machine: where it is so on some machines only.
        """
        self._remarks.append(Remark(kind=kind, effect="other-meaning", key=key, note=note, machine=machine))
        if key is not None:
            self.point_at(key)

    def refused(
        self,
        kind: str,
        key: str | None,
        note: str,
        about: str = "trainer",
        machine: Condition | None = None,
        identity: str | None = None,
    ) -> None:
        """A combination at which the trainer itself stops.

        Args:
            about: one of the subjects of ``facts.Remark``.
            machine: where it is so on some machines only.
            identity: of a row of ``tables.refusals``, its id.
        """
        named = {} if identity is None else {"id": identity}
        told = Remark(kind=kind, effect="refused", key=key, note=note, about=about, machine=machine, **named)
        self._remarks.append(told)
        if key is not None:
            self.point_at(key)

    def check_keys(self, known: KeyList, *, section: str | None = None, also: Iterable[str] = ()) -> None:
        """Find keys that the trainer ignores or no longer accepts.

        Args:
            known: the complete list of the keys that it reads.
            section: the mapping to look into; None for the top.
            also: further names, known from elsewhere.
        """
        mapping = self.data if section is None else self.get(section)
        if not isinstance(mapping, dict):
            return
        names = set(also)
        for key in mapping:
            if not isinstance(key, str) or key in names or key in known.names:
                continue
            if mapping[key] in (None, False, "") and not known.refuses:
                continue  # nothing is asked for, so nothing is lost
            full = key if section is None else f"{section}.{key}"
            removed = known.removed.get(key)
            if removed is not None:
                note = removed.sentence(known.reader)
                self._removed_keys.append(KeyNote(key=full, closest=removed.now, note=note))
            elif len(self._unknown_keys) >= MOST_UNKNOWN_KEYS:
                break
            else:
                closest = known.closest(key) if len(self._unknown_keys) < MOST_SUGGESTIONS else None
                self._unknown_keys.append(KeyNote(key=full, closest=closest, note=known.verdict(full)))
            self.point_at(full)

    def judge_by_project(self, known: KeyList, implied: Mapping[str, Asked] = MappingProxyType({})) -> None:
        """Take back what the project of the file answers: fields of its own script, versions that it pins.

        Args:
            implied: the versions that a file of this kind is read with, where its project pins none.
        """
        if self.file is None or not (self._unknown_keys or self._removed_keys):
            return
        from ..script_fields import asked_beside, is_gone, may_be_newer, own_fields

        own = own_fields(Path(self.file), {each.key for each in (*self._unknown_keys, *self._removed_keys)})
        asked = {**implied, **asked_beside(Path(self.file))}
        other_version = may_be_newer(asked.get("trl"), known.version)
        self._unknown_keys = [each for each in self._unknown_keys if each.key not in own and not other_version]
        self._removed_keys = [
            each
            for each in self._removed_keys
            if each.key not in own
            and is_gone(getattr(known.removed.get(each.key), "since", None), each.note, asked) is not False
        ]

    def deprecated(self, key: str, now: str | None, note: str, value: str | None = None) -> None:
        """A key (or a value of it) that the trainer still takes and warns of.

        Args:
            now: the key's new name, where there is one.
            value: what to write there, where it is not what stands at the old one.
        """
        self._deprecated_keys.append(KeyNote(key=key, closest=now, note=note, value=value))
        self.point_at(key)

    def removed_key(self, key: str, now: str | None, note: str) -> None:
        """Add a key that the trainer no longer accepts."""
        self._removed_keys.append(KeyNote(key=key, closest=now, note=note))
        self.point_at(key)

    def point_at(self, key: str) -> None:
        """Keep the place of a key of the file, under its own name."""
        pointer = self._find(key)[1]
        if pointer is not None and key not in self._origins:
            self._origins[key] = Origin(source="explicit", place=Place(file=self.file, pointer=pointer))

    def _string_numbers(self) -> list[str]:
        """Keys whose number YAML 1.1 reads as a string, where a number is meant."""
        found = []
        for pointer in self.document.string_numbers:
            path = self._pointers.get(pointer)
            if path is None or isinstance(self.value(path), int | float):
                key = dotted(pointer)
                found.append(key)
                self.point_at(key)
        return found

    def _refuse_repeated(self) -> None:
        """OmegaConf's loader stops at a key that stands twice, whatever its values."""
        for pointer in (*self.document.duplicates, *self.document.repeats):
            key = dotted(pointer)
            note = f"{key} stands twice, and OmegaConf, with which {self.version} reads, stops at that."
            self.refused("repeated-key", key, note, "keys")

    def _head_sections(self) -> None:
        """Give each section the place of the first value that the file sets in it, for what is said of the whole."""
        heads: dict[str, Origin] = {}
        for path, origin in self._origins.items():
            section, _, field = path.partition(".")
            if section in SECTIONS and field and origin.source == "explicit":
                heads.setdefault(section, origin)
        for section, origin in heads.items():
            self._origins.setdefault(section, origin)

    def setup(self) -> Setup:
        """The Setup, when all is said."""
        string_numbers = self._string_numbers()
        if self.by_omegaconf:
            self._refuse_repeated()
        duplicates = [] if self.by_omegaconf else [dotted(pointer) for pointer in self.document.duplicates]
        for key in duplicates:
            self.point_at(key)
        named = named_in(self)
        template = next((key for key in TEMPLATE_KEYS if key in keys_beside(self.dialect) and self.has(key)), None)
        if template is not None and "data.chat_template" not in self._origins:
            self.forget("data.chat_template", f"{self.version} has the template under this name.", template)
        self._head_sections()
        sections: dict[str, Any] = {name: _section(model, self._values[name]) for name, model in SECTIONS.items()}
        setup = Setup(
            dialect=self.dialect,
            traits=self.traits,
            dialect_version=self.version,
            file=self.file,
            origins=self._origins,
            unknown_keys=self._unknown_keys,
            removed_keys=self._removed_keys,
            deprecated_keys=self._deprecated_keys,
            duplicate_keys=duplicates,
            string_numbers=string_numbers,
            remarks=self._remarks,
            changes=self.changes,
            stored_keys=self.stored_keys,
            named_data=named,
            stops_at_unknown_keys=self.stops_at_unknown_keys,
            **sections,
        )
        setup._locate = self.document.place if self.file is not None else None
        setup._document, setup._keys_of = self.document, self.keys_of
        return setup


@lru_cache(maxsize=1024)
def _unplaced(source: Source, note: str | None) -> Origin:
    """An origin that many values share."""
    return Origin(source=source, note=note)


_DEFAULTS: dict[type[BaseModel], dict[str, Any]] = {}


def _section(model: type[BaseModel], values: dict[str, Any]) -> BaseModel:
    defaults = _DEFAULTS.get(model)
    if defaults is None:
        defaults = {name: None for name in model.model_fields if name != "extra"}
        _DEFAULTS[model] = defaults
    extra: dict[str, Any] = {"extra": {}} if "extra" in model.model_fields else {}
    return model.model_construct(**{**defaults, **extra, **values})


def checked_value(path: str, value: Any) -> Any:
    """The value as the Setup takes it.

    Raises:
        Unreadable: it has the wrong type.
    """
    if value is None:
        return None
    section, _, name = path.partition(".")
    try:
        value = read_as(SECTIONS[section].model_fields[name].annotation, value)
    except Mismatch as error:
        raise Unreadable(str(error)) from None
    if path in DTYPE_CHOICES and value not in CHOICES[path]:  # torch knows no such dtype
        raise Unreadable(f"one of {', '.join(CHOICES[path])}")
    return value

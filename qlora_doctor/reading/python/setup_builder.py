"""What was read of a script, on its way to a Setup: values with their places, defaults, and what cannot be known."""

from __future__ import annotations

import ast
from collections.abc import Callable
from typing import Any

from ...setup.setup import SECTIONS, Change, KeyNote, LibraryUse, NamedData, NotFollowed, Origin, Remark, Setup
from ...setup.setup import Source as Whose
from ...setup.traits import Traits
from ...tables.conditions import Condition
from ..dialects.fields import checked_value
from ..dialects.values import Unreadable, is_template
from ..lenient import describe_value
from .provenance import is_outer
from .source import Source, Written
from .training_script import Opaque, flat
from .values import Known, Name, Unknown, Value

_ENUMERATIONS = {
    "TaskType",
    "IntervalStrategy",
    "SchedulerType",
    "OptimizerNames",
    "SaveStrategy",
    "HubStrategy",
    "FSDPOption",
}
"""Enumerations of the libraries whose members stand for the text of their name."""
_UPPER = {"TaskType"}


class SetupBuilder:
    """One script on its way to a Setup."""

    def __init__(self, source: Source, dialect: str, traits: Traits) -> None:
        self.source = source
        self.dialect, self.traits = dialect, traits
        self._values: dict[str, dict[str, Any]] = {section: {} for section in SECTIONS}
        self._origins: dict[str, Origin] = {}
        self._remarks: list[Remark] = []
        self._unknown_keys: list[KeyNote] = []
        self._removed_keys: list[KeyNote] = []
        self.by_card: set[str] = set()
        self.named_data: list[NamedData] = []
        self.changes: list[Change] = []
        self.not_followed: list[NotFollowed] = []
        self.uses: list[LibraryUse] = []

    # -- values

    def take(
        self,
        path: str,
        value: Value | None,
        node: ast.AST | None = None,
        convert: Callable[[Any], Any] | None = None,
        note: str | None = None,
    ) -> None:
        """Write down what the script says at a canonical path; a value that is absent or None is silence.

        Args:
            node: where it is said; the value's own place where that is elsewhere in the file.
            convert: from the script's form to the Setup's.
            note: what is worth knowing about it.
        """
        if value is None or (isinstance(value, Known) and value.data is None):
            if value is not None and is_outer(value.given):
                self.unknown(path, f"The {value.given} is None.", node)
            return
        node = _where(value, node)
        try:
            data = plain(value)
            if is_template(data):
                raise Opaque(f"{data} is filled in before the run.")
            checked = checked_value(path, convert(data) if convert is not None else data)
        except Opaque as opaque:
            self.unknown(path, opaque.why, node)
        except Unreadable as error:
            found = describe_value(value.data) if isinstance(value, Known) else "something else"
            self.unknown(path, f"It must be {error.expected}, found {found}.", node)
        else:
            if checked is None:
                return
            if value.by_card:
                self.by_card.add(path)
            whose: Whose = "dialect_default" if is_outer(value.given) else "explicit"
            notes = [part for part in (value.given, note) if part]
            self.put(path, checked, node, " ".join(notes) or None, whose)

    def put(
        self,
        path: str,
        data: Any,
        node: ast.AST | None = None,
        note: str | None = None,
        whose: Whose = "explicit",
    ) -> None:
        """Set a value."""
        section, _, field = path.partition(".")
        self._values[section][field] = data
        self._origins[path] = Origin(source=whose, place=self.source.place(node), note=note)

    def doubt(self, path: str, why: str) -> None:
        """Say of a value that it cannot be relied upon."""
        origin = self._origins[path]
        self._values[path.partition(".")[0]].pop(path.partition(".")[2], None)
        self._origins[path] = origin.model_copy(update={"source": "unknown", "note": why})

    def silence(self, path: str, node: ast.AST | None, note: str) -> None:
        """Set a value to None that is written as None and means something."""
        self._values[path.partition(".")[0]].pop(path.partition(".")[2], None)
        self._origins[path] = Origin(source="explicit", place=self.source.place(node), note=note)

    def default(self, path: str, data: Any, note: str) -> None:
        """What the library takes where the script is silent."""
        if path not in self._origins:
            self.put(path, data, None, note, "library_default")

    def default_place(self, path: str) -> None:
        """Say of a value that the script chooses it by the card, so that it may be another one on another card."""
        self._origins[path] = Origin(source="dialect_default", note="The script chooses it by the card.")

    def put_default(self, path: str, data: Any, note: str) -> None:
        """What the trainer that reads the config takes where it is silent; None is nothing."""
        if path not in self._origins and data is not None:
            self.put(path, data, None, note, "dialect_default")

    def unknown(self, path: str, why: str, node: ast.AST | None = None) -> None:
        """Say of a path that it cannot be known."""
        section, _, field = path.partition(".")
        self._values[section].pop(field, None)
        self._origins[path] = Origin(source="unknown", place=self.source.place(node), note=why)

    def leave(self, *paths: str, why: str) -> None:
        """Say of paths that were not set that they cannot be known."""
        for path in paths:
            if path not in self._origins:
                self.unknown(path, why)

    def leave_rest(self, *sections: str, why: str) -> None:
        """Say of all that was not set in these sections that it cannot be known."""
        for section in sections:
            names = (field for field in SECTIONS[section].model_fields if field != "extra")
            self.leave(*(f"{section}.{name}" for name in names), why=why)

    def extra(self, section: str, name: str, value: Value) -> None:
        """Pass an argument on under its own name, where it is known."""
        try:
            data = plain(value)
        except Opaque:
            return
        if data is not None:
            self._values[section].setdefault("extra", {})[name] = data

    def value(self, path: str) -> Any:
        """What stands at a path so far."""
        section, _, field = path.partition(".")
        return self._values[section].get(field)

    def knows(self, path: str) -> bool:
        """True where the path has a value or is said to be unknown."""
        return path in self._origins

    def head(self, section: str, node: ast.AST | None) -> None:
        """Give a section a place, for what is said of the whole of it."""
        place = self.source.place(node)
        if place is not None:
            self._origins.setdefault(section, Origin(source="explicit", place=place))

    # -- remarks

    def has_remark(self, kind: str) -> bool:
        """True where this was said already."""
        return any(remark.kind == kind for remark in self._remarks)

    def remark(self, kind: str, node: ast.AST | None, note: str, key: str | None = None) -> None:
        """Something that means something else than it says; kinds are listed in ``facts.config``."""
        self._remarks.append(Remark(kind=kind, effect="other-meaning", key=key, note=note))
        if key is not None and node is not None:
            self._origins.setdefault(key, Origin(source="explicit", place=self.source.place(node)))

    def refused(
        self,
        kind: str,
        note: str,
        key: str,
        about: str = "trainer",
        *,
        machine: Condition | None = None,
        node: ast.AST | None = None,
    ) -> None:
        """A combination at which the library itself stops.

        Args:
            about: one of the subjects of ``facts.Remark``.
            machine: where it is so on some machines only.
            node: where the script says it, for a key that is no value of the Setup.
        """
        told = Remark(kind=kind, effect="refused", key=key, note=note, about=about, machine=machine)
        self._remarks.append(told)
        if node is not None:
            self._origins.setdefault(key, Origin(source="explicit", place=self.source.place(node)))

    def not_taken(
        self, key: str, node: ast.AST, *, removed: bool, closest: str | None, note: str, machine: Condition | None
    ) -> None:
        """An argument that the library does not take.

        Args:
            key: ``Class.argument``.
            removed: older versions took it.
            closest: what it is called now, or what looks most like it.
            machine: the versions of which this is true.
        """
        told = KeyNote(key=key, closest=closest, note=note, machine=machine)
        (self._removed_keys if removed else self._unknown_keys).append(told)
        self._origins.setdefault(key, Origin(source="explicit", place=self.source.place(node)))

    def use(self, use: LibraryUse, node: ast.AST) -> None:
        """Something of a library that is tried where it is at hand."""
        self.uses.append(use)
        self._origins.setdefault(use.key, Origin(source="explicit", place=self.source.place(node)))

    # -- the end

    def setup(self, version: str | None = None) -> Setup:
        """The Setup, when all is said."""
        sections: dict[str, Any] = {name: model.model_validate(self._values[name]) for name, model in SECTIONS.items()}
        return Setup(
            dialect=self.dialect,
            traits=self.traits,
            dialect_version=version,
            file=self.source.file,
            origins=self._origins,
            remarks=self._remarks,
            unknown_keys=self._unknown_keys,
            stops_at_unknown_keys=bool(self._unknown_keys)
            and all("stops with" in str(each.note) for each in self._unknown_keys),
            removed_keys=self._removed_keys,
            named_data=self.named_data,
            changes=self.changes,
            uses=self.uses,
            not_followed=sorted(self.not_followed, key=_by_line),
            **sections,
        )


def _by_line(statement: NotFollowed) -> tuple[str, int, int]:
    place = statement.place
    return (place.file or "", place.cell or 0, place.line or 0) if place is not None else ("", 0, 0)


def plain(value: Value) -> Any:
    """A value as a config would write it: ``torch.bfloat16`` is ``bfloat16``, ``TaskType.CAUSAL_LM`` is ``CAUSAL_LM``.

    Raises:
        Opaque: it is not known.
    """
    if not isinstance(value, Name):
        return flat(value)
    parts = value.dotted.split(".")
    if parts[0] == "torch" and len(parts) == 2:
        return parts[1]
    if len(parts) >= 2 and parts[-2] in _ENUMERATIONS:
        return parts[-1] if parts[-2] in _UPPER else parts[-1].lower()
    if len(parts) == 1:
        raise Opaque(f"{value.dotted} is not set in what was read.")
    raise Opaque(f"{'.'.join(parts[:-1])[:80]}, which was not read, decides.")


def _where(value: Value, node: ast.AST | None) -> ast.AST | None:
    """The argument, where the value is written in it; else the place where the value is written."""
    inner = value.node
    if isinstance(inner, Written):
        return inner
    if isinstance(inner, ast.Import | ast.ImportFrom):
        return node  # a name that is imported stands where it is used
    if node is None or inner is None or isinstance(value, Unknown):
        return node if node is not None else inner
    held = node.value if isinstance(node, ast.keyword) else node
    return node if held is inner or getattr(inner, "lineno", None) is None else inner

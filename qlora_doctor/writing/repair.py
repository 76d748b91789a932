"""Findings about the keys themselves → operations on the file: names, repetitions, numbers written as text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from ..core.pointers import join_pointer, split_pointer
from ..core.report import PatchOperation
from ..setup.setup import SECTIONS, KeyNote, Setup
from .express import complaints, editable, reread, same, values_of
from .patch import CannotEdit, patched, value_at

_T = TypeVar("_T")
_MOST_TEXT = 2**19
"""Characters that one repair may go through: each operation parses the text again. The rest is the next round's."""


def _first(setup: Setup, things: Sequence[_T]) -> Sequence[_T]:
    """As many as can be put right at once: all, but in a text that no person wrote."""
    document = setup._document
    return things[: max(1, _MOST_TEXT // max(1, len(document.text)))] if document is not None else ()


def repair(setup: Setup, kind: str) -> list[PatchOperation]:
    """The operations of one kind of repair; those that the reader would not understand as meant are left out.

    Args:
        setup: as it was read.
        kind: ``unknown-keys``, ``removed-keys``, ``deprecated-keys``, ``repeated-keys``, ``text-numbers`` or
            ``renamed-values``.

    Raises:
        CannotEdit: nothing of this kind can be repaired in this file.
    """
    editable(setup)
    operations = _KINDS[kind](setup)
    if not operations:
        raise CannotEdit("there is nothing that can be put right without guessing")
    return operations


def _unknown_keys(setup: Setup) -> list[PatchOperation]:
    return _renamed(setup, setup.unknown_keys)


def _removed_keys(setup: Setup) -> list[PatchOperation]:
    """New names first, which lose nothing; when all have theirs, the keys that have none are taken away."""
    return _renamed(setup, setup.removed_keys) or _taken_away(setup)


def _deprecated_keys(setup: Setup) -> list[PatchOperation]:
    return _renamed(setup, setup.deprecated_keys, _complaints_and_deprecations)


def _complaints_and_deprecations(setup: Setup) -> set[tuple[str, str | None]]:
    return complaints(setup) | {("deprecated", key.key) for key in setup.deprecated_keys}


def _renamed(setup: Setup, keys: list[KeyNote], said: Callable[[Setup], set[Any]] = complaints) -> list[PatchOperation]:
    """Keys that have another name now, one after the other: two old names of one key are not both renamed."""
    operations: list[PatchOperation] = []
    now = setup
    for key in _first(setup, [key for key in keys if key.closest]):
        data = now._document.data if now._document is not None else None
        written = _pointer(setup, key.key)
        new = _new_pointer(setup, written, key.closest) if written is not None and key.closest else None
        value = value_at(data, written) if written is not None else None
        if written is None or new is None or value is None or value_at(data, new) is not None:
            continue
        steps = [PatchOperation(op="remove", path=written), PatchOperation(op="add", path=new, value=value)]
        if key.value is not None:
            steps.append(PatchOperation(op="replace", path=new, value=key.value))
        after = _if_nothing_else(now, steps, said)
        if after is not None:
            now = after
            operations += steps
    return operations


def _taken_away(setup: Setup) -> list[PatchOperation]:
    pointers = [_pointer(setup, key.key) for key in setup.removed_keys if key.closest is None]
    removals = [PatchOperation(op="remove", path=pointer) for pointer in pointers if pointer is not None]
    return removals if removals and _if_nothing_else(setup, removals) is not None else []


def _if_nothing_else(
    setup: Setup, operations: list[PatchOperation], said: Callable[[Setup], set[Any]] = complaints
) -> Setup | None:
    """The Setup after the operations, where the reader minds less then and every other value is the same.

    Args:
        said: what the reader minds.
    """
    document = setup._document
    assert document is not None
    try:
        data = document.data
        for operation in operations:
            data = patched(data, operation)
        after = reread(setup, replace(document, data=data))
    except CannotEdit:
        return None
    old, new = values_of(setup), values_of(after)
    touched = {operation.path for operation in operations}
    kept = all(
        same(old[path], new[path])
        for path, origin in setup.origins.items()
        if path in old
        and origin.source == "explicit"
        and origin.place is not None
        and origin.place.pointer not in touched
    )
    return after if kept and said(after) < said(setup) else None


def _new_pointer(setup: Setup, written: str, closest: str) -> str | None:
    """Where the key belongs: beside its old name, or for the native dialect in the section that the name says."""
    steps = split_pointer(written)
    if setup.dialect == "native":
        section, _, field = closest.partition(".")
        return join_pointer([section, field]) if section in SECTIONS and field else None
    return join_pointer([*steps[:-1], closest.rpartition(".")[2]])


def _repeated_keys(setup: Setup) -> list[PatchOperation]:
    """The value that counts, written again: that leaves the key once."""
    document = setup._document
    pointers = document.duplicates if document is not None else []
    return [
        PatchOperation(op="replace", path=pointer, value=value_at(document.data, pointer))
        for pointer in _first(setup, list(dict.fromkeys(pointers)))
        if document is not None
    ]


def _text_numbers(setup: Setup) -> list[PatchOperation]:
    document = setup._document
    operations = []
    for key in _first(setup, setup.string_numbers):
        pointer = _pointer(setup, key)
        written = value_at(document.data, pointer) if document is not None and pointer is not None else None
        number = _number(written)
        if pointer is not None and number is not None:
            operations.append(PatchOperation(op="replace", path=pointer, value=number))
    return operations


def _number(written: Any) -> int | float | None:
    if not isinstance(written, str):
        return None
    try:
        number = float(written.replace("_", ""))
    except ValueError:
        return None
    whole = written.strip().lstrip("+-").isdigit()
    return int(number) if whole else number


def _pointer(setup: Setup, key: str) -> str | None:
    """The place of a key that is given by its dotted name."""
    origin = setup.origins.get(key)
    return origin.place.pointer if origin is not None and origin.place is not None else None


_NEW_VALUES = {"quantization-method-renamed": "bnb"}
"""What a value is called now, by the remark that its old name brings about."""


def _renamed_values(setup: Setup) -> list[PatchOperation]:
    """The new name of a value that the trainer knew under another one."""
    return [
        PatchOperation(op="replace", path=join_pointer(str(remark.key).split(".")), value=_NEW_VALUES[kind])
        for remark in setup.remarks
        if (kind := remark.kind) in _NEW_VALUES
    ]


_KINDS: dict[str, Callable[[Setup], list[PatchOperation]]] = {
    "unknown-keys": _unknown_keys,
    "removed-keys": _removed_keys,
    "deprecated-keys": _deprecated_keys,
    "repeated-keys": _repeated_keys,
    "text-numbers": _text_numbers,
    "renamed-values": _renamed_values,
}

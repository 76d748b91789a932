"""A change of the Setup → operations on the keys that the user's own dialect has for it.

Nothing here knows a dialect: the reader's tables say which keys could set a path, ``spelling`` how the value could be
written, and a candidate counts only where the reader, given the changed data, understands exactly what was asked for
and nothing else that the file says has changed. So a fix cannot say another thing than the reader.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..core.errors import DoctorError
from ..core.pointers import join_pointer, split_pointer
from ..core.report import PatchOperation
from ..reading.dialects import dialect_named
from ..reading.dialects.fields import Writing
from ..reading.dialects.spelling import spellings
from ..reading.document import Document
from ..setup.setup import SECTIONS, Setup
from .edit import MOST_EDITED
from .patch import CannotEdit, NoEditor, patched, value_at


@dataclass(frozen=True)
class Expression:
    """A change in the keys of the file.

    Attributes:
        operations: on the file itself; empty where it says all of it already.
        follows: canonical paths outside the change whose value comes along, since the trainer derives it.
    """

    operations: tuple[PatchOperation, ...]
    follows: tuple[str, ...] = ()


def express(setup: Setup, patch: Sequence[PatchOperation]) -> Expression:
    """Operations in native pointers → the same on the file's own keys.

    Raises:
        CannotEdit: the dialect has no way to say it, or not without changing something else that the file says.
    """
    document = editable(setup)
    try:
        own, after = _in_order(setup, patch)
    except CannotEdit:
        if len(patch) < 2:
            raise
        own, after = _in_order(setup, patch[::-1])  # a trainer may refuse what one half of the change asks for
    paths = [_path(operation) for operation in patch]
    old, new = values_of(setup), values_of(after)
    follows = [path for path in old if path not in paths and not same(old[path], new[path])]
    operations = [each for each in own if _changes(document.data, each)]
    return Expression(tuple(_placed(setup, operations)), tuple(follows))


def _in_order(setup: Setup, patch: Sequence[PatchOperation]) -> tuple[list[PatchOperation], Setup]:
    """The operations on own keys, one native one after the other, and the Setup that they give."""
    paths = [_path(operation) for operation in patch]
    own: dict[str, PatchOperation] = {}
    now = setup
    for path, operation in zip(paths, patch, strict=True):
        if operation.op != "remove" and _has(now, path, operation.value):
            continue
        steps, now = written(now, path, operation, paths)
        for step in steps:
            own.pop(step.path, None)
            own[step.path] = step
    for path, operation in zip(paths, patch, strict=True):
        if operation.op != "remove" and not _has(now, path, operation.value):
            raise CannotEdit(f"{_field(path)} cannot be set beside the rest of the change")
    return list(own.values()), now


def _path(operation: PatchOperation) -> str:
    return ".".join(split_pointer(operation.path))


def values_of(setup: Setup) -> dict[str, Any]:
    """Every canonical path and what the Setup has there."""
    return {
        f"{name}.{field}": getattr(getattr(setup, name), field)
        for name, section in SECTIONS.items()
        for field in section.model_fields
    }


def same(one: Any, other: Any) -> bool:
    """True where two values mean the same; a truth value is no number."""
    return bool(one == other) and isinstance(one, bool) == isinstance(other, bool)


def reread(setup: Setup, document: Document) -> Setup:
    """The Setup of a changed document, by the reader of the first one.

    Raises:
        CannotEdit: the reader refuses it.
    """
    try:
        return dialect_named(setup.dialect).read(document)
    except DoctorError as error:
        raise CannotEdit(f"the file could not be read any more: {error.message}") from error


def editable(setup: Setup) -> Document:
    """What the setup was read from.

    Raises:
        CannotEdit: it is a kind of file, or a size, that is not edited.
    """
    document: Document | None = setup._document
    if document is None or document.format == "text" or not isinstance(document.data, dict):
        raise NoEditor("there is no editor for programs")
    if len(document.text) > MOST_EDITED or _unfolds_to_many(document.data):
        raise NoEditor("the text is too long to be edited")
    why = getattr(dialect_named(setup.dialect), "RECORD", None)
    if why is not None and setup.dialect != "bnb-config":
        raise CannotEdit(why)
    return document


def _unfolds_to_many(data: Any) -> bool:
    """True where aliases make more of a short text than can be copied at every step."""
    waiting, count = [data], 0
    while waiting:
        value = waiting.pop()
        inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        count += len(inner)
        if count > MOST_EDITED:
            return True
        waiting.extend(inner)
    return False


def _has(setup: Setup, path: str, value: Any) -> bool:
    return not setup.is_unknown(path) and same(values_of(setup).get(path), value)


def _changes(data: Any, operation: PatchOperation) -> bool:
    written = value_at(data, operation.path)
    return written is not None if operation.op == "remove" else not same(written, operation.value)


def written(
    setup: Setup, path: str, operation: PatchOperation, meant: Sequence[str]
) -> tuple[list[PatchOperation], Setup]:
    """The first candidate that the reader understands as it is meant, and the Setup that it gives."""
    tried: list[str] = []
    for steps in _candidates(setup, path, operation):
        tried += [step.path for step in steps]
        try:
            after = _after(setup, steps)
        except CannotEdit:
            continue
        removed = operation.op == "remove" and not same(values_of(after).get(path), values_of(setup).get(path))
        meets = removed or (operation.op != "remove" and _has(after, path, operation.value))
        if meets and _leaves_the_rest(setup, after, steps, meant):
            return steps, after
    raise CannotEdit(_why_not(setup, path, operation.value, tried))


def _why_not(setup: Setup, path: str, value: Any, tried: Sequence[str]) -> str:
    origin = setup.origins.get(path)
    told = origin.note if origin is not None and origin.note and not origin.note.startswith("default of ") else None
    note = f" ({told.rstrip('.')})" if told else ""
    reader = setup.dialect_version or setup.dialect
    if not tried and setup.dialect == "custom":
        return (
            f"the file has no {_field(path)}, and under which name the script that reads it would take one is not known"
        )
    if not tried:
        return f"{reader} has no key that sets {_field(path)}{note}"
    return f"no key of {reader} sets {_field(path)} to {value} and leaves the rest of the file as it is{note}"


def _field(path: str) -> str:
    return path.rpartition(".")[2]


def _after(setup: Setup, steps: Sequence[PatchOperation]) -> Setup:
    document: Document | None = setup._document
    assert document is not None
    data = document.data
    for step in steps:
        data = patched(data, step)
    return reread(setup, replace(document, data=data))


def _leaves_the_rest(before: Setup, after: Setup, steps: Sequence[PatchOperation], meant: Sequence[str]) -> bool:
    """True where nothing that the file says elsewhere means something else now, and the trainer minds nothing new."""
    touched = {step.path for step in steps}
    old, new = values_of(before), values_of(after)
    for path, origin in before.origins.items():
        said = origin.source == "explicit" and origin.place is not None and path in old
        if said and path not in meant and not same(old[path], new[path]):
            pointer = (origin.place.pointer if origin.place else None) or ""
            if not any(pointer == each or pointer.startswith(each + "/") for each in touched):
                return False
    return complaints(after) <= complaints(before)


def complaints(setup: Setup) -> set[tuple[str, str | None]]:
    """What the reader says against the keys of the file."""
    unread = {
        ("unread", path)
        for path, o in setup.origins.items()
        if o.source == "unknown" and o.place and " must be " in str(o.note)
    }
    refused = {
        ("refused", remark.kind) for remark in setup.remarks if remark.effect == "refused" and not remark.machine
    }
    keys = {("key", key.key) for key in (*setup.unknown_keys, *setup.removed_keys) if not key.machine}
    return unread | refused | keys


# -- candidates


def _candidates(setup: Setup, path: str, operation: PatchOperation) -> Iterator[list[PatchOperation]]:
    document: Document | None = setup._document
    assert document is not None
    origin = setup.origins.get(path)
    place = origin.place.pointer if origin is not None and origin.place is not None else None
    if operation.op == "remove":
        if place is not None:
            yield [PatchOperation(op="remove", path=place)]
        return
    if setup._keys_of is None:
        yield [_put(place or join_pointer(path.split(".")), operation.value)]
        return
    writings: Mapping[str, Writing] = getattr(dialect_named(setup.dialect), "WRITINGS", {})
    assignments = writings[path](operation.value, document.data) if path in writings else None
    if assignments:
        yield _steps(document.data, assignments)
        return
    pointers = {}
    for own in setup._keys_of(path):
        pointers[_pointer(document.data, own.key)] = own.convert
    ordered = sorted(pointers, key=lambda pointer: (pointer != place, value_at(document.data, pointer) is None))
    if place is not None and place not in pointers:
        ordered.insert(0, place)
    for pointer in ordered:
        written = value_at(document.data, pointer)
        for value in spellings(path, operation.value, pointers.get(pointer), written):
            if value is not None:
                yield [_put(pointer, value)]
            elif written is not None:
                yield [_take(document.data, pointer)]


def _steps(data: Any, assignments: Mapping[str, Any]) -> list[PatchOperation]:
    steps = []
    for key, value in assignments.items():
        pointer = _pointer(data, key)
        written = value_at(data, pointer)
        if value is not None and not same(written, value):
            steps.append(_put(pointer, value))
        elif value is None and written is not None:
            steps.append(_take(data, pointer))
    return steps


def _put(pointer: str, value: Any) -> PatchOperation:
    return PatchOperation(op="add", path=pointer, value=value)


def _take(data: Any, pointer: str) -> PatchOperation:
    """Take a key away, and its section with it where it is alone in it."""
    steps = split_pointer(pointer)
    while len(steps) > 1 and len(value_at(data, join_pointer(steps[:-1])) or ()) == 1:
        steps.pop()
    return PatchOperation(op="remove", path=join_pointer(steps))


def _pointer(data: Any, key: str) -> str:
    """The pointer of a dotted key; a key of the file whose own name has dots is found as the reader finds it."""
    return join_pointer([key] if isinstance(data, dict) and key in data else key.split("."))


# -- places


def _placed(setup: Setup, operations: Sequence[PatchOperation]) -> list[PatchOperation]:
    """The operations with the key behind which a new one fits: the last one of the same section beside it."""
    last: dict[tuple[str, str | None], str] = {}
    placed = []
    for operation in operations:
        above, key, section = _new_key(setup, operation)
        if key is not None:
            behind = last.get((above, section)) or _last_beside(setup, above, section)
            last[above, section] = key
            operation = operation.model_copy(update={"after": behind and f"{above}{join_pointer([behind])}"})
        placed.append(operation)
    return placed


def _new_key(setup: Setup, operation: PatchOperation) -> tuple[str, str | None, str | None]:
    """(pointer of the mapping, key, section) where an operation adds a key; the key is None where it adds none."""
    document: Document | None = setup._document
    assert document is not None
    steps = split_pointer(operation.path)
    while len(steps) > 1 and value_at(document.data, join_pointer(steps[:-1])) is None:
        steps.pop()
    above = join_pointer(steps[:-1])
    beside = value_at(document.data, above)
    if operation.op == "remove" or not isinstance(beside, dict) or steps[-1] in beside:
        return above, None, None
    return above, steps[-1], _section_of(setup, operation.path)


def _last_beside(setup: Setup, above: str, section: str | None) -> str | None:
    """The last key of a mapping that sets something in a section."""
    assert setup._document is not None
    order = {str(key): number for number, key in enumerate(value_at(setup._document.data, above))}
    found: dict[int, str] = {}
    for path, origin in setup.origins.items():
        pointer = origin.place.pointer if origin.place is not None else None
        if path.partition(".")[0] == section and "." in path and pointer is not None:
            *over, key = split_pointer(pointer)
            if join_pointer(over) == above and key in order:
                found[order[key]] = key
    return found[max(found)] if found else None


def _section_of(setup: Setup, pointer: str) -> str | None:
    """The section whose value an own key sets."""
    return (
        split_pointer(pointer)[0] if setup._keys_of is None else section_of_key(setup, ".".join(split_pointer(pointer)))
    )


def section_of_key(setup: Setup, key: str) -> str | None:
    """The section whose value a key of a translated dialect sets; None where it sets none."""
    path = path_of_key(setup, key)
    return path.partition(".")[0] if path is not None else None


def path_of_key(setup: Setup, key: str) -> str | None:
    """The canonical path that a key of a translated dialect sets: of several the one of its name."""
    paths = [p for p in values_of(setup) if setup._keys_of is not None and any(o.key == key for o in setup._keys_of(p))]
    return next((path for path in paths if _field(path) == key), paths[0] if paths else None)

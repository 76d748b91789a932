"""RFC 6902 operations on the text of a TOML file, by tomlkit, which keeps comments and layout."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..core.pointers import split_pointer
from ..core.report import PatchOperation
from .patch import CannotEdit, patched


def apply_toml(text: str, operations: Sequence[PatchOperation]) -> str:
    """Apply operations one after the other, in the same lenient sense as ``edit.apply_patch``.

    Raises:
        CannotEdit: the text does not parse, or the edit would change something else.
    """
    import tomlkit  # lazy: few configs are TOML, and fewer are edited
    from tomlkit.exceptions import TOMLKitError

    unix = text.replace("\r\n", "\n")
    try:
        document = tomlkit.parse(unix)
        for operation in operations:
            wanted = patched(document.unwrap(), operation)
            _apply(document, operation)
            if tomlkit.parse(document.as_string()).unwrap() != wanted:
                raise CannotEdit("the edit would change something else")
    except (TOMLKitError, KeyError, IndexError, ValueError, TypeError, AttributeError) as error:
        raise CannotEdit("the text cannot be edited as TOML") from error
    edited = document.as_string()
    return edited.replace("\n", "\r\n") if "\r\n" in text else edited


def _apply(document: Any, operation: PatchOperation) -> None:
    import tomlkit

    *above, last = split_pointer(operation.path)
    here: Any = document
    for step in above:
        if isinstance(here, list):
            here = here[int(step)]
        else:
            if step not in here:
                if operation.op == "remove":
                    return
                here[step] = tomlkit.table()
            here = here[step]
    if isinstance(here, list):
        _in_list(here, last, operation)
    elif operation.op == "remove":
        here.pop(last, None)
    elif last in here or not _insert(here, last, operation):
        here[last] = operation.value


def _in_list(here: Any, step: str, operation: PatchOperation) -> None:
    if operation.op == "remove":
        here.pop(int(step))
    elif step == "-" or int(step) == len(here):
        here.append(operation.value)
    else:
        here[int(step)] = operation.value


def _insert(table: Any, key: str, operation: PatchOperation) -> bool:
    """Put a new key behind the one that the operation names, where it is a plain one of the same table."""
    import tomlkit
    from tomlkit.container import Container

    neighbour = split_pointer(operation.after)[-1] if operation.after else None
    container = table if isinstance(table, Container) else getattr(table, "value", None)
    if neighbour is None or neighbour not in table or isinstance(table[neighbour], dict | list):
        return False
    insert = getattr(container, "_insert_after", None)  # tomlkit has no public way to choose the place
    if insert is None:
        return False
    insert(neighbour, key, tomlkit.item(operation.value))
    return True

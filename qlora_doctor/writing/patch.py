"""RFC 6902 operations on plain data, as leniently as configs are edited; and why an edit may be impossible."""

from __future__ import annotations

from typing import Any

from ..core.pointers import split_pointer
from ..core.report import PatchOperation


class CannotEdit(Exception):
    """This text cannot be edited in place, for example where a YAML alias stands for the value."""


class NoEditor(CannotEdit):
    """This kind of file is not edited at all."""


def value_at(data: Any, pointer: str) -> Any:
    """The value at a pointer; None where there is none."""
    for step in split_pointer(pointer):
        if isinstance(data, list) and step.isdigit() and int(step) < len(data):
            data = data[int(step)]
        elif isinstance(data, dict) and step in data:
            data = data[step]
        else:
            return None
    return data


def _unshared(data: Any) -> Any:
    """A copy in which an alias is a value of its own."""
    if isinstance(data, dict):
        return {key: _unshared(value) for key, value in data.items()}
    return [_unshared(value) for value in data] if isinstance(data, list) else data


def patched(data: Any, operation: PatchOperation) -> Any:
    """What the data is to be after an operation, in the same lenient sense as the edit.

    Raises:
        CannotEdit: the way to the place goes through something else than a mapping or a list.
    """
    data = _unshared(data)
    *above, last = split_pointer(operation.path)
    here: Any = data
    try:
        for step in above:
            if isinstance(here, list):
                here = here[int(step)]
                continue
            if operation.op == "remove" and step not in here:
                return data
            if not isinstance(here.get(step), dict | list):
                name = here.get(step)
                if name is not None and step != "model":
                    raise CannotEdit("the value above is no mapping")
                here[step] = {"name_or_path": name} if name is not None else {}
            here = here[step]
        if isinstance(here, list):
            if last == "-" or int(last) == len(here):
                here.append(operation.value)
            elif operation.op == "remove":
                here.pop(int(last))
            else:
                here[int(last)] = operation.value
        elif operation.op == "remove":
            here.pop(last, None)
        else:
            here[last] = operation.value
    except (ValueError, IndexError, AttributeError, TypeError) as error:
        raise CannotEdit("the value above is no mapping") from error
    return data

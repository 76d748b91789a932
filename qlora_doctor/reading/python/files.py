"""Files that a script reads: YAML, JSON and TOML beside it, as yaml, json, tomllib, OmegaConf and their kin load them.

A path is a text here, as ``Path`` and ``os.path`` are followed; what is loaded is a dict whose values know their place
in the file. Only a file of the project is read, and none is run.
"""

from __future__ import annotations

import ast
import os.path
import re
from collections.abc import Callable
from functools import partial, reduce
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from ...core.pointers import escaped
from .provenance import given, is_outer
from .source import Written
from .values import MOST_ITEMS, Known, Listing, Made, Mapping, Name, Unknown, Value, merged

if TYPE_CHECKING:
    from ..document import Document
    from .arguments import Arguments

FILE = "a file"
_LOADERS = {"safe_load", "full_load", "unsafe_load", "load", "loads", "safe_load_all"}
_LOADING = {"yaml", "json", "toml", "tomllib", "tomli", "OmegaConf", "ruamel", "YAML", "json5", "oyaml", "commentjson",
            "anyconfig", "simplejson", "orjson", "ujson"}  # fmt: skip
_OMEGA = {"create", "to_container", "to_object", "structured", "to_yaml", "masked_copy"}
_PATHS = {"Path", "PurePath", "PosixPath", "PurePosixPath"}
_INTERPOLATION = re.compile(r"\$\{([\w.\-]+)\}")
_READ = "A file that the script reads decides."


def call_on_files(
    machine: Arguments, callee: Name, node: ast.AST, positional: list[Value], named: dict[str, Value]
) -> Value | None:
    """What a function that opens, loads or merges files returns; None where it is none of these."""
    first = positional[0] if positional else next(iter(named.values()), None)
    name, last = callee.dotted, callee.last
    parts = set(name.split("."))
    if name == "open" and first is not None:
        return _opened(first, node)
    if last in _PATHS and positional:
        return _joined(positional, node)
    if "path" in parts and "os" in parts and first is not None:
        return _of_os_path(machine, last, positional, node)
    if "OmegaConf" in parts:
        found = _of_omegaconf(machine, last, positional, node)
        if found is not None:
            return found
    if last in _LOADERS and parts & _LOADING:
        return loaded(machine, first, node, interpolates="OmegaConf" in parts)
    if last in ("load_yaml", "load_json", "load_config", "load_toml") and parts & {"accelerate", "transformers"}:
        return Unknown(node, why=_READ)
    return None


def file_method(machine: Arguments, holder: Made, name: str, node: ast.AST, positional: list[Value]) -> Value | None:
    """What a method of an open file returns, or of a YAML object of ruamel."""
    if holder.maker == FILE:
        return holder if name in ("read", "__enter__") else Unknown(node, why=_READ)
    if holder.maker == "YAML" and name == "load" and positional:
        return loaded(machine, positional[0], node, interpolates=False)
    return None


def path_attribute(holder: Known, name: str, node: ast.AST) -> Value | None:
    """``path.parent`` and the like; None for other attributes and other values."""
    if not isinstance(holder.data, str) or name not in ("parent", "parents", "name", "stem", "suffix"):
        return None
    path = PurePosixPath(holder.data)
    if name == "parents":
        above = [Known(node, holder.given, data=str(folder)) for folder in list(path.parents)[:16]]
        return Listing(node, items=list(above))
    return Known(node, holder.given, holder.by_card, data=str(getattr(path, name)))


def path_method(machine: Arguments, holder: Known, name: str, node: ast.AST, positional: list[Value]) -> Value | None:
    """``path.resolve()`` and the like; None for methods that a text has itself."""
    if not isinstance(holder.data, str):
        return None
    if name in ("resolve", "absolute", "expanduser", "as_posix"):
        return Known(node, holder.given, holder.by_card, data=os.path.normpath(holder.data))
    if name == "is_absolute":
        return Known(node, holder.given, holder.by_card, data=PurePosixPath(holder.data).is_absolute())
    if name == "joinpath":
        return _joined([holder, *positional], node)
    if name in ("open", "read_text"):
        return _opened(holder, node)
    if name in ("exists", "is_file"):
        return _exists(machine, holder, node)
    return None


def several_paths_method(holder: Unknown, name: str, node: ast.AST) -> Value | None:
    """What a method gives of a path of which it is only known that it is one of a few."""
    if not holder.either:
        return None
    if name in ("resolve", "absolute", "expanduser", "as_posix"):
        return holder
    return _opened(holder, node) if name in ("open", "read_text") else None


def joined_path(left: Known, right: Known, node: ast.AST) -> Value | None:
    """``folder / name``: of two texts only a path can be divided by a text."""
    if isinstance(left.data, str) and isinstance(right.data, str):
        return _joined([left, right], node)
    return None


def loaded(machine: Arguments, held: Value | None, node: ast.AST, *, interpolates: bool) -> Value:
    """What a file (or the path of one) holds.

    Args:
        interpolates: ``${a.b}`` stands for the value there, as OmegaConf has it.
    """
    if isinstance(held, Made) and held.maker == FILE:
        held = held.arguments.get(0)
    if isinstance(held, Unknown):
        several = [content(machine, each, node, interpolates=interpolates) for each in held.either]
        return reduce(lambda one, other: merged(one, other, held.why), several, several.pop()) if several else held
    if not isinstance(held, Known) or not isinstance(held.data, str):
        return Unknown(node, why=_READ)
    return content(machine, held, node, interpolates=interpolates)


def content(machine: Arguments, path: Known, node: ast.AST, *, interpolates: bool = False) -> Value:
    """What the file of a known path holds, each value with its place; unknown where it is not in the project."""
    found = machine.neighbours.data(str(path.data))
    if isinstance(found, str):
        return Unknown(node, why=found)
    document = machine.neighbours.document(found)
    if document is None or document.format == "text":
        return Unknown(node, why=f"{found.name}, which the script reads, cannot be read.")
    data = _interpolated(document.data, document.data, 8) if interpolates else document.data
    left = [MOST_ITEMS]
    whose = f"value of {found.name}, {path.given}" if is_outer(path.given) else None
    value = _value(document, data, "", left, whose)
    machine.tick(MOST_ITEMS - left[0])
    return value


def _value(document: Document, data: Any, pointer: str, left: list[int], whose: str | None) -> Value:
    left[0] -= 1
    node = Written(partial(document.place, pointer))
    if left[0] < 0:
        return Unknown(node, why="The file is very long.")
    if isinstance(data, dict):
        items = {
            key: _value(document, inner, f"{pointer}/{escaped(str(key))}", left, whose)
            for key, inner in data.items()
            if isinstance(key, str | int | bool | None)
        }
        return Mapping(node, items=items, exact=left[0] >= 0)
    if isinstance(data, list):
        listed = [_value(document, inner, f"{pointer}/{at}", left, whose) for at, inner in enumerate(data)]
        return Listing(node, items=listed, exact=left[0] >= 0)
    return Known(node, whose, data=data)


def _interpolated(data: Any, whole: Any, depth: int) -> Any:
    """The data with OmegaConf's ``${a.b}`` replaced by what stands there, where that is a plain value."""
    if depth == 0:
        return data
    if isinstance(data, dict):
        return {key: _interpolated(value, whole, depth - 1) for key, value in data.items()}
    if isinstance(data, list):
        return [_interpolated(value, whole, depth - 1) for value in data]
    if not isinstance(data, str) or "${" not in data:
        return data
    alone = _INTERPOLATION.fullmatch(data)
    if alone is not None:
        found = _at(whole, alone[1])
        return data if found is None else _interpolated(found, whole, depth - 1)
    return _INTERPOLATION.sub(
        lambda match: str(found) if isinstance(found := _at(whole, match[1]), str | int | float) else match[0], data
    )


def _at(whole: Any, dotted: str) -> Any:
    for step in dotted.split("."):
        whole = whole.get(step) if isinstance(whole, dict) else None
    return whole


def _opened(path: Value, node: ast.AST) -> Value:
    return Made(node, maker=FILE, arguments={0: path}, exact=False, why=_READ)


def _joined(parts: list[Value], node: ast.AST) -> Value:
    texts = [part.data for part in parts if isinstance(part, Known) and isinstance(part.data, str)]
    if len(texts) != len(parts):
        return next((part for part in parts if isinstance(part, Unknown)), Unknown(node))
    whose = next((part.given for part in parts if part.given is not None), None)
    joined = str(PurePosixPath(*texts))
    return Known(node, whose, data=joined) if len(joined) < 4096 else Unknown(node)


def _of_os_path(machine: Arguments, last: str, positional: list[Value], node: ast.AST) -> Value | None:
    first = positional[0] if positional else None
    if last == "join":
        return _joined(positional, node)
    if isinstance(first, Known) and isinstance(first.data, str):
        if last in ("exists", "isfile"):
            return _exists(machine, first, node)
        texts: dict[str, Callable[[str], str]] = {
            "dirname": os.path.dirname,
            "basename": os.path.basename,
            "abspath": os.path.normpath,
            "realpath": os.path.normpath,
            "normpath": os.path.normpath,
            "expanduser": str,
        }
        if last in texts:
            return Known(node, first.given, first.by_card, data=texts[last](first.data))
    return None


def _exists(machine: Arguments, path: Known, node: ast.AST) -> Value:
    """A file of the project is there; of any other it is not known whether it is where the script runs."""
    if isinstance(machine.neighbours.data(str(path.data)), str):
        return Unknown(node, why=f"Whether {str(path.data)[:80]} is there decides.")
    return Known(node, path.given, data=True)


def _of_omegaconf(machine: Arguments, last: str, positional: list[Value], node: ast.AST) -> Value | None:
    if last in ("from_cli", "from_dotlist"):
        return machine.from_cli(node)
    if last in ("merge", "unsafe_merge"):
        return _merged(positional, node)
    return positional[0] if last in _OMEGA and positional else None


def _merged(parts: list[Value], node: ast.AST) -> Value:
    """``OmegaConf.merge``: the later ones win, mapping by mapping; what the command line may replace is a default."""
    merged: Value | None = None
    for part in parts:
        if isinstance(part, Made) and part.maker == "OVERRIDES":
            merged = replaceable(merged, 12) if merged is not None else None
        elif isinstance(part, Mapping) and isinstance(merged, Mapping):
            merged = over(merged, part, node)
        elif merged is None and isinstance(part, Mapping):
            merged = part
        else:
            return part if isinstance(part, Unknown) else Unknown(node)
    return merged if merged is not None else Unknown(node)


def over(one: Mapping, other: Mapping, node: ast.AST) -> Mapping:
    """One mapping with another laid over it, level by level."""
    items = dict(one.items)
    for key, value in other.items.items():
        below = items.get(key)
        items[key] = over(below, value, node) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
    return Mapping(node, items=items, exact=one.exact and other.exact)


def replaceable(value: Value, depth: int) -> Value:
    """The value, said to be one that the command line may replace."""
    if isinstance(value, Mapping) and depth:
        items = {key: replaceable(inner, depth - 1) for key, inner in value.items.items()}
        return Mapping(value.node, items=items, exact=value.exact)
    return given(value, "value of the file, which the command line may replace")

"""Python's own functions and methods, as far as configs use them."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING, Any

from .files import call_on_files, path_method
from .provenance import given, resting_on
from .values import MOST_ITEMS, MOST_TEXT, Class, Known, Listing, Made, Mapping, Name, Thing, Unknown, Value

if TYPE_CHECKING:
    from .hf_calls import Library

_PURE: dict[str, Any] = {
    "int": int,
    "float": float,
    "str": str,
    "bool": bool,
    "abs": abs,
    "round": round,
    "max": max,
    "min": min,
}
_TEXT_METHODS = {
    "lower", "upper", "strip", "rstrip", "lstrip", "replace", "startswith", "endswith", "title", "removeprefix",
    "removesuffix",
}  # fmt: skip


_HEADS = ("lm_head", "output_layer", "embed_out")
"""Names of output heads that scripts take out of what they adapt."""


def call_builtin(
    machine: Library, callee: Name, node: ast.AST, positional: list[Value], named: dict[str, Value], rest: bool
) -> Value | None:
    """What a function of Python or its library returns; None where it is none of those known here.

    Args:
        rest: further arguments are passed that are not known.
    """
    name = callee.dotted
    first = positional[0] if positional else None
    of_files = call_on_files(machine, callee, node, positional, named)
    if of_files is not None:
        return of_files
    if name == "dict" and all(isinstance(value, Mapping) for value in positional):
        made = Mapping(node)
        for value in positional:
            machine.spread(made, value)
        made.items.update(named)
        made.exact = made.exact and not rest
        return made
    if name in ("list", "tuple", "set", "sorted", "frozenset"):
        return Listing(node) if first is None else _listed(first, node)
    if name in _PURE and not named:
        return resting_on(_pure(name, node, positional), *positional)
    if name == "len":
        return _length(first, node)
    if name == "getattr":
        return _getattr(machine, node, positional)
    if name == "setattr" and len(positional) == 3 and isinstance(positional[1], Known):
        machine.set_attribute(positional[0], str(positional[1].data), positional[2], node)
        return Known(node, data=None)
    if name == "hasattr" and isinstance(first, Thing) and isinstance(positional[-1], Known):
        held = first.attributes.get(str(positional[-1].data))
        return Unknown(node) if held is None or isinstance(held, Unknown) else Known(node, data=True)
    if name == "vars" or callee.last in ("asdict", "model_dump"):
        return _as_mapping(first, node)
    if name == "isinstance" and len(positional) == 2:
        return _isinstance(machine, node, positional[0], positional[1])
    if name in ("print", "exit", "quit"):
        return Known(node, data=None)
    if name == "super":
        return callee
    return Unknown(node) if name in _NOT_FOLLOWED else _of_modules(callee, node, positional)


_NOT_FOLLOWED = {"hasattr", "range", "zip", "enumerate", "map", "filter", "sum", "any", "all", "type"}


def _listed(value: Value, node: ast.AST) -> Value:
    """A list of the items of a value."""
    if not isinstance(value, Listing):
        return _like(value, node)
    of, no_head = value.linear_of, value.head_taken_out
    return Listing(node, items=list(value.items), exact=value.exact, linear_of=of, head_taken_out=no_head)


def _length(value: Value | None, node: ast.AST) -> Value:
    if isinstance(value, Made) and value.maker == "a tokenizer":
        return Unknown(node, why="It is asked of the tokenizer while the script runs.", part=(value, "len"))
    if isinstance(value, Listing) and value.exact:
        return Known(node, data=len(value.items))
    if isinstance(value, Mapping) and value.exact and not _perhaps_less(value):
        return Known(node, data=len(value.items))
    return Unknown(node)


def _perhaps_less(holder: Mapping) -> bool:
    """True where a key may be absent: one that is set under a condition has an unknown value."""
    return any(isinstance(value, Unknown) for value in holder.items.values())


def _of_modules(callee: Name, node: ast.AST, positional: list[Value]) -> Value | None:
    name = callee.dotted
    if name in ("os.environ.get", "os.getenv", "environ.get", "getenv"):
        key = positional[0].data if positional and isinstance(positional[0], Known) else "a variable"
        if len(positional) > 1 and isinstance(positional[1], Known) and positional[1].data is not None:
            return given(positional[1], f"value where the environment sets no {str(key)[:60]}")
        return Unknown(node, why=f"The environment decides: {key}.")
    if name in ("torch.device",) and positional:
        return positional[0]
    if callee.last in ("safe_load", "full_load", "load", "loads", "load_config") and not name.startswith(
        ("torch", "datasets")
    ):
        return Unknown(node, why="A file that the script reads decides.")
    if name in ("torch.cuda.device_count", "torch.cuda.is_available"):
        return (
            Known(node, by_card=False, data=True)
            if name.endswith("is_available")
            else Unknown(node, why="The machine decides.")
        )
    if callee.last in ("literal_eval",) and positional:
        return Unknown(node)
    if callee.last in ("Option", "Argument") and name.startswith("typer"):
        if not positional or (isinstance(positional[0], Known) and positional[0].data is ...):
            return Unknown(node, why="The command line decides.")
        return given(positional[0], "default of the script's option")
    return None


def _like(value: Value | None, node: ast.AST) -> Value:
    if isinstance(value, Known) and isinstance(value.data, str):
        return Known(node, value.given, data=value.data)
    return value if isinstance(value, Unknown) else Unknown(node)


def _pure(name: str, node: ast.AST, positional: list[Value]) -> Value:
    for value in positional:
        if isinstance(value, Unknown):
            return value
    if name == "bool" and len(positional) == 1 and isinstance(positional[0], Listing | Mapping) and positional[0].exact:
        return Known(node, data=bool(positional[0].items))
    datas = [value.data for value in positional if isinstance(value, Known)]
    if len(datas) != len(positional) or not all(isinstance(data, str | int | float | bool) for data in datas):
        return Unknown(node)
    if any(isinstance(data, int) and abs(data) > 10**18 for data in datas):
        return Unknown(node)
    try:
        result = _PURE[name](*datas)
    except (TypeError, ValueError, OverflowError):
        return Unknown(node)
    by_card = any(value.by_card for value in positional)
    whose = next((value.given for value in positional if value.given is not None), None)
    return Known(node, whose, by_card, data=result)


_TYPES: dict[str, tuple[type, ...]] = {"str": (str,), "int": (int,), "float": (float,), "bool": (bool,)}


def _isinstance(machine: Library, node: ast.AST, value: Value, kind: Value) -> Value:
    """``isinstance`` of plain data and of objects of the script's own classes."""
    kinds = kind.items if isinstance(kind, Listing) else [kind]
    found = [_is_of(machine, value, each) for each in kinds]
    if True in found:
        return resting_on(Known(node, data=True), value)
    return Unknown(node) if None in found else resting_on(Known(node, data=False), value)


def _is_of(machine: Library, value: Value, kind: Value) -> bool | None:
    if isinstance(value, Thing) and value.of is not None and isinstance(kind, Class):
        lineage = machine.lineage(value.of)
        if any(each is kind for each in lineage):
            return True
        return False if all(isinstance(each, Class) for each in lineage) else None
    if not isinstance(kind, Name):
        return False if isinstance(kind, Class) and isinstance(value, Known | Mapping | Listing) else None
    if isinstance(value, Known) and kind.dotted in (*_TYPES, "dict", "list"):
        return isinstance(value.data, _TYPES.get(kind.dotted, ()))
    if isinstance(value, Mapping) and kind.dotted in (*_TYPES, "dict", "list"):
        return kind.dotted == "dict"
    if isinstance(value, Listing) and kind.dotted in (*_TYPES, "dict"):
        return False
    return None


def _getattr(machine: Library, node: ast.AST, positional: list[Value]) -> Value:
    if len(positional) < 2 or not isinstance(positional[1], Known) or not isinstance(positional[1].data, str):
        return next((value for value in positional if isinstance(value, Unknown)), Unknown(node))
    holder, name = positional[0], positional[1].data
    if isinstance(holder, Thing) and holder.exact and name not in holder.attributes and len(positional) > 2:
        return positional[2]
    found = machine.attribute(holder, name.rpartition(".")[2] if isinstance(holder, Name) else name, node)
    return resting_on(found, positional[1])


def _as_mapping(value: Value | None, node: ast.AST) -> Value:
    if isinstance(value, Thing):
        return Mapping(node, items=dict(value.attributes), exact=value.exact)
    if isinstance(value, Made):
        return Mapping(node, items=dict(value.arguments), exact=False)
    return value if isinstance(value, Mapping) else Unknown(node)


# -- methods


def call_method(
    machine: Library,
    holder: Known | Listing | Mapping,
    name: str,
    node: ast.Call,
    positional: list[Value],
    named: dict[str, Value],
) -> Value | None:
    """What a method of a text, a list or a dict returns."""
    if isinstance(holder, Mapping):
        return _on_mapping(machine, holder, name, node, positional, named)
    if isinstance(holder, Listing):
        return _on_listing(machine, holder, name, node, positional)
    return _on_text(machine, holder, name, node, positional, named)


def _on_mapping(
    machine: Library, holder: Mapping, name: str, node: ast.Call, positional: list[Value], named: dict[str, Value]
) -> Value:
    if name in ("get", "pop", "setdefault"):
        return _on_key(machine, holder, name, node, positional)
    if name == "update":
        for new in [*positional, Mapping(node, items=dict(named))]:
            for key, value in new.items.items() if isinstance(new, Mapping) else ():
                holder.items[key] = machine.weakened(holder, holder.items.get(key), value)
            if not isinstance(new, Mapping) or not new.exact:
                machine.scatter(holder)
        return Known(node, data=None)
    if name == "copy":
        return Mapping(node, items=dict(holder.items), exact=holder.exact)
    if name == "keys":
        exact = holder.exact and not _perhaps_less(holder)
        return Listing(node, items=[Known(node, data=key) for key in holder.items], exact=exact)
    if name == "items":
        pairs: list[Value] = [
            Listing(node, items=[Known(node, data=key), value]) for key, value in list(holder.items.items())
        ]
        return Listing(node, items=pairs, exact=holder.exact and not _perhaps_less(holder))
    if name == "values":
        return Listing(node, items=list(holder.items.values()), exact=holder.exact and not _perhaps_less(holder))
    if name in ("clear", "popitem"):
        machine.scatter(holder)
    return Unknown(node)


def _on_key(machine: Library, holder: Mapping, name: str, node: ast.Call, positional: list[Value]) -> Value:
    """``get``, ``pop`` and ``setdefault``."""
    key = positional[0] if positional else None
    default = positional[1] if len(positional) > 1 else Known(node, data=None)
    if not isinstance(key, Known) or not isinstance(key.data, str | int | bool | None):
        if name != "get":
            machine.scatter(holder)
        return Unknown(node)
    held = holder.items.get(key.data)
    if held is not None and name == "pop":
        if machine.is_own(holder):
            del holder.items[key.data]
        else:
            holder.items[key.data] = machine.changed(held, Unknown(node, why="It may have been taken away."), holder)
    if held is not None:
        return resting_on(held, key)
    if not holder.exact:
        if name == "setdefault":
            holder.items[key.data] = Unknown(node)
        return Unknown(node)
    if name == "setdefault":
        holder.items[key.data] = machine.weakened(holder, None, default)
    return default


def _on_listing(machine: Library, holder: Listing, name: str, node: ast.Call, positional: list[Value]) -> Value:
    if name in ("append", "add") and positional:
        if machine.is_own(holder) and len(holder.items) < MOST_ITEMS:
            holder.items.append(positional[0])
        else:
            machine.loosen(holder)
        return Known(node, data=None)
    if name in ("extend", "update") and positional:
        new = positional[0]
        if (
            isinstance(new, Listing)
            and new.exact
            and machine.is_own(holder)
            and len(holder.items) + len(new.items) < MOST_ITEMS
        ):
            holder.items += new.items
        else:
            machine.loosen(holder)
        return Known(node, data=None)
    if name == "copy":
        return Listing(node, items=list(holder.items), exact=holder.exact)
    if name in ("remove", "discard") and holder.linear_of is not None and positional:
        gone = positional[0]
        holder.head_taken_out = isinstance(gone, Known) and gone.data in _HEADS
        return Known(node, data=None)
    if name not in ("index", "count"):
        machine.loosen(holder)
    return Unknown(node)


def _on_text(
    machine: Library, holder: Known, name: str, node: ast.Call, positional: list[Value], named: dict[str, Value]
) -> Value:
    if not isinstance(holder.data, str):
        return Unknown(node)
    of_path = path_method(machine, holder, name, node, positional)
    if of_path is not None:
        return of_path
    datas = [value.data for value in positional if isinstance(value, Known)]
    if name == "join" and positional and isinstance(positional[0], Listing) and positional[0].exact:
        words = [item.data for item in positional[0].items if isinstance(item, Known) and isinstance(item.data, str)]
        if len(words) == len(positional[0].items) and sum(map(len, words)) < MOST_TEXT:
            return Known(node, data=holder.data.join(words))
        return Unknown(node)
    if len(datas) != len(positional):
        return next((value for value in positional if isinstance(value, Unknown)), Unknown(node))
    if name == "split" and len(datas) <= 1:
        parts = holder.data.split(*datas) if all(isinstance(d, str) and d for d in datas) else []
        return Listing(
            node, items=[Known(node, holder.given, data=part) for part in parts[:MOST_ITEMS]], exact=bool(parts)
        )
    if name == "format" and "{" in holder.data:
        return Unknown(node, why="It is a formatted text.")
    if name not in _TEXT_METHODS or not all(isinstance(data, str) for data in datas) or named:
        return Unknown(node)
    if sum(len(str(data)) for data in datas) * len(holder.data) > 50 * MOST_TEXT:
        return Unknown(node, why="It is a very long text.")
    try:
        result = getattr(holder.data, name)(*datas)
    except (TypeError, ValueError):
        return Unknown(node)
    if isinstance(result, str) and len(result) > MOST_TEXT:
        return Unknown(node)
    return Known(node, holder.given, holder.by_card, data=result)

"""``@hydra.main``: the config that Hydra composes for a function, from the YAML files beside the script.

Source: hydra's documentation of the defaults list; packages and choices by interpolation are not followed, and unknown.
"""

from __future__ import annotations

import ast
import re
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from .command_line import natural
from .files import content, over, replaceable
from .source import Written
from .values import Known, Listing, Mapping, Unknown, Value

if TYPE_CHECKING:
    from .arguments import Arguments

_OVERRIDE = re.compile(r"\+{0,2}([\w.]+)=(.*)\Z", re.DOTALL)
_MOST_PARTS = 24


def composed(machine: Arguments, node: ast.AST, named: dict[str, Value]) -> Value:
    """What the decorated function is given, by the arguments of ``hydra.main``."""
    folder, name = named.get("config_path"), named.get("config_name")
    if not isinstance(folder, Known) or not isinstance(name, Known) or not isinstance(name.data, str):
        return Unknown(node, why="Hydra composes the config, and its name is not known.")
    whole = _read(machine, PurePosixPath(str(folder.data or ".")), name.data, node, [_MOST_PARTS])
    if not isinstance(whole, Mapping):
        return whole
    found = replaceable(whole, 12)
    assert isinstance(found, Mapping)
    for start in machine.starts:
        for word in start.words:
            match = _OVERRIDE.match(word.text or "")
            if match is not None:
                at = Written(word.place)
                alone = len(machine.starts) == 1
                _set(found, match[1].split("."), natural(match[2], at) if alone else Unknown(at, why="Several starts."))
    return found


def _read(machine: Arguments, folder: PurePosixPath, name: str, node: ast.AST, left: list[int]) -> Value:
    """One YAML with what its defaults list names, the file itself where ``_self_`` stands, else last."""
    left[0] -= 1
    if left[0] < 0:
        return Unknown(node, why="Hydra composes the config of very many files.")
    path = str(folder / (name if name.endswith((".yaml", ".yml")) else f"{name}.yaml"))
    own = content(machine, Known(node, data=path), node, interpolates=True)
    if not isinstance(own, Mapping):
        return own
    defaults = own.items.get("defaults")
    listed = defaults.items if isinstance(defaults, Listing) else []
    body = Mapping(own.node, items={k: v for k, v in own.items.items() if k != "defaults"}, exact=own.exact)
    whole: Mapping = Mapping(own.node)
    placed = False
    for entry in listed:
        if isinstance(entry, Known) and entry.data == "_self_":
            whole, placed = over(whole, body, node), True
            continue
        part = _part(machine, folder, entry, node, left)
        if not isinstance(part, Mapping):
            return part
        whole = over(whole, part, node)
    return whole if placed else over(whole, body, node)


def _part(machine: Arguments, folder: PurePosixPath, entry: Value, node: ast.AST, left: list[int]) -> Value:
    """What one entry of a defaults list adds: ``name`` of the same folder, or ``group: name`` under the group."""
    if isinstance(entry, Known) and isinstance(entry.data, str):
        return _read(machine, folder, entry.data, node, left)
    if not isinstance(entry, Mapping) or len(entry.items) != 1:
        return Unknown(node, why="Hydra composes the config in a way that is not read.")
    group, chosen = next(iter(entry.items.items()))
    group = str(group).removeprefix("override ").removeprefix("optional ")
    if group.startswith("hydra"):
        return Mapping(node)
    if not isinstance(chosen, Known) or not isinstance(chosen.data, str):
        is_none = isinstance(chosen, Known) and chosen.data is None
        return Mapping(node) if is_none else Unknown(node, why=f"Which {group} Hydra takes is not known.")
    inner = _read(machine, folder / group, chosen.data, node, left)
    for step in reversed(group.partition("@")[0].split("/")):
        inner = Mapping(node, items={step: inner}) if isinstance(inner, Mapping) else inner
    return inner


def _set(holder: Mapping, steps: list[str], value: Value) -> None:
    for step in steps[:-1]:
        inner = holder.items.get(step)
        if not isinstance(inner, Mapping):
            return
        holder = inner
    chooses = isinstance(holder.items.get(steps[-1]), Mapping)
    holder.items[steps[-1]] = Unknown(value.node, why="The command line chooses it.") if chooses else value

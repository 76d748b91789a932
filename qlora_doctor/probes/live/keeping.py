"""Values and attributes of objects that are not ours, kept and put back in place: the same objects, the same values.

A script may wrap an optimizer, or replace its ``step`` by a function or a method of its own, and count in it. What such
code keeps in its object's attributes, in the function's own attributes, in the variables that the function closes over
or in the globals that it names is put back; what it writes elsewhere (a file, a server) is out of reach.
"""

from __future__ import annotations

import functools
import types
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

_LARGEST = 10_000
"""Items of a container that is kept; larger ones are data, which a step does not write."""
_LIBRARIES = frozenset(("torch", "accelerate", "transformers", "peft", "bitsandbytes", "trl"))
"""Functions of these keep nothing in their globals that a script would miss."""
_PLAIN = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device)
_CONTAINERS = (dict, list, tuple, set, deque)
_LEFT_ALONE = (*_PLAIN, *_CONTAINERS, type, types.ModuleType, types.BuiltinFunctionType, nn.Module, torch.Tensor)


@dataclass
class Kept:
    """A value and how to bring it back.

    Attributes:
        value: the object itself, for its identity.
        inside: what it held: a copy of a tensor, kept items of a container; None for what has no inside of its own.
    """

    value: Any
    inside: Any = None

    def put_back(self) -> Any:
        """The same object, holding what it held."""
        if isinstance(self.value, torch.Tensor) and self.inside is not None:
            with torch.no_grad():
                self.value.copy_(self.inside)
        elif isinstance(self.value, dict) and self.inside is not None:
            restored = {key: kept.put_back() for key, kept in self.inside.items()}
            self.value.clear()
            self.value.update(restored)
        elif isinstance(self.value, list | deque) and self.inside is not None:
            restored_items = [kept.put_back() for kept in self.inside]
            self.value.clear()
            self.value.extend(restored_items)
        elif isinstance(self.value, set) and self.inside is not None:
            self.value.clear()
            self.value.update(self.inside)
        elif isinstance(self.value, tuple) and self.inside is not None:
            for kept in self.inside:
                kept.put_back()
        return self.value


def keep(value: Any) -> Kept:
    """Keep a tensor, a container of them, or a plain value; any other object is kept as a reference."""
    if isinstance(value, nn.Parameter):
        return Kept(value)  # a parameter of the model: kept with the model
    if isinstance(value, torch.Tensor):
        return Kept(value, None if value.is_meta else value.detach().to("cpu", copy=True))
    if isinstance(value, dict) and len(value) <= _LARGEST:
        return Kept(value, {key: keep(inner) for key, inner in value.items()})
    if isinstance(value, list | tuple | deque) and len(value) <= _LARGEST:
        return Kept(value, [keep(inner) for inner in value])
    if isinstance(value, set) and len(value) <= _LARGEST:
        return Kept(value, set(value))
    return Kept(value)


@dataclass
class KeptAttributes:
    """The attributes of some objects, and the variables of the functions among them."""

    objects: list[tuple[dict[str, Any], dict[str, Kept]]] = field(default_factory=list)
    cells: list[tuple[types.CellType, Kept]] = field(default_factory=list)
    globals: list[tuple[dict[str, Any], str, Kept]] = field(default_factory=list)

    def put_back(self) -> None:
        """Restore them in place; attributes that are new are taken away."""
        for own, kept in self.objects:
            for name in [name for name in own if name not in kept]:
                del own[name]
            for name, value in kept.items():
                own[name] = value.put_back()
        for cell, value in self.cells:
            cell.cell_contents = value.put_back()
        for names, name, value in self.globals:
            names[name] = value.put_back()


def keep_attributes(objects: list[Any], without: frozenset[str] = frozenset()) -> KeptAttributes:
    """Keep what these objects hold, and what the functions and methods among their attributes hold in turn.

    Args:
        without: names of attributes that somebody else keeps.
    """
    found = KeptAttributes()
    seen: set[int] = set()
    waiting = list(objects)
    while waiting:
        one = waiting.pop()
        if id(one) in seen or _is_left_alone(one):
            continue
        seen.add(id(one))
        own = getattr(one, "__dict__", None)
        if isinstance(own, dict):
            names = [name for name in own if name not in without]
            found.objects.append((_Without(own, without), {name: keep(own[name]) for name in names}))  # type: ignore[arg-type]
            waiting += [value for value in own.values() if callable(value)]
        waiting += _behind(one)
        for cell in getattr(one, "__closure__", None) or ():
            try:
                content = cell.cell_contents
            except ValueError:  # not set yet
                continue
            found.cells.append((cell, keep(content)))
            waiting.append(content)
        if isinstance(one, types.FunctionType) and (one.__module__ or "").partition(".")[0] not in _LIBRARIES:
            for name in {*one.__code__.co_names} & {*one.__globals__}:
                value = one.__globals__[name]
                if not callable(value) and not isinstance(value, types.ModuleType):
                    found.globals.append((one.__globals__, name, keep(value)))
                waiting.append(value)
    return found


class _Without:
    """An object's attributes, some of them hidden."""

    def __init__(self, own: dict[str, Any], hidden: frozenset[str]) -> None:
        self._own, self._hidden = own, hidden

    def __iter__(self) -> Any:
        return iter([name for name in self._own if name not in self._hidden])

    def __delitem__(self, name: str) -> None:
        del self._own[name]

    def __setitem__(self, name: str, value: Any) -> None:
        self._own[name] = value


def _behind(one: Any) -> list[Any]:
    """What a method, a partial or a decorated function hands on to."""
    if isinstance(one, types.MethodType):
        return [one.__self__, one.__func__]
    if isinstance(one, functools.partial):
        return [one.func, *one.args, *one.keywords.values()]
    return []


def _is_left_alone(one: Any) -> bool:
    """Plain values have nothing to keep; modules, classes and tensors are not the step's own."""
    return isinstance(one, _LEFT_ALONE)

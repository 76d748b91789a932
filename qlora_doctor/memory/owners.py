"""Whose a storage is: the module that was at work, the operator that made it, its shape and type.

A module is known while its ``forward`` runs. In the backward pass autograd's node tells it: each node has a number, and
numbers grow as a forward pass makes nodes, so the module at work at that number made the node. Nothing here holds a
tensor, or the tape would show it as alive.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from .tape import Owner

_LAYER = re.compile(r"\.\d+(?=\.|$)")


class Owners:
    """Notes the owner of each storage of a tape.

    Args:
        model: whose modules and parameters have names.
        noted: the tape's owners, by storage.
    """

    def __init__(self, model: torch.nn.Module, noted: dict[int, Owner]) -> None:
        self._noted = noted
        self._modules = {id(module): _plain(name) for name, module in model.named_modules()}
        self._tensors: dict[int, str] = {}
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            state = getattr(tensor, "quant_state", None) if type(tensor).__name__ == "Params4bit" else None
            inner = getattr(state, "state2", None)
            parts = [tensor, *(getattr(state, each, None) for each in ("absmax", "code", "offset"))]
            for part in (*parts, getattr(inner, "absmax", None)):
                if isinstance(part, torch.Tensor):
                    self._tensors.setdefault(id(part), _plain(name))
        self._same: dict[Owner, Owner] = {}
        self._at_work: list[str] = []
        self._numbers: list[int] = []
        self._by_number: list[str] = []

    def note(self, index: int, out: torch.Tensor, operator: str) -> None:
        """A storage has been made by an operator."""
        self._note(index, Owner(self._now(), operator, tuple(out.shape), _type(out)))

    def note_known(self, index: int, tensor: torch.Tensor) -> None:
        """A storage of a parameter, a buffer or a statistic of one."""
        name = self._tensors.get(id(tensor))
        if name is not None:
            self._note(index, Owner(name, "", tuple(tensor.shape), _type(tensor)))

    def _note(self, index: int, owner: Owner) -> None:
        self._noted[index] = self._same.setdefault(owner, owner)

    def learn(self, model: torch.nn.Module, index_of: Callable[[torch.Tensor], int | None]) -> None:
        """Parameters that a trainer has cast are others than before."""
        for name, parameter in model.named_parameters():
            index = index_of(parameter)
            if index is not None and id(parameter) not in self._tensors:
                self._tensors[id(parameter)] = _plain(name)
                self.note_known(index, parameter)

    @contextmanager
    def on_behalf_of(self, tensor: torch.Tensor) -> Iterator[None]:
        """Within, what is made is a parameter's."""
        self._at_work.append(self._tensors.get(id(tensor), ""))
        try:
            yield
        finally:
            self._at_work.pop()

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Within, every call of a module is known. The call itself stays what it is: hooks would be seen by others."""
        call = torch.nn.Module.__call__

        def called(module: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
            name = self._modules.get(id(module))
            if name is None:
                return call(module, *args, **kwargs)
            self._enter(name)
            try:
                return call(module, *args, **kwargs)
            finally:
                self._leave()

        torch.nn.Module.__call__ = called
        try:
            yield
        finally:
            torch.nn.Module.__call__ = call

    def _enter(self, name: str) -> None:
        self._at_work.append(name)
        self._mark(name)

    def _leave(self) -> None:
        self._at_work.pop()
        self._mark(self._at_work[-1] if self._at_work else "")

    def _mark(self, name: str) -> None:
        self._numbers.append(torch.autograd._get_sequence_nr())
        self._by_number.append(name)

    def _now(self) -> str:
        if self._at_work:
            return self._at_work[-1]
        node: Any = torch._C._current_autograd_node()
        number = getattr(node, "_sequence_nr", None)
        place = bisect_right(self._numbers, number()) if number is not None else 0
        return self._by_number[place - 1] if place else ""


def _plain(name: str) -> str:
    """A name as the base has it, numbers of layers and experts as ``*``."""
    name = (
        f"{name}.".removeprefix("base_model.").removeprefix("model.") if name.startswith("base_model") else f"{name}."
    )
    for part in ("base_layer.", "original_module.", "modules_to_save."):
        name = name.replace(part, "")
    name = name.removesuffix(".")
    return _LAYER.sub(".*", name)


def _type(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")

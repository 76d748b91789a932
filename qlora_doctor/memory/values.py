"""The values of small integer tensors beside their meta twins.

Modeling code reads some: is every token attended to, do positions start again, which expert got which token. Masks,
positions and ids are small and their values are known, so their operators run on the CPU as well, and a branch gets the
answer that a real batch would give.
"""

from __future__ import annotations

import re
import sys
import weakref
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

aten = torch.ops.aten

LIMIT = 1 << 22
"""Elements up to which a tensor's values are followed; larger ones (a batch × 1 × S × S mask) never decide a branch."""


class UnknownValue(RuntimeError):
    """Modeling code asked for a value that no real batch is needed to know, but that the trace does not know."""


_TRAINERS = re.compile(r"[/\\](trl[/\\]trainer|trl[/\\]experimental|accelerate|transformers[/\\]trainer)")


def _asked_by_a_trainer() -> bool:
    """Whether a trainer, which reads values to log them, and no model's code reads one now."""
    frame = sys._getframe(1)
    while frame is not None:
        name = frame.f_code.co_filename
        if not re.search(r"[/\\](torch|qlora_doctor)[/\\]", name):
            return _TRAINERS.search(name) is not None
        frame = frame.f_back  # type: ignore[assignment]
    return False


class Values:
    """Known values by meta tensor.

    ``current``: those of the trace that runs now.
    """

    current: ClassVar[Values | None] = None

    def __init__(self) -> None:
        self._known: dict[int, tuple[weakref.ref[torch.Tensor], torch.Tensor]] = {}

    def know(self, tensor: torch.Tensor, value: torch.Tensor) -> None:
        """Say what a meta tensor holds."""
        key = id(tensor)
        self._known[key] = (weakref.ref(tensor, lambda _: self._known.pop(key, None)), value)

    def get(self, tensor: torch.Tensor) -> torch.Tensor | None:
        """What a meta tensor holds, if that is known."""
        entry = self._known.get(id(tensor))
        return None if entry is None or entry[0]() is not tensor else entry[1]

    def scalar(self, tensor: torch.Tensor) -> Any:
        """The one value of a tensor of one element."""
        value = self.get(tensor)
        if value is None and _asked_by_a_trainer():
            return torch.ones((), dtype=tensor.dtype).item()
        if value is None:
            raise UnknownValue(
                "the model's own code reads a value from the device that does not follow from the batch's shape"
            )
        return value.item()

    def read(self, tensor: torch.Tensor) -> torch.Tensor:
        """All values of a tensor, on the host.

        Raises:
            UnknownValue: they are not known.
        """
        value = self.get(tensor)
        if value is None and _asked_by_a_trainer():
            return torch.ones(tensor.shape, dtype=tensor.dtype)
        if value is None:
            raise UnknownValue(
                "the model's own code reads values from the device that do not follow from the batch's shape"
            )
        return value

    def made(self, args: Any, kwargs: Any) -> torch.Tensor:
        """``torch.tensor(…)``, whose values a meta tensor would drop."""
        args, kwargs = tree_map(self._plain, (args, kwargs))
        out: torch.Tensor = torch.tensor(*args, **kwargs)
        if out.device.type == "meta":
            self.know(out, torch.tensor(*args, **{**kwargs, "device": "cpu"}))
        return out

    def _plain(self, item: Any) -> Any:
        return self.read(item) if isinstance(item, torch.Tensor) and item.device.type == "meta" else item

    def compute(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Run an operator whose result's shape depends on values: on the known ones, handing back meta tensors."""
        flat, tree = tree_flatten((args, kwargs))
        real = [self._real(item) for item in flat]
        if any(item is None and isinstance(original, torch.Tensor) for item, original in zip(real, flat, strict=True)):
            raise UnknownValue(
                f"the size of {func}'s result depends on values that do not follow from the batch's shape"
            )
        real_args, real_kwargs = tree_unflatten(real, tree)
        result = func(*real_args, **real_kwargs)
        flat_results, results_tree = tree_flatten(result)
        metas = []
        for item in flat_results:
            if isinstance(item, torch.Tensor):
                meta = torch.empty_like(item, device="meta")
                self.know(meta, item)
                item = meta
            metas.append(item)
        return tree_unflatten(metas, results_tree)

    def follow(self, func: Any, args: Any, kwargs: Any, out: torch.Tensor) -> None:
        """Compute an operator's result on the CPU too, if everything it reads is known and small."""
        if (
            out.device.type != "meta"
            or out.numel() > LIMIT
            or func is aten.empty_like.default
            or func is aten.empty.memory_format
        ):
            return
        value = self._worked_out(func, args, kwargs)
        if isinstance(value, torch.Tensor):
            self.know(out, value)
        elif any(item is out for item in args):
            self._known.pop(id(out), None)  # written over by something that is not known

    def follow_all(self, func: Any, args: Any, kwargs: Any, outs: Sequence[Any]) -> None:
        """The same for an operator of several results (``chunk``, ``topk``)."""
        if any(isinstance(out, torch.Tensor) and (out.device.type != "meta" or out.numel() > LIMIT) for out in outs):
            return
        values = self._worked_out(func, args, kwargs)
        if isinstance(values, (tuple, list)):
            for out, value in zip(outs, values, strict=True):
                if isinstance(out, torch.Tensor) and isinstance(value, torch.Tensor):
                    self.know(out, value)

    def _worked_out(self, func: Any, args: Any, kwargs: Any) -> Any:
        """What the operator gives for the known values; None where one is not known, or it cannot run on them."""
        flat, tree = tree_flatten((args, kwargs))
        real = []
        for item in flat:
            if isinstance(item, torch.Tensor):
                value = self._real(item)
                if value is None:
                    return None
                real.append(value)
            else:
                real.append(self._real(item))
        real_args, real_kwargs = tree_unflatten(real, tree)
        try:
            return func(*real_args, **real_kwargs)
        except (RuntimeError, TypeError):
            return None

    def _real(self, item: Any) -> Any:
        if isinstance(item, torch.Tensor):
            return item if item.device.type == "cpu" else self.get(item)
        if isinstance(item, torch.device) and item.type == "meta":
            return torch.device("cpu")
        return item

"""Watch every device storage come and go while PyTorch runs on the meta device.

A dispatch mode sees each operator's results; a weak reference to each storage tells when its last owner lets go, which
is the same moment at which CUDA's allocator would be called, because autograd, checkpointing and Python keep or drop
tensors in the same way on every device.
"""

from __future__ import annotations

import weakref
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from .operators import PLAYED
from .owners import Owners
from .tape import ALLOC, FREE, Tape
from .values import Values

aten = torch.ops.aten
FEW = 256
"""Elements up to which the values of floats are followed too: rewards and their like, which trainers branch on. Ones
are always: some models make their masks of them."""
_FLOATS = frozenset((torch.float32, torch.bfloat16, torch.float16, torch.float64))


class _Storage(weakref.ref):  # type: ignore[type-arg]
    """A weak reference that remembers which storage of the tape it stands for."""

    __slots__ = ("index", "key")

    index: int
    key: int


class Recorder(TorchDispatchMode):  # type: ignore[misc]
    """Write what happens to storages on the meta device to ``tape``.

    Parameters
    ----------
    tape: where to.
    vocabulary: size of the model's vocabulary; a result whose last dimension has it counts as logits.

    Attributes
    ----------
    values: the values of small integer tensors, so that a branch of modeling code that reads one gets the answer of a
        real batch.
    category: the part of the breakdown new storages belong to; None where it follows from the operator.
    in_backward: whether autograd's device thread, and not the main thread, would be running now.
    owners: notes whose each storage is; None where nobody asks.
    """

    def __init__(self, tape: Tape, vocabulary: int = 0) -> None:
        super().__init__()
        self.tape = tape
        self.vocabulary = vocabulary
        self.category: str | None = None
        self.in_backward = False
        self.values = Values()
        self.owners: Owners | None = None
        self._operator = ""
        self._live: dict[int, _Storage] = {}
        self._threads_with_blas: set[bool] = set()
        self._kept: list[object] = []

    def __enter__(self) -> Recorder:
        Values.current = self.values
        super().__enter__()
        return self

    def __exit__(self, *raised: Any) -> None:
        Values.current = None
        super().__exit__(*raised)

    def adopt(self, tensor: torch.Tensor, category: str) -> None:
        """Count a storage that exists already (a parameter of a model that was built before)."""
        storage = tensor.untyped_storage()
        if storage._cdata not in self._live and storage.nbytes():
            index = self.tape.alloc(storage.nbytes(), category)
            self._watch(storage, index)
            if self.owners is not None:
                self.owners.note_known(index, tensor)

    def index_of(self, tensor: torch.Tensor) -> int | None:
        """The tape's index of a tensor's storage."""
        entry = self._live.get(tensor.untyped_storage()._cdata)
        return None if entry is None else entry.index

    def recategorise(self, tensor: torch.Tensor, category: str) -> None:
        """Book a live storage under another part of the breakdown."""
        index = self.index_of(tensor)
        if index is not None:
            self.tape.categories[index] = category

    def take_blas_workspace(self) -> None:
        """The first matrix product of a thread takes cuBLAS' workspace, which stays."""
        if self.in_backward not in self._threads_with_blas:
            self._threads_with_blas.add(self.in_backward)
            self.tape.workspaces.append(self.tape.alloc(0, "workspaces"))

    def see(self, out: torch.Tensor, category: str | None = None) -> None:
        """Count the storage of an operator's result if it is new."""
        storage = out.untyped_storage()
        if storage._cdata in self._live:
            return
        size = storage.nbytes()
        if size == 0 or out.device.type != "meta":
            return
        tape = self.tape
        index = len(tape.sizes)
        tape.sizes.append(size)
        shape = out.shape
        if category is None:
            category = self.category
        if category is None:
            is_logits = len(shape) > 1 and shape[-1] == self.vocabulary
            category = "logits_and_loss" if is_logits else "activations"
        tape.categories.append(category)
        tape.events.append(index << 2 | ALLOC)
        self._watch(storage, index)
        if self.owners is not None:
            self.owners.note(index, out, self._operator)

    def see_all(self, out: Any) -> None:
        """Count every tensor among an operator's results."""
        for item in out:
            if isinstance(item, torch.Tensor):
                self.see(item)

    def on_behalf_of(self, tensor: torch.Tensor) -> AbstractContextManager[None]:
        """Within, what is made is a parameter's."""
        return nullcontext() if self.owners is None else self.owners.on_behalf_of(tensor)

    def keep(self, owner: object) -> None:
        """Hold something that outlives the step, so that its end is not taken for a free."""
        self._kept.append(owner)

    def close(self) -> None:
        """Stop: what is let go from now on, the model above all, is no part of the tape."""
        self._live.clear()
        self._kept.clear()

    def _watch(self, storage: torch.UntypedStorage, index: int) -> None:
        entry = _Storage(storage, self._gone)
        entry.index = index
        entry.key = storage._cdata
        self._live[entry.key] = entry

    def _gone(self, entry: weakref.ref[Any]) -> None:
        assert isinstance(entry, _Storage)
        self.tape.events.append(entry.index << 2 | FREE)
        del self._live[entry.key]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        play = PLAYED.get(func)
        self._operator = func.overloadpacket.__name__
        out = func(*args, **kwargs) if play is None else play(self, func, args, kwargs)
        if isinstance(out, torch.Tensor):
            self.see(out)
            if out.dtype not in _FLOATS or out.numel() <= FEW or func is aten.ones.default:
                self.values.follow(func, args, kwargs, out)
        elif isinstance(out, (tuple, list)):
            self.see_all(out)
            if out and isinstance(out[0], torch.Tensor) and out[0].dtype not in _FLOATS:
                self.values.follow_all(func, args, kwargs, out)
        return out

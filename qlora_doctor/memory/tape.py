"""What a traced run did to device memory, in order, with sizes but without a device.

A tape is written once (:mod:`.trace`) and replayed as often as one likes: for other cards, other allocator settings,
later steps. An event is one integer, ``index << 2 | kind``; the four kinds are the constants below.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

ALLOC, FREE, OPEN, CLOSE = range(4)
"""A storage appears, a storage goes; a kernel that takes scratch memory of its own begins, ends."""

CATEGORIES = (
    "base_4bit",
    "quantization_statistics",
    "base_16bit",
    "base_32bit",
    "adapter",
    "gradients",
    "optimizer",
    "activations",
    "logits_and_loss",
    "dequantized_weights",
    "workspaces",
    "fragmentation",
)
"""The parts of a breakdown."""


@dataclass(frozen=True)
class Kernel:
    """A kernel that takes scratch memory below the dispatcher: which rule sizes it, and the shape it ran on."""

    rule: str
    shape: tuple[int, ...]


class Owner(NamedTuple):
    """Whose a storage is: module (layers as ``*``), operator (empty for what is a parameter's), shape, type."""

    module: str
    operator: str
    shape: tuple[int, ...]
    dtype: str


@dataclass
class Tape:
    """Events, the bytes and the category of every storage, the kernels, and where each phase begins.

    ``events[i]`` is ``index << 2 | kind``; ``sizes`` and ``categories`` are indexed by storage, ``kernels`` by kernel.
    ``phases`` holds (position in ``events``, name).
    """

    events: list[int] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    categories: list[str] = field(default_factory=list)
    kernels: list[Kernel] = field(default_factory=list)
    phases: list[tuple[int, str]] = field(default_factory=list)
    step_start: int = 0
    """Position in ``events`` from which a second step repeats the first."""
    workspaces: list[int] = field(default_factory=list)
    """Storages that are a cuBLAS workspace each; their bytes depend on the card."""
    emptied: list[int] = field(default_factory=list)
    """Positions in ``events`` before which the cache is emptied."""
    streams: dict[int, int] = field(default_factory=dict)
    """Storages that another stream than the main one (0) asked for: their blocks come from pools of its own."""
    owners: dict[int, Owner] = field(default_factory=dict)
    """Whose storages are, as far as that is known; tapes that are kept leave it out."""

    def alloc(self, size: int, category: str, stream: int = 0) -> int:
        """A storage of ``size`` bytes appears; returns its index."""
        index = len(self.sizes)
        if stream:
            self.streams[index] = stream
        self.sizes.append(size)
        self.categories.append(category)
        self.events.append(index << 2 | ALLOC)
        return index

    def free(self, index: int) -> None:
        """The storage goes."""
        self.events.append(index << 2 | FREE)

    @contextmanager
    def kernel(self, rule: str, *shape: int) -> Iterator[None]:
        """Whatever is allocated inside happens while this kernel holds its scratch memory."""
        index = len(self.kernels)
        self.kernels.append(Kernel(rule, shape))
        self.events.append(index << 2 | OPEN)
        yield
        self.events.append(index << 2 | CLOSE)

    def phase(self, name: str) -> None:
        """The events from here on belong to this phase."""
        self.phases.append((len(self.events), name))

    def empty_cache(self) -> None:
        """The program gives free segments back (``torch.cuda.empty_cache``)."""
        self.emptied.append(len(self.events))

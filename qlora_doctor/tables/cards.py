"""NVIDIA cards that people fine-tune on: memory really usable, compute capability, what CUDA takes.

A card is sold with 24 GB and gives a program 23.5 GiB; a prediction within 1% has to know. The table
(`data/cards.json`) holds, for each card, what the driver reports and where that was read.

Light: reads JSON with the standard library on first use, imports no torch.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, overload

from ..core.closest import closest

__all__ = [
    "CARDS",
    "Card",
    "UnknownCard",
    "card_for_memory",
    "cublas_workspace_bytes",
    "find_card",
    "match_device",
    "parse_memory",
]

TESTED_TORCH = (2, 13)
"""The PyTorch whose workspace sizes `Card.cublas_workspace_bytes` gives."""


@dataclass(frozen=True)
class Card:
    """One card, one memory size. Sizes in bytes."""

    name: str
    """As people call it, without "NVIDIA" and "GeForce"."""
    aliases: tuple[str, ...]
    """Other names that mean this card and no other."""
    shared_names: tuple[str, ...]
    """What the driver calls it where another version of the card has the same name."""
    memory_bytes: int
    """As sold, in binary units: 24 GB is 24 GiB."""
    usable_bytes: int
    """`torch.cuda.get_device_properties().total_memory` under Linux, error correction as shipped."""
    usable_estimated: bool
    """No published value was found; see `about` in the data file for the rule."""
    compute_capability: tuple[int, int]
    """(major, minor)."""
    multiprocessors: int
    """Streaming multiprocessors; 0 where the card is not a particular one."""
    unified_memory: bool
    """The memory is the system's: the operating system and every program share it."""
    context_overhead_bytes: int
    """What a process takes beside PyTorch's allocator: the CUDA context and the kernels it loads."""
    context_estimated: bool
    """The overhead is not a measurement of this card."""
    sources: tuple[str, ...]
    """Where the measured values were read."""

    @property
    def bf16(self) -> bool:
        """bfloat16 in hardware, so compute capability 8.0 or higher; before, CUDA only emulates it."""
        return self.compute_capability >= (8, 0)

    @property
    def cublas_workspace_bytes(self) -> int:
        """One cuBLAS workspace with the PyTorch that this release is tested with."""
        return cublas_workspace_bytes(self.compute_capability)


class UnknownCard(LookupError):
    """A name that the table does not know; `closest` has the names that look like it."""

    def __init__(self, name: str, closest: Sequence[str]) -> None:
        self.name = name
        self.closest = tuple(closest)
        hint = f"the closest are {', '.join(closest)}" if closest else "give its memory instead, such as 24GiB"
        super().__init__(f"No card named {name!r} is known; {hint}.")


def find_card(name: str) -> Card:
    """The card a person means: spaces, hyphens, letter case, "NVIDIA", "GeForce" and "RTX" do not matter.

    A name that several sizes share ("A100", "RTX 3080") means the one first sold, which is never the larger
    for the A100 and V100. Raises UnknownCard.
    """
    for series in ("", "rtx", "gtx"):
        if (found := _by_name().get(series + _key(name))) is not None:
            return found
    raise UnknownCard(name, _closest(name))


def match_device(name_from_driver: str, total_memory: int) -> Card | None:
    """The card behind a device: its name as NVML or torch gives it, its total memory in bytes.

    None where no card of that name has about that memory: a slice of a card (MIG), a virtual GPU, a card that
    the table does not know.
    """
    key = _key(name_from_driver)
    named = [card for card in CARDS if key in {_key(each) for each in (card.name, *card.aliases, *card.shared_names)}]
    near = [card for card in named if 0.9 * card.usable_bytes <= total_memory <= 1.01 * card.memory_bytes]
    return min(near, key=lambda card: abs(card.usable_bytes - total_memory), default=None)


def card_for_memory(memory_bytes: int) -> Card:
    """A card of which only the memory is known, all of it usable: an Ampere card (8.6), the most common kind.

    What depends on the card's kind (bfloat16, attention kernels, workspaces) is as on that.
    """
    if memory_bytes <= 0:
        raise ValueError(f"A card's memory must be positive, not {memory_bytes}.")
    return Card(
        name=f"{memory_bytes / 2**30:.4g} GiB",
        aliases=(),
        shared_names=(),
        memory_bytes=memory_bytes,
        usable_bytes=memory_bytes,
        usable_estimated=False,
        compute_capability=(8, 6),
        multiprocessors=0,
        unified_memory=False,
        context_overhead_bytes=512 << 20,
        context_estimated=True,
        sources=(),
    )


_UNITS = {
    "": 1, "b": 1,
    "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12,
    "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40,
    "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40,
}  # fmt: skip


def parse_memory(memory: str | int) -> int:
    """Bytes of "24GiB", "24 GB", "24G", "24576 MiB" or a plain number of bytes.

    GB is 10⁹ bytes and GiB is 2³⁰; a bare G is GiB, as nvidia-smi and Slurm mean it. Raises ValueError.
    """
    if isinstance(memory, bool):
        raise ValueError("A memory size is a number of bytes or a text such as 24GiB, not a truth value.")
    if isinstance(memory, int):
        size = memory
    else:
        read = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*", memory, re.IGNORECASE | re.ASCII)
        if read is None or read[2].lower() not in _UNITS:
            raise ValueError(f"{memory!r} is not a memory size; write it like 24GiB, 24GB or 24576MiB.")
        size = round(float(read[1]) * _UNITS[read[2].lower()])
        if not read[2] and 0 < size < 1 << 20:
            raise ValueError(f"{memory!r} names no unit, which is bytes; write it like {read[1]}GiB.")
    if size <= 0:
        raise ValueError(f"A memory size must be positive, not {memory!r}.")
    return size


def cublas_workspace_bytes(compute_capability: tuple[int, int], torch_version: tuple[int, int] = TESTED_TORCH) -> int:
    """Bytes of one cuBLAS workspace, which PyTorch takes from its own allocator per handle and stream.

    4096 KiB × 2 + 16 KiB × 8 = 8,519,680; 32 MiB on Hopper (9.0), and since 2.12 on Blackwell (10.x and 12.x,
    pytorch#175344), since 2.14 on 11.x (pytorch#189312). `CUBLAS_WORKSPACE_CONFIG` overrides it. The versions
    are those of the first release after the change was merged.
    Source: `parseChosenWorkspaceSize` in PyTorch's aten/src/ATen/cuda/CublasHandlePool.cpp.
    """
    major = compute_capability[0]
    large = {9: compute_capability == (9, 0), 10: torch_version >= (2, 12), 12: torch_version >= (2, 12)}
    large[11] = torch_version >= (2, 14)
    return 32 << 20 if large.get(major, False) else 4096 * 1024 * 2 + 16 * 1024 * 8


class _Cards(Sequence[Card]):
    """The cards of the table, read from the file on first use."""

    @overload
    def __getitem__(self, index: int) -> Card: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Card]: ...
    def __getitem__(self, index: int | slice) -> Card | Sequence[Card]:
        return _table()[index]

    def __len__(self) -> int:
        return len(_table())

    def __iter__(self) -> Iterator[Card]:
        return iter(_table())

    def __repr__(self) -> str:
        return f"CARDS({len(self)} cards)"


CARDS: Sequence[Card] = _Cards()
"""Every card of the table, by generation."""


@cache
def _table() -> tuple[Card, ...]:
    text = Path(__file__).with_name("cards.json").read_text("utf-8")
    return tuple(_card(entry) for entry in json.loads(text)["cards"])


def _card(entry: dict[str, Any]) -> Card:
    lists = {"aliases", "shared_names", "sources", "compute_capability"}
    fields: dict[str, Any] = {name: tuple(value) if name in lists else value for name, value in entry.items()}
    return Card(**fields)


@cache
def _by_name() -> dict[str, Card]:
    return {_key(name): card for card in CARDS for name in (card.name, *card.aliases)}


def _key(name: str) -> str:
    """A name without what people and drivers leave out or put in."""
    words = re.findall(r"[a-z]+|[0-9]+", name.casefold())
    skipped = {"nvidia", "geforce", "tesla", "gpu", "generation", "graphics", "gib"}
    return "".join(word for word in words if word not in skipped)


def _closest(name: str, n: int = 4) -> list[str]:
    key = _key(name)
    containing = [known for known in _by_name() if len(key) > 1 and _without_maker(key) in _without_maker(known)]
    similar = closest(key, _by_name(), n=3 * n)
    return list(dict.fromkeys(_by_name()[each].name for each in containing + similar))[:n]


def _without_maker(key: str) -> str:
    """The series left out as well: who writes "RTX 6000" may mean a Quadro, an Ada or a PRO."""
    return key.replace("quadro", "").replace("rtx", "").replace("gtx", "").replace("pro", "") or key

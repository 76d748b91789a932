"""What a prediction needs to know of a card."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Card:
    """A CUDA card.

    Attributes
    ----------
    name: as people call it.
    capability: compute capability, (major, minor).
    memory_bytes: what the card reports as its total.
    multiprocessors: streaming multiprocessors; bitsandbytes chooses its kernel by them.
    """

    name: str
    capability: tuple[int, int]
    memory_bytes: int
    multiprocessors: int = 0


H200 = Card("NVIDIA H200", (9, 0), 143771 << 20, 132)


def blas_workspace_bytes(card: Card) -> int:
    """Bytes of one cuBLAS workspace, which PyTorch takes from its own allocator for each thread.

    32 MiB on compute capability 9.0, 4 MiB × 2 + 16 KiB × 8 elsewhere; cuBLASLt shares it (2.7 and later).
    Source: ``ATen/cuda/CublasHandlePool.cpp`` (``parseChosenWorkspaceSize``), PyTorch 2.6 to 2.13.
    """
    return 32 << 20 if card.capability[0] == 9 else 8_519_680

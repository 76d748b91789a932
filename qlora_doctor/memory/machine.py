"""What a prediction is for: a card and the versions of the packages on it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

from ..core.versions import installed_versions
from ..tables.cards import Card, cublas_workspace_bytes


def allocator_settings() -> dict[str, str]:
    """What the environment sets for PyTorch's allocator: ``expandable_segments:True,…`` as names and values.

    Source: ``c10/core/AllocatorConfig.cpp``; ``PYTORCH_ALLOC_CONF`` (2.9 and later) comes before the older name.
    """
    for variable in ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"):
        if told := os.environ.get(variable):
            pairs = (part.split(":", 1) for part in told.split(",") if ":" in part)
            return {name.strip(): value.strip() for name, value in pairs}
    return {}


@cache
def _torch_version() -> str:
    """The PyTorch that is installed here; where none is, that of the traces that come with the package."""
    from ..tables.traces import index

    return installed_versions().get("torch") or str(index()["versions"]["torch"])


def has_cuda_12() -> bool:
    """Whether the PyTorch installed here was built for CUDA 12, whose wheels bring a cuDNN that is not taken first.

    Source: ``ATen/native/transformers/cuda/sdp_utils.cpp`` (``check_prefer_cudnn_attention``: cuDNN above 9.15).
    """
    return "+cu12" in installed_versions().get("torch", "")


@dataclass(frozen=True)
class Machine:
    """A card, the PyTorch on it and the allocator's setting.

    Attributes
    ----------
    card: the card.
    torch_version: (major, minor) of the PyTorch there; None takes the one that is installed here.
    expandable_segments: whether ``PYTORCH_ALLOC_CONF=expandable_segments:True`` is set there.
    cudnn_attention: whether cuDNN's attention may be taken (``torch.backends.cuda.enable_cudnn_sdp``).
    """

    card: Card
    torch_version: tuple[int, int] | None = None
    expandable_segments: bool = False
    cudnn_attention: bool = True

    @cached_property
    def torch(self) -> tuple[int, int]:
        """(major, minor) of the PyTorch that the prediction is for."""
        if self.torch_version is not None:
            return self.torch_version
        major, minor = _torch_version().split(".")[:2]
        return int(major), int(minor)

    @property
    def capability(self) -> tuple[int, int]:
        """Compute capability of the card."""
        return self.card.compute_capability

    @property
    def blas_workspace_bytes(self) -> int:
        """Bytes of one cuBLAS workspace; each thread that multiplies matrices takes one from PyTorch's allocator."""
        return cublas_workspace_bytes(self.card.compute_capability, self.torch)

    def kind(self, wide_heads: bool = True) -> tuple[Any, ...]:
        """What decides the course of a step: machines of one kind share a trace.

        That is what chooses an attention kernel (:func:`.attention.backend`); ``wide_heads``: whether the model has
        heads of more than 192 elements, for which some cards lack a backward kernel.
        """
        from .families import SMALL_MEMORY_HEAD, family

        return *family(self, SMALL_MEMORY_HEAD + 1 if wide_heads else SMALL_MEMORY_HEAD), self.torch >= (2, 11)

"""Work of the doctor's own that must leave no trace in what it measures: not in CUDA's peaks, not in random state."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from ..tensors import parameters_of


@contextmanager
def aside(anything: nn.Module | torch.Tensor | torch.device) -> Iterator[None]:
    """Run a block whose CUDA allocations come from a pool of their own, given back to the device at the end.

    The caching allocator's own segments stay as they were, so that the peaks reserved after the block are those of the
    run alone. The peak counters do count the block: reset them after it (``timeline.Timeline`` does).
    Without memory pools (torch < 2.5) the block allocates as usual and unused memory is given back afterwards.
    """
    device = _device_of(anything)
    if device.type != "cuda":
        yield
        return
    make_pool = getattr(torch.cuda, "MemPool", None)
    use_pool = getattr(torch.cuda, "use_mem_pool", None)
    if make_pool is None or use_pool is None:
        yield
        torch.cuda.synchronize(device)
        torch.cuda.empty_cache()
        return
    with torch.cuda.device(device):
        _drop_workspaces()  # so that cuBLAS takes its workspace for the run from the run's own memory
        reserved = torch.cuda.memory_reserved(device)
        pool = make_pool()
        try:
            with use_pool(pool):
                yield
                torch.cuda.synchronize(device)
        finally:
            _drop_workspaces()
            del pool
            if torch.cuda.memory_reserved(device) > reserved:  # a version that keeps a pool's segments for later
                torch.cuda.empty_cache()


@contextmanager
def random_state_kept(anything: nn.Module | torch.Tensor | torch.device) -> Iterator[None]:
    """Put Python's, NumPy's, torch's and CUDA's random state back after the block."""
    import random

    import numpy as np

    python, numpy_state, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()
    cuda: list[Any] = torch.cuda.get_rng_state_all() if _device_of(anything).type == "cuda" else []
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy_state)
        torch.set_rng_state(cpu)
        if cuda:
            torch.cuda.set_rng_state_all(cuda)


def _device_of(anything: nn.Module | torch.Tensor | torch.device) -> torch.device:
    """The first accelerator among the parameters; else where the first one is."""
    if isinstance(anything, torch.device):
        return anything
    if isinstance(anything, torch.Tensor):
        return anything.device
    first = torch.device("cpu")
    for number, (_, parameter) in enumerate(parameters_of(anything)):
        if parameter.device.type not in ("cpu", "meta"):
            return parameter.device
        first = parameter.device if number == 0 else first
    return first


def _drop_workspaces() -> None:
    """cuBLAS keeps a workspace for each handle and stream in the caching allocator; it takes a new one when needed."""
    drop = getattr(torch._C, "_cuda_clearCublasWorkspaces", None)
    if drop is not None:
        drop()

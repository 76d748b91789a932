"""Progress of a load, in bytes, reported by a thread while from_pretrained runs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

_EVERY = 0.5


@contextmanager
def told_while_loading(device: torch.device, expected: int | None, progress: Callable[..., None]) -> Iterator[None]:
    """Tell twice a second how many of the expected bytes are in memory.

    On CUDA the allocator's count, on the CPU the growth of the process; both are read, not measured by doing.
    """
    begun = _in_use(device)
    done = threading.Event()

    def tell() -> None:
        while not done.wait(_EVERY):
            now = _in_use(device)
            if now is not None and begun is not None and expected:
                progress("Loading the base", min(max(now - begun, 0), expected), expected, "bytes")
            else:
                progress("Loading the base")

    progress("Loading the base", 0, expected, "bytes")
    thread = threading.Thread(target=tell, daemon=True, name="load-progress")
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _in_use(device: torch.device) -> int | None:
    if device.type == "cuda":
        return int(torch.cuda.memory_allocated(device))
    try:
        fields = Path("/proc/self/statm").read_text().split()
        return int(fields[1]) * 4096
    except (OSError, IndexError, ValueError):
        return None

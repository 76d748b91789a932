"""The tool's own work within a training: timed, told by its part, and without a collection of garbage in its midst."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uncollected() -> Iterator[None]:
    """For a block, Python does not look for garbage by itself.

    What the tool imports and makes is enough to set a collection off, which walks every object of the process: a
    quarter of a second with torch and transformers, more than the work itself.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


class Work:
    """Seconds by what they were spent on."""

    def __init__(self) -> None:
        self.parts: dict[str, float] = {}
        self._inner: list[float] = []

    @property
    def seconds(self) -> float:
        """All of them."""
        return sum(self.parts.values())

    @contextmanager
    def on(self, part: str) -> Iterator[None]:
        """Count a block for a part; what is counted within it for another part is that one's alone."""
        began = time.perf_counter()
        self._inner.append(0.0)
        try:
            with uncollected():
                yield
        finally:
            took = time.perf_counter() - began
            self.parts[part] = self.parts.get(part, 0.0) + took - self._inner.pop()
            if self._inner:
                self._inner[-1] += took

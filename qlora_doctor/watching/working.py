"""The tool's own work within a training: timed by part, and without a garbage collection while it lasts."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from ..core.uncollected import uncollected


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

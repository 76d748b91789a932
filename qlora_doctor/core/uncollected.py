"""Work during which Python does not collect garbage."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uncollected() -> Iterator[None]:
    """For a block, Python does not look for cycles by itself; what was switched off before stays so.

    Many new objects set a search off, which walks every object of the process: a quarter of a second with torch and
    transformers within a training, a fifth of the time that rows of data take.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()

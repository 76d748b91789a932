"""bitsandbytes' 4-bit layers on a CPU, kept from repacking their weights for inference."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_SWITCH = "support_avx512bf16_for_cpu"


@contextmanager
def never_repacked(model: Any) -> Iterator[None]:
    """For a block, no 4-bit layer repacks its weight in place.

    In evaluation mode on a CPU with AVX-512 bf16 they do (``Linear4bit.forward``), and cannot train afterwards. A model
    may put its layers there itself (BigBird's attention calls ``eval()`` in its forward, a generation does).
    """
    layers = [module for module in model.modules() if vars(module).get(_SWITCH)]
    try:
        for layer in layers:
            setattr(layer, _SWITCH, False)
        yield
    finally:
        for layer in layers:
            setattr(layer, _SWITCH, True)

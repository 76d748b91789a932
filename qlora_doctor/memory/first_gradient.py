"""How often the engine's first gradient is held here where nobody else holds it: seen once, on a sum of two."""

from __future__ import annotations

from functools import cache

import torch

from .accumulation import listening
from .tape import Tape
from .trace import Recorder


@cache
def learn_counts() -> None:
    """Let ``accumulation`` know a gradient that nobody else holds.

    To be called before a trace begins: autograd is off inside a dispatch mode.
    """
    recorder = Recorder(Tape())
    recorder.in_backward = True
    with listening(), recorder, torch.enable_grad():
        leaf = torch.ones(4, device="meta", requires_grad=True)
        inner = leaf * 1.0
        (inner * 2.0 + inner * 3.0).sum().backward()

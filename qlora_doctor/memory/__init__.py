"""The peak of a run: the trainer's own step traced without a device, and replayed as a card's allocator would serve it.

The words that the modules use:

subject
    A model on the meta device, how it is loaded and how it is trained: what a prediction is made of.
trace
    One run of the trainer's own step on the meta device, watched: each storage as it comes and goes.
tape
    What a trace wrote down: the storages in order, with sizes and parts, and without a device.
kernel, scratch
    An operator's CUDA code, and the memory that it takes for itself while it runs; its size is worked out at replay.
phase
    A stretch of a run: load, forward, backward, optimizer, evaluation, generation, save.
replay
    A tape through the allocator of one machine, which gives peaks, what was in use then, and a timeline.
machine
    A card and the versions of the packages on it: what a replay is for.
allocated, reserved
    Bytes in blocks that tensors hold, and bytes in segments that the allocator took from the driver.
margin
    The error band of a prediction, as a share of it.
lever
    A change of the setup by which it needs less memory, with what it costs in time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from ..facts import MemoryFacts

Progress = Callable[[str], None]
"""Takes one sentence about what is done now."""
Tell: TypeAlias = "Callable[[MemoryFacts], None]"
"""Takes the prediction of the setup as it is, before what changes would save is worked out."""
UNFINISHED = "What changes would save was not worked out: the check ended before."
"""Stands among the assumptions of a prediction that is reported early, until the whole of it takes its place."""


def tell_nobody(facts: MemoryFacts) -> None:
    """Where nobody waits."""

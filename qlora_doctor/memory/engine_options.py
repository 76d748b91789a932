"""What of a run's settings of FSDP 1 and ZeRO-2 decides the memory of a rank; torch is not needed to read them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class FlatOptions:
    """What of ``fsdp_config`` decides the memory.

    Attributes:
        prefetches: ``backward_prefetch`` of BACKWARD_PRE: the backward pass begins by gathering the last layer.
    """

    prefetches: bool = False

    @classmethod
    def of(cls, settings: dict[str, Any]) -> FlatOptions:
        """Those of a ``fsdp_config``."""
        told = settings.get("backward_prefetch", settings.get("fsdp_backward_prefetch"))
        return cls(str(told).upper() == "BACKWARD_PRE")


BUCKET = 500_000_000
"""``reduce_bucket_size`` where nothing is written (``deepspeed/runtime/zero/config.py``)."""


@dataclass(frozen=True)
class ZeroOptions:
    """What of ``zero_optimization`` decides the memory.

    Attributes:
        bucket: elements of a bucket of gradients; None where ``auto``, the square of the hidden size
            (``HfTrainerDeepSpeedConfig.trainer_config_finalize``).
        overlaps: whether gradients are reduced while others are worked out, which takes a second bucket.
    """

    bucket: int | None = BUCKET
    overlaps: bool = False

    @classmethod
    def of(cls, settings: dict[str, Any]) -> ZeroOptions | None:
        """Those of a section ``zero_optimization``; None where its ``reduce_bucket_size`` is no number of elements."""
        told, overlaps = settings.get("reduce_bucket_size", BUCKET), settings.get("overlap_comm") is True
        if told == "auto":
            return cls(None, overlaps)
        is_number = isinstance(told, int | float) and not isinstance(told, bool)
        return cls(int(told), overlaps) if is_number and 1 <= told < math.inf else None

    @property
    def is_small(self) -> bool:
        """Whether a bucket is too small to matter where it lies.

        One of a gigabyte that comes and goes with each accumulated batch may find its place taken in part: what was
        reserved was then 11% too high and 25% too low in two runs.
        """
        return self.bucket is None or self.bucket <= BUCKET / 10

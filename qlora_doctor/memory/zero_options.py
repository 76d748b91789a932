"""What of DeepSpeed's settings decides the memory under ZeRO-2."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

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
    def of(cls, settings: dict[str, Any]) -> ZeroOptions:
        """Those of a section ``zero_optimization``."""
        told = settings.get("reduce_bucket_size", BUCKET)
        return cls(None if told == "auto" else int(told), settings.get("overlap_comm") is True)

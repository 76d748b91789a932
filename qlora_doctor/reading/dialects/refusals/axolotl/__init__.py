"""axolotl 0.18 and 0.19: what it refuses, by subject, and what it takes otherwise than it is written."""

from __future__ import annotations

from .. import Row
from . import adapter, attention, sharding, training

ROWS: tuple[Row, ...] = (*adapter.ROWS, *training.ROWS, *attention.ROWS, *sharding.ROWS)

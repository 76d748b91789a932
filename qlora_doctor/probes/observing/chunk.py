"""How much of a tensor is digested together, on every device."""

from __future__ import annotations

CHUNK = 1 << 15
"""Words of 8 bytes in a chunk."""

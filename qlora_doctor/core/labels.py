"""What every label stands beside."""

from __future__ import annotations

IGNORED = -100
"""The label of a token that is not trained (``ignore_index`` of torch's cross_entropy)."""

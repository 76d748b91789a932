"""Which of the libraries' warnings tell that a setup does something else than was meant."""

from __future__ import annotations

import re
from collections.abc import Sequence

_TELLING = (
    r"(rank|alpha)_pattern keys did not match",
    r"Could not find (response|instruction) key",
    r"[Ff]ound missing adapter keys",
)
"""peft (tuners/tuners_utils.py, peft_model.py), trl 0.17 (the collator for completions). What a rule of
its own tells is left out."""
_PATTERN = re.compile("|".join(_TELLING))


def telling(warnings: Sequence[str]) -> list[str]:
    """The warnings that are worth a finding, in their order."""
    return [text for text in warnings if _PATTERN.search(text)]

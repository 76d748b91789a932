"""What every fact has in common: frozen, typed, documented, and unknown until it was seen.

The modules of facts have no ``from __future__ import annotations``: pydantic would compile each of some five hundred
annotations from its text again, which is a tenth of the start-up of a config check; validators are built on first use
for the same reason.
"""

from pydantic import BaseModel, ConfigDict


class Fact(BaseModel):
    """A frozen group of facts.

    A field that is ``None`` is *unknown*: a rule that needs it is skipped, it never passes. What is known to be
    empty is an empty list, not ``None``; a failure that did not happen is the word ``none``. Bytes are ints, ratios are
    floats in 0…1, seconds are floats.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True, protected_namespaces=())

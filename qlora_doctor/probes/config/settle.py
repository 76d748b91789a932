"""What a config leaves to the card and to the checkpoint, settled for the ones that the run is meant for."""

from __future__ import annotations

from typing import Any

from ...facts.config import ConfigFacts
from ...setup.setup import Setup
from .checkpoint import with_stored_bits

BY_CARD: dict[str | None, str] = {"bf16-auto": "float16", "bf16-or-float32": "float32"}
"""What a bf16 that the card decides on becomes where the card has none, by the reader's remark."""


def settled(setup: Setup, config: ConfigFacts) -> Setup:
    """The setup as card and checkpoint make it.

    A base that is stored in 4 bits is in 4 bits; ``bf16: auto`` is another dtype on a card without bf16.

    Args:
        config: what was concluded, for this card.
    """
    setup, _ = with_stored_bits(setup)
    if config.gpu_bf16 is not False or not any(remark.kind in BY_CARD for remark in setup.remarks):
        return setup
    sections: dict[str, dict[str, Any]] = {
        "model": {"dtype": config.model_dtype},
        "quantization": {"bnb_4bit_compute_dtype": config.compute_dtype},
        "training": {"bf16": config.bf16, "fp16": config.fp16},
    }
    changed = {
        name: getattr(setup, name).model_copy(
            update={field: value for field, value in fields.items() if value is not None}
        )
        for name, fields in sections.items()
    }
    return setup.model_copy(update=changed)

"""Which of axolotl's LoRA kernels a run has; what they do is in :mod:`.lora_kernels`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..setup.setup import Setup

VERSION = "0.19"
"""The version of axolotl that is restated."""
SWITCHES = {"lora_mlp_kernel": "mlp", "lora_qkv_kernel": "qkv", "lora_o_kernel": "o", "lora_embedding_kernel": None}
"""axolotl's keys; that of embeddings has an effect only where an embedding has an adapter."""


@dataclass(frozen=True)
class LoraKernels:
    """Which of them a run has."""

    mlp: bool = True
    qkv: bool = True
    o: bool = True

    @classmethod
    def of(cls, setup: Setup) -> LoraKernels | None:
        """Those of a setup; None where it has none."""
        if setup.says("kernels-by-default"):
            return cls()
        chosen = {SWITCHES[key] for key in setup.training.kernels or () if key in SWITCHES} - {None}
        return cls(**{name: name in chosen for name in ("mlp", "qkv", "o")}) if chosen else None

"""Which kernels in place of transformers' and PEFT's own code a run has; what they do is in :mod:`.liger` and
:mod:`.lora_kernels`, which need torch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..setup.setup import Setup

LIGER = "0.8.5"
AXOLOTL = "0.19"
UNSLOTH = "2026.10"
"""The versions that are restated."""
LORA_SWITCHES = {
    "lora_mlp_kernel": "mlp",
    "lora_qkv_kernel": "qkv",
    "lora_o_kernel": "o",
    "lora_embedding_kernel": None,
}
"""axolotl's keys; that of embeddings has an effect only where an embedding has an adapter."""
LIGER_SWITCHES = {
    "liger_rope": "rope",
    "liger_rms_norm": "rms_norm",
    "liger_glu_activation": "swiglu",
    "liger_cross_entropy": "cross_entropy",
    "liger_layer_norm": None,
}
"""axolotl's keys beside ``use_liger_kernel``, which its liger_fused_linear_cross_entropy means; the families that are
restated have no layer norm."""


@dataclass(frozen=True)
class LoraKernels:
    """Which of axolotl's LoRA kernels a run has."""

    mlp: bool = True
    qkv: bool = True
    o: bool = True

    @classmethod
    def of(cls, setup: Setup) -> LoraKernels | None:
        """Those of a setup; None where it has none."""
        if setup.says("kernels-by-default"):
            return cls()
        chosen = {LORA_SWITCHES[key] for key in setup.training.kernels or () if key in LORA_SWITCHES} - {None}
        return cls(**{name: name in chosen for name in ("mlp", "qkv", "o")}) if chosen else None


@dataclass(frozen=True)
class LigerKernels:
    """Which of Liger's kernels a model gets."""

    rope: bool = True
    rms_norm: bool = True
    swiglu: bool = True
    cross_entropy: bool = False
    fused_linear_cross_entropy: bool = True

    @classmethod
    def of(cls, setup: Setup, fuses_head: bool) -> LigerKernels | None:
        """Those of ``liger_kernel_config`` or of axolotl's keys; None where a setup has none.

        Args:
            fuses_head: the trainer has a head of its own, as trl's SFTTrainer.
        """
        training = setup.training
        switched = [LIGER_SWITCHES[key] for key in training.kernels or () if key in LIGER_SWITCHES]
        if switched or setup.traits.liger_by_plugin:
            whole = bool(training.use_liger_kernel)
            each = {name: name in switched for name in ("rope", "rms_norm", "swiglu", "cross_entropy")}
            return cls(**each, fused_linear_cross_entropy=whole) if switched or whole else None
        if not training.use_liger_kernel:
            return None
        told = training.extra.get("liger_kernel_config")
        told = told if isinstance(told, dict) else {}
        known = {name: bool(value) for name, value in told.items() if name in cls.__dataclass_fields__}
        found = cls(**known)
        return replace(found, fused_linear_cross_entropy=False) if fuses_head else found


@dataclass(frozen=True)
class Unsloth:
    """How a model of Unsloth's classes keeps what the backward pass needs (``use_gradient_checkpointing``).

    Attributes:
        checkpoints: layers are run again in the backward pass.
        offloads: their inputs wait in host memory (``"unsloth"``, the default).
    """

    checkpoints: bool = True
    offloads: bool = True

    @classmethod
    def of(cls, setup: Setup) -> Unsloth | None:
        """That of a setup; None where it has no such model."""
        kernels = setup.training.kernels or ()
        if "unsloth" not in kernels:
            return None
        return cls(bool(setup.training.gradient_checkpointing), "unsloth-offloading" in kernels)

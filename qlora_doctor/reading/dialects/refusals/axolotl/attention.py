"""What axolotl 0.18 and 0.19 refuse of the attention, and of what the card and the installed torch offer it.

From utils/schemas/config.py and validation.py.
"""

from __future__ import annotations

from .. import Row
from .words import VARLEN, attention

_ATTENTION = {
    "eager", "sdpa", "flash_attention_2", "flash_attention_3", "flash_attention_4", "flash_attention_torch",
    "flex_attention", "xformers", "sage", "fp8",
}  # fmt: skip


def _attention_known(name: str) -> bool:
    return name in _ATTENTION or "/" in name


ROWS: tuple[Row, ...] = (
    Row(
        "attention-twice",
        "attn_implementation",
        lambda r: (
            bool(r.get("attn_implementation"))
            and any(r.get(f"{kind}_attention") for kind in ("flash", "sdp", "xformers", "flex", "sage", "eager"))
        ),
        "axolotl stops: attn_implementation and the older attention switches exclude each other.",
    ),
    Row(
        "attention-unknown",
        "attn_implementation",
        lambda r: bool(r.get("attn_implementation")) and not _attention_known(str(r.get("attn_implementation"))),
        (
            "axolotl stops: attn_implementation is one of eager, sdpa, flash_attention_2 (3, 4), flex_attention, "
            "xformers, sage and fp8, or a kernel's hub id."
        ),
    ),
    Row(
        "attention-on-npu",
        "attn_implementation",
        lambda r: attention(r) in ("flash_attention_2", "flash_attention_3", "sdpa"),
        "axolotl stops: on an Ascend NPU, which this machine has, there is neither FlashAttention nor sdpa.",
        machine="torch_npu",
    ),
    Row(
        "tf32-on-npu",
        "tf32",
        lambda r: bool(r.get("tf32")),
        "axolotl stops: an Ascend NPU, which this machine has, knows no tf32.",
        machine="torch_npu",
    ),
    Row(
        "flex-attention-with-older-torch",
        "attn_implementation",
        lambda r: attention(r) == "flex_attention",
        "axolotl stops: flex_attention needs torch 2.6 or later, and an older one is installed here.",
        machine="torch < 2.6",
    ),
    Row(
        "fp8-attention-with-older-torch",
        "attn_implementation",
        lambda r: attention(r) == "fp8",
        "axolotl stops: attn_implementation: fp8 needs torch 2.11 or later, and an older one is installed here.",
        machine="torch < 2.11",
    ),
    Row(
        "fp8-attention-on-older-card",
        "attn_implementation",
        lambda r: attention(r) == "fp8",
        "axolotl stops: attn_implementation: fp8 needs a card of compute capability 9.0 or above.",
        machine="capability < 9.0",
    ),
    Row(
        "sage-attention-on-older-card",
        "attn_implementation",
        lambda r: attention(r) == "sage",
        "axolotl stops: SageAttention needs a card of compute capability 8.0 or above.",
        machine="capability < 8.0",
    ),
    Row(
        "softmax-scaled-without-flex-attention",
        "scaling_softmax",
        lambda r: bool(r.get("scaling_softmax")) and attention(r) != "flex_attention",
        "axolotl stops: scaling_softmax needs attn_implementation: flex_attention.",
    ),
    Row(
        "gemma4-hybrid-with-another-attention",
        "attn_implementation",
        lambda r: (
            bool(r.get("gemma4_hybrid_attn_impl")) and r.get("attn_implementation") not in (None, "flash_attention_2")
        ),
        "axolotl stops: gemma4_hybrid_attn_impl needs attn_implementation: flash_attention_2.",
    ),
    Row(
        "flattening-without-varlen-attention",
        "batch_flattening",
        lambda r: r.get("batch_flattening") is True and (attention(r) not in VARLEN or bool(r.get("sample_packing"))),
        "axolotl stops: batch_flattening needs an attention such as flash_attention_2, and no sample_packing.",
    ),
)

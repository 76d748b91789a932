"""What the tables of axolotl's refusals ask of a file, more than one of them."""

from __future__ import annotations

from ...fields import Reading

KERNELS = ("lora_mlp_kernel", "lora_qkv_kernel", "lora_o_kernel", "lora_embedding_kernel")


def lora(reading: Reading) -> bool:
    """An adapter of the kinds that axolotl brings along."""
    return reading.get("adapter") in ("lora", "qlora")


def bits(reading: Reading) -> bool:
    """The base is asked for in 4 or 8 bits."""
    return bool(reading.get("load_in_4bit") or reading.get("load_in_8bit"))


def reentrant(reading: Reading) -> bool:
    """Checkpointing in its reentrant form is asked for."""
    kwargs = reading.get("gradient_checkpointing_kwargs")
    return isinstance(kwargs, dict) and kwargs.get("use_reentrant") is True


def fsdp_version(reading: Reading) -> int | None:
    """1 where axolotl is told to shard and no version stands there; None where it does not shard."""
    config = reading.get("fsdp_config")
    if not config and not reading.get("fsdp"):
        return None
    settings = config if isinstance(config, dict) else {}
    found = (reading.get("fsdp_version"), settings.get("version"), settings.get("fsdp_version"))
    version = next((value for value in found if value), 1)
    return {"1": 1, "2": 2}.get(str(version)[:8])


def fsdp_option(reading: Reading, name: str) -> bool:
    """An option of fsdp_config is on; the older names begin with ``fsdp_``."""
    return bool(reading.get(f"fsdp_config.{name}") or reading.get(f"fsdp_config.fsdp_{name}"))


def kernels(reading: Reading) -> bool:
    """One of axolotl's LoRA kernels is asked for."""
    return any(reading.get(key) for key in KERNELS)


def checkpoints(reading: Reading) -> bool:
    """Activations are recomputed, in whatever form."""
    return bool(reading.get("gradient_checkpointing"))


def shards(reading: Reading) -> bool:
    """The file is one for several GPUs."""
    return fsdp_version(reading) is not None or bool(reading.get("deepspeed"))


def base_is(reading: Reading, family: str) -> bool:
    """The base's name has this word in it, as axolotl looks for it."""
    return family in str(reading.get("base_model", "")).lower()


def number(reading: Reading, key: str, default: float = 0) -> float:
    """A key's number; ``default`` where there is none."""
    written = reading.get(key)
    return written if isinstance(written, int | float) and not isinstance(written, bool) else default


def attention(reading: Reading) -> str:
    """The attention that axolotl takes, by its name of today; empty where it is transformers' choice."""
    return str(reading.value("model.attn_implementation") or "")


FLASH = ("flash_attention_2", "flash_attention_3", "kernels-community/flash-attn2", "kernels-community/flash-attn3")
"""Attention that the flash_attn library computes (enums.py, ATTN_IMPLS_USING_FLASH_LIB)."""
VARLEN = (*FLASH, "flex_attention", "xformers", "sage", "kernels-community/sage-attention")
"""Attention that takes samples of different lengths in one row (enums.py, ATTN_IMPLS_SUPPORTING_PACKING)."""

"""What axolotl makes of keys, where more than one check asks for it."""

from __future__ import annotations

from ...fields import Reading

KERNELS = ("lora_mlp_kernel", "lora_qkv_kernel", "lora_o_kernel", "lora_embedding_kernel")


def fsdp_version(reading: Reading) -> int | None:
    """1 where axolotl is set to shard and no version stands there; None where it does not shard."""
    config = reading.get("fsdp_config")
    if not config and not reading.get("fsdp"):
        return None
    settings = config if isinstance(config, dict) else {}
    found = (reading.get("fsdp_version"), settings.get("version"), settings.get("fsdp_version"))
    version = next((value for value in found if value), 1)
    return {"1": 1, "2": 2}.get(str(version)[:8])


def attention(reading: Reading) -> str:
    """The attention that axolotl takes, by its name of today; empty where it is transformers' choice."""
    return str(reading.value("model.attn_implementation") or "")

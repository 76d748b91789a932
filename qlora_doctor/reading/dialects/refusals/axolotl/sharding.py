"""What axolotl 0.18 and 0.19 refuse of several GPUs: FSDP, DeepSpeed, context parallelism.

From utils/schemas/validation.py and config.py.
"""

from __future__ import annotations

from ...fields import Reading
from .. import Row, any_of, has
from .words import (
    FLASH,
    attention,
    base_is,
    bits,
    checkpoints,
    fsdp_option,
    fsdp_version,
    kernels,
    number,
    reentrant,
    shards,
)


def _qlora4(reading: Reading) -> bool:
    return reading.get("adapter") == "qlora" and bool(reading.get("load_in_4bit"))


def _context_parallel(reading: Reading) -> bool:
    size = reading.get("context_parallel_size") or reading.get("sequence_parallel_degree")
    return isinstance(size, int) and size > 1 and not reading.get("use_glm_dsa_kernels")


def _deepspeed_or_fsdp1(reading: Reading) -> bool:
    return bool(reading.get("deepspeed")) or fsdp_version(reading) == 1


ROWS: tuple[Row, ...] = (
    Row(
        "fsdp2-with-8bit-optimizer",
        "optimizer",
        lambda r: fsdp_version(r) == 2 and r.get("optimizer") in ("adamw_8bit", "adamw_bnb_8bit"),
        "axolotl stops: FSDP 2 does not go with this 8-bit optimizer; adamw_torch_8bit does.",
        about="optimizer",
    ),
    Row(
        "fsdp2-with-quantized-preference-training",
        "rl",
        lambda r: fsdp_version(r) == 2 and bits(r) and r.get("rl") in ("dpo", "kto", "orpo", "ipo"),
        "axolotl stops: FSDP 2 does not train a quantized base by preference.",
        about="sharded-preference",
    ),
    Row(
        "fsdp-and-deepspeed",
        "deepspeed",
        lambda r: bool(r.get("fsdp")) and bool(r.get("deepspeed")),
        "axolotl stops: fsdp and deepspeed exclude each other.",
        about="distribution",
    ),
    Row(
        "kernels-with-fsdp1",
        "fsdp_config",
        lambda r: kernels(r) and bool(r.get("fsdp_config")) and fsdp_version(r) == 1,
        "axolotl stops on several GPUs: the lora_*_kernel switches go with fsdp_version: 2 only.",
        about="kernels",
    ),
    Row(
        "preference-training-with-reentrant",
        "gradient_checkpointing_kwargs",
        lambda r: bool(r.get("rl")) and checkpoints(r) and reentrant(r) and _qlora4(r) and shards(r),
        "axolotl stops on several GPUs: rl with QLoRA needs use_reentrant: false.",
        about="distribution",
    ),
    Row(
        "fsdp-offload-with-8bit-optimizer",
        "optimizer",
        lambda r: fsdp_version(r) == 1 and fsdp_option(r, "offload_params") and "8bit" in str(r.get("optimizer")),
        "axolotl stops: an 8-bit optimizer does not go with FSDP 1 that offloads parameters.",
        about="optimizer",
    ),
    Row(
        "fsdp2-loads-on-one-rank",
        "fsdp_config",
        lambda r: fsdp_version(r) == 2 and fsdp_option(r, "cpu_ram_efficient_loading") and bool(r.get("load_in_4bit")),
        "axolotl 0.19 stops: FSDP 2 with load_in_4bit needs cpu_ram_efficient_loading: false.",
        about="distribution",
    ),
    Row(
        "mxfp4-loads-on-one-rank",
        "fsdp_config",
        lambda r: r.get("model_quantization_config") == "Mxfp4Config" and fsdp_option(r, "cpu_ram_efficient_loading"),
        "axolotl stops: an MXFP4 base needs cpu_ram_efficient_loading: false.",
    ),
    Row(
        "relora-with-sharding",
        "relora",
        lambda r: r.get("relora") is True and any_of("fsdp", "fsdp_config", "deepspeed")(r),
        "axolotl stops: ReLoRA goes with neither FSDP nor DeepSpeed.",
        about="distribution",
    ),
    Row(
        "falcon-with-fsdp",
        "fsdp",
        lambda r: base_is(r, "falcon") and bool(r.get("fsdp")),
        "axolotl stops: FSDP does not go with falcon models.",
        about="distribution",
    ),
    Row(
        "fsdp2-with-older-torch",
        "fsdp_version",
        lambda r: fsdp_version(r) == 2 and bool(r.get("fsdp_config")),
        "axolotl stops: FSDP 2 needs torch 2.7 or later, and an older one is installed here.",
        about="distribution",
        machine="torch < 2.7",
    ),
    Row(
        "fsdp1-with-pinning-off",
        "fsdp_config",
        lambda r: (
            r.get("fsdp_config.cpu_offload_pin_memory") is False
            and (fsdp_version(r) == 1 or not r.get("fsdp_config.offload_params"))
        ),
        "axolotl stops: cpu_offload_pin_memory: false needs fsdp_version: 2 and offload_params: true.",
        about="distribution",
    ),
    Row(
        "float32-norms-without-fsdp2",
        "fp32_norms",
        lambda r: bool(r.get("fp32_norms")) and not (r.get("fsdp_config") and fsdp_version(r) == 2),
        "axolotl stops: fp32_norms needs fsdp_config and fsdp_version: 2.",
        about="distribution",
    ),
    Row(
        "float8-gather-without-fsdp2",
        "fp8_enable_fsdp_float8_all_gather",
        lambda r: bool(r.get("fp8_enable_fsdp_float8_all_gather")) and r.get("fsdp_version") != 2,
        "axolotl stops: fp8_enable_fsdp_float8_all_gather needs fsdp_version: 2.",
        about="distribution",
    ),
    Row(
        "optimizer-cannot-shard",
        "optimizer",
        lambda r: (
            (r.get("optimizer") == "muon" or str(r.get("optimizer")).startswith("flash_")) and _deepspeed_or_fsdp1(r)
        ),
        "axolotl stops: of the ways to shard, this optimizer goes with FSDP 2 only.",
        about="optimizer",
    ),
    Row(
        "context-parallel-without-flash-attention",
        "context_parallel_size",
        lambda r: _context_parallel(r) and attention(r) not in FLASH,
        "axolotl stops: context_parallel_size above 1 needs flash_attention_2 or flash_attention_3.",
        about="distribution",
    ),
    Row(
        "context-parallel-packing-batches",
        "micro_batch_size",
        lambda r: _context_parallel(r) and has("sample_packing")(r) and number(r, "micro_batch_size", 1) > 1,
        "axolotl stops: context_parallel_size above 1 with sample_packing needs micro_batch_size: 1.",
        about="distribution",
    ),
    Row(
        "deepcompile-without-deepspeed",
        "deepcompile",
        lambda r: bool(r.get("deepcompile")) and not r.get("deepspeed"),
        "axolotl stops: deepcompile needs deepspeed.",
        about="distribution",
    ),
)

"""Further combinations that axolotl 0.18 and 0.19 refuse: an adapter's kernels, sharding, checkpointing, optimizers.

Rows as in ``axolotl_checks``, from utils/schemas/{peft,validation,config,model}.py.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from .fields import Reading

Row = tuple[str, str, Callable[[Reading], bool], str]
"""(kind, key that it points at, is it so, what axolotl says)."""

_KERNELS = ("lora_mlp_kernel", "lora_qkv_kernel", "lora_o_kernel", "lora_embedding_kernel")
_MATMULS = ("aten::mm", "aten::addmm", "aten::matmul", "aten::bmm")


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


def _fsdp(reading: Reading, name: str) -> bool:
    """An option of fsdp_config is on; the older names begin with ``fsdp_``."""
    return bool(reading.get(f"fsdp_config.{name}") or reading.get(f"fsdp_config.fsdp_{name}"))


def _kernels(reading: Reading) -> bool:
    return any(reading.get(key) for key in _KERNELS)


def _checkpoints(reading: Reading) -> bool:
    return bool(reading.get("gradient_checkpointing"))


def _several_gpus(reading: Reading) -> bool:
    return fsdp_version(reading) is not None or bool(reading.get("deepspeed"))


def _base(reading: Reading, family: str) -> bool:
    return family in str(reading.get("base_model", "")).lower()


def _stranger(reading: Reading) -> bool:
    """An adapter that axolotl does not bring, and no plugin that could."""
    kind = reading.get("adapter")
    return bool(kind) and kind not in ("lora", "qlora", "llama-adapter") and not reading.get("plugins")


def _broken_patterns(reading: Reading) -> bool:
    written = reading.get("lora_target_modules")
    return isinstance(written, list) and any(isinstance(name, str) and not _compiles(name) for name in written)


def _compiles(pattern: str) -> bool:
    try:
        re.compile(pattern)
    except (re.error, OverflowError, RecursionError):
        return False
    return True


def _several_losses(reading: Reading) -> bool:
    keys = (
        "cut_cross_entropy",
        "chunked_cross_entropy",
        "liger_cross_entropy",
        "liger_fused_linear_cross_entropy",
    )
    return sum(bool(reading.get(key)) for key in keys) > 1


def _saves_matmuls(reading: Reading) -> bool:
    saved = reading.get("selective_checkpointing.save")
    names = [name for name in saved if isinstance(name, str)] if isinstance(saved, list) else []
    return bool(reading.get("adapter")) and any(
        name != "attention" and any(name in operation for operation in _MATMULS) for name in names
    )


def _relora(reading: Reading, *broken: str) -> bool:
    return reading.get("relora") is True and any(reading.get(key) for key in broken)


def _moe_experts_unfit(reading: Reading) -> bool:
    unfit = reading.get("lora_target_linear") or not lora(reading) or not bits(reading)
    return bool(reading.get("quantize_moe_experts") and unfit)


_ATTENTION = {
    "eager", "sdpa", "flash_attention_2", "flash_attention_3", "flash_attention_4", "flash_attention_torch",
    "flex_attention", "xformers", "sage", "fp8",
}  # fmt: skip


def _attention_known(name: str) -> bool:
    return name in _ATTENTION or "/" in name


ABOUT = {
    "quantized-without-adapter": "quantization",
    "qlora-without-4bit": "quantization",
    "qlora-with-8bit": "quantization",
    "qlora-with-gptq": "quantization",
    "qlora-merged-while-quantized": "quantization",
    "quantization-config-and-bits": "quantization",
    "qat-with-adapter": "quantization",
    "layers-and-unfrozen": "freezing",
    "layers-pattern-alone": "freezing",
    "unfrozen-with-reentrant": "freezing",
    "fsdp2-with-8bit-optimizer": "optimizer",
    "fsdp-offload-with-8bit-optimizer": "optimizer",
    "kernels-with-8bit": "kernels",
    "kernels-with-remote-code": "kernels",
    "kernels-with-fsdp1": "kernels",
    "fsdp2-with-quantized-preference-training": "sharded-preference",
    "preference-training-with-reentrant": "distribution",
    "fsdp-and-deepspeed": "distribution",
    "fsdp2-loads-on-one-rank": "distribution",
    "relora-with-sharding": "distribution",
    "falcon-with-fsdp": "distribution",
}
"""What a refusal is about, where it is about one of the subjects that have a rule of their own."""

ROWS: tuple[Row, ...] = (
    (
        "adapter-unknown",
        "adapter",
        _stranger,
        "axolotl stops: it brings lora, qlora and llama-adapter, and no plugin that brings another is named.",
    ),
    (
        "qlora-merged-while-quantized",
        "merge_lora",
        lambda r: r.get("adapter") == "qlora" and bool(r.get("merge_lora")) and (bits(r) or bool(r.get("gptq"))),
        "axolotl stops: a QLoRA adapter is merged into a base that is not quantized, so load_in_4bit must be off.",
    ),
    (
        "one-bit-with-adapter",
        "use_onebitllms",
        lambda r: lora(r) and bool(r.get("use_onebitllms")),
        "axolotl stops: use_onebitllms does not go with LoRA.",
    ),
    (
        "target-modules-no-pattern",
        "lora_target_modules",
        _broken_patterns,
        "axolotl stops: an entry of lora_target_modules is no valid regular expression.",
    ),
    (
        "learning-rate-groups-and-ratio",
        "loraplus_lr_ratio",
        lambda r: bool(r.get("loraplus_lr_ratio") and r.get("lr_groups")),
        "axolotl stops: loraplus_lr_ratio and lr_groups exclude each other.",
    ),
    (
        "kernels-with-8bit",
        "load_in_8bit",
        lambda r: _kernels(r) and r.get("adapter") == "lora" and bool(r.get("load_in_8bit")),
        "axolotl stops: the lora_*_kernel switches do not go with an 8-bit base.",
    ),
    (
        "kernels-with-remote-code",
        "trust_remote_code",
        lambda r: _kernels(r) and bool(r.get("trust_remote_code")),
        "axolotl stops: the lora_*_kernel switches do not go with trust_remote_code: true.",
    ),
    (
        "kernels-with-fsdp1",
        "fsdp_config",
        lambda r: _kernels(r) and bool(r.get("fsdp_config")) and fsdp_version(r) == 1,
        "axolotl stops on several GPUs: the lora_*_kernel switches go with fsdp_version: 2 only.",
    ),
    (
        "preference-training-with-reentrant",
        "gradient_checkpointing_kwargs",
        lambda r: bool(r.get("rl")) and _checkpoints(r) and reentrant(r) and _qlora4(r) and _several_gpus(r),
        "axolotl stops on several GPUs: rl with QLoRA needs use_reentrant: false.",
    ),
    (
        "fsdp-offload-with-8bit-optimizer",
        "optimizer",
        lambda r: fsdp_version(r) == 1 and _fsdp(r, "offload_params") and "8bit" in str(r.get("optimizer")),
        "axolotl stops: an 8-bit optimizer does not go with FSDP 1 that offloads parameters.",
    ),
    (
        "fsdp2-loads-on-one-rank",
        "fsdp_config",
        lambda r: fsdp_version(r) == 2 and _fsdp(r, "cpu_ram_efficient_loading") and bool(r.get("load_in_4bit")),
        "axolotl 0.19 stops: FSDP 2 with load_in_4bit needs cpu_ram_efficient_loading: false.",
    ),
    (
        "mxfp4-loads-on-one-rank",
        "fsdp_config",
        lambda r: r.get("model_quantization_config") == "Mxfp4Config" and _fsdp(r, "cpu_ram_efficient_loading"),
        "axolotl stops: an MXFP4 base needs cpu_ram_efficient_loading: false.",
    ),
    (
        "experts-quantized-unfit",
        "quantize_moe_experts",
        _moe_experts_unfit,
        "axolotl stops: quantize_moe_experts needs adapter: lora or qlora, load_in_4bit or load_in_8bit, and no "
        "lora_target_linear.",
    ),
    (
        "relora-with-sharding",
        "relora",
        lambda r: _relora(r, "fsdp", "fsdp_config", "deepspeed"),
        "axolotl stops: ReLoRA goes with neither FSDP nor DeepSpeed.",
    ),
    (
        "relora-unfit",
        "relora",
        lambda r: (
            r.get("relora") is True and (not r.get("jagged_restart_steps") or r.get("lr_scheduler") == "one_cycle")
        ),
        "axolotl stops: ReLoRA needs jagged_restart_steps and another scheduler than one_cycle.",
    ),
    (
        "selective-checkpointing-unfit",
        "selective_checkpointing",
        lambda r: bool(r.get("selective_checkpointing")) and (not _checkpoints(r) or reentrant(r)),
        "axolotl stops: selective_checkpointing needs gradient_checkpointing in its non-reentrant form.",
    ),
    (
        "selective-checkpointing-of-matmuls",
        "selective_checkpointing",
        _saves_matmuls,
        "axolotl stops: with an adapter selective_checkpointing cannot save the results of matrix products.",
    ),
    (
        "offloading-without-checkpointing",
        "activation_offloading",
        lambda r: bool(r.get("activation_offloading")) and not _checkpoints(r),
        "axolotl stops: activation_offloading needs gradient_checkpointing.",
    ),
    (
        "several-losses",
        "liger_fused_linear_cross_entropy",
        _several_losses,
        "axolotl stops: of the cross-entropy switches (cut, chunked, liger, liger fused) only one may be on.",
    ),
    (
        "saves-without-safetensors",
        "save_safetensors",
        lambda r: r.get("save_safetensors") is False,
        "axolotl stops: save_safetensors: false is no longer possible with transformers 5.",
    ),
    (
        "falcon-with-fsdp",
        "fsdp",
        lambda r: _base(r, "falcon") and bool(r.get("fsdp")),
        "axolotl stops: FSDP does not go with falcon models.",
    ),
    (
        "mpt-with-checkpointing",
        "gradient_checkpointing",
        lambda r: _base(r, "mpt") and _checkpoints(r),
        "axolotl stops: MPT models have no gradient checkpointing.",
    ),
    (
        "eval-packing-with-table",
        "eval_table_size",
        lambda r: (
            bool(r.get("sample_packing") and r.get("eval_table_size")) and r.get("eval_sample_packing") is not False
        ),
        "axolotl stops: eval_table_size with sample_packing needs eval_sample_packing: false.",
    ),
    (
        "attention-unknown",
        "attn_implementation",
        lambda r: bool(r.get("attn_implementation")) and not _attention_known(str(r.get("attn_implementation"))),
        "axolotl stops: attn_implementation is one of eager, sdpa, flash_attention_2 (3, 4), flex_attention, xformers, "
        "sage and fp8, or a kernel's hub id.",
    ),
    (
        "deprecated-key",
        "dpo_norm_loss",
        lambda r: r.has("dpo_norm_loss") or r.has("rpo_alpha"),
        "axolotl stops: dpo_norm_loss and rpo_alpha were removed.",
    ),
    (
        "kto-drops-columns",
        "rl",
        lambda r: r.get("rl") == "kto" and r.get("remove_unused_columns") is not False,
        "axolotl stops: rl: kto needs remove_unused_columns: false.",
    ),
)


def _qlora4(reading: Reading) -> bool:
    return reading.get("adapter") == "qlora" and bool(reading.get("load_in_4bit"))


def remarks(reading: Reading) -> None:
    """What axolotl warns of, or should: it goes on, and not as the file says."""
    kwargs = reading.get("gradient_checkpointing_kwargs")
    plain = isinstance(kwargs, dict) and kwargs.get("use_reentrant") is False
    if reading.get("adapter") == "qlora" and plain and "zero3" in str(reading.get("deepspeed")):
        note = "axolotl warns: QLoRA under ZeRO-3 with use_reentrant: false may end in a CheckpointError."
        reading.remark("zero3-with-plain-checkpointing", "gradient_checkpointing_kwargs", note)
    fixed, trained = (_tokens(reading.get(key)) for key in ("fix_untrained_tokens", "peft_trainable_token_indices"))
    idle = sorted(fixed - trained) if trained else []
    if idle and reading.get("adapter"):
        named = ", ".join(map(str, idle[:5]))
        note = f"fix_untrained_tokens names {named}, which peft_trainable_token_indices leaves out."
        reading.remark("fixed-tokens-not-trained", "fix_untrained_tokens", note)


def _tokens(written: object) -> set[int]:
    if isinstance(written, dict):
        written = next(iter(written.values()), None)
    found = written if isinstance(written, list) else [written]
    return {token for token in found if isinstance(token, int)}

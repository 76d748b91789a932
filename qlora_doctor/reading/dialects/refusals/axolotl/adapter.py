"""What axolotl 0.18 and 0.19 refuse of an adapter and its base, and of what trains beside it.

From utils/schemas/peft.py, validation.py and config.py.
"""

from __future__ import annotations

import re

from ...fields import Reading
from .. import Row, any_of, has
from .words import base_is, bits, checkpoints, kernels, lora, reentrant

_BESIDE_POLORA = (
    "deepspeed", "lora_modules_to_save", "unfrozen_parameters", "peft_use_dora", "peft_trainable_token_indices",
    "lisa_step_interval", "reward_model", "process_reward_model", "loraplus_lr_ratio", "lr_groups", "embedding_lr",
    "embedding_lr_scale", "relora_steps",
)  # fmt: skip
_MATMULS = ("aten::mm", "aten::addmm", "aten::matmul", "aten::bmm")


def _broken_patterns(reading: Reading) -> bool:
    written = reading.get("lora_target_modules")
    named = {name for name in written if isinstance(name, str)} if isinstance(written, list) else set()
    return any(not _compiles(name) for name in named)


def _compiles(pattern: str) -> bool:
    try:
        re.compile(pattern)
    except (re.error, OverflowError, RecursionError):
        return False
    return True


def _saves_matmuls(reading: Reading) -> bool:
    saved = reading.get("selective_checkpointing.save")
    names = [name for name in saved if isinstance(name, str)] if isinstance(saved, list) else []
    return bool(reading.get("adapter")) and any(
        name != "attention" and any(name in operation for operation in _MATMULS) for name in names
    )


def _relora_unfit(reading: Reading) -> bool:
    if reading.get("relora") is not True:
        return False
    lacks = not reading.get("jagged_restart_steps") or not reading.get("adapter")
    return lacks or reading.get("lr_scheduler") == "one_cycle" or bool(reading.get("flash_attn_fuse_mlp"))


def _moe_experts_unfit(reading: Reading) -> bool:
    unfit = reading.get("lora_target_linear") or not lora(reading) or not bits(reading)
    return bool(reading.get("quantize_moe_experts") and unfit)


def _qlora(reading: Reading) -> bool:
    return bool(reading.get("adapter") == "qlora" and not reading.get("merge_lora"))


_UNSLOTH = ("cross_entropy_loss", "lora_mlp", "lora_qkv", "lora_o", "rms_norm", "rope")


def _unsloth(reading: Reading) -> bool:
    return any(reading.get(f"unsloth_{part}") for part in _UNSLOTH)


def _stranger(reading: Reading) -> bool:
    """An adapter that axolotl does not bring, and no plugin that could."""
    kind = reading.get("adapter")
    return bool(kind) and kind not in ("lora", "qlora", "llama-adapter") and not reading.get("plugins")


ROWS: tuple[Row, ...] = (
    Row(
        "quantized-without-adapter",
        "load_in_4bit",
        lambda r: bits(r) and not r.get("adapter") and not r.get("inference"),
        "axolotl stops: load_in_4bit and load_in_8bit need an adapter.",
        about="quantization",
    ),
    Row(
        "qlora-without-4bit",
        "adapter",
        lambda r: _qlora(r) and not r.get("load_in_4bit"),
        "axolotl stops: adapter: qlora needs load_in_4bit: true.",
        about="quantization",
    ),
    Row(
        "qlora-with-8bit",
        "load_in_8bit",
        lambda r: _qlora(r) and bool(r.get("load_in_8bit")),
        "axolotl stops: adapter: qlora cannot be loaded in 8 bits.",
        about="quantization",
    ),
    Row(
        "qlora-with-gptq",
        "gptq",
        lambda r: _qlora(r) and bool(r.get("gptq")),
        "axolotl stops: adapter: qlora cannot be loaded with gptq.",
        about="quantization",
    ),
    Row(
        "target-parameters-with-dropout",
        "lora_dropout",
        has("lora_target_parameters", "lora_dropout"),
        "axolotl stops: lora_target_parameters needs lora_dropout: 0.",
    ),
    Row(
        "unsloth-kernels-removed",
        "unsloth_lora_mlp",
        _unsloth,
        (
            "axolotl stops: the unsloth_* switches were removed; lora_mlp_kernel, lora_qkv_kernel and "
            "lora_o_kernel take their place."
        ),
    ),
    Row(
        "fused-mlp-with-adapter",
        "flash_attn_fuse_mlp",
        lambda r: lora(r) and bool(r.get("flash_attn_fuse_mlp")),
        "axolotl stops: flash_attn_fuse_mlp does not go with LoRA.",
    ),
    Row(
        "layers-and-unfrozen",
        "unfrozen_parameters",
        has("adapter", "peft_layers_to_transform", "unfrozen_parameters"),
        "axolotl stops: peft_layers_to_transform and unfrozen_parameters exclude each other.",
        about="freezing",
    ),
    Row(
        "layers-pattern-alone",
        "peft_layers_pattern",
        lambda r: bool(r.get("peft_layers_pattern")) and not r.get("peft_layers_to_transform"),
        "axolotl stops: peft_layers_pattern needs peft_layers_to_transform.",
        about="freezing",
    ),
    Row(
        "unfrozen-with-reentrant",
        "unfrozen_parameters",
        lambda r: bool(r.get("unfrozen_parameters")) and reentrant(r),
        "axolotl stops: unfrozen_parameters needs use_reentrant: false.",
        about="freezing",
    ),
    Row(
        "quantization-config-and-bits",
        "model_quantization_config",
        lambda r: bool(r.get("model_quantization_config")) and bits(r),
        "axolotl stops: model_quantization_config and load_in_4bit or load_in_8bit exclude each other.",
        about="quantization",
    ),
    Row(
        "q-galore-with-adapter",
        "optimizer",
        lambda r: lora(r) and str(r.get("optimizer")).startswith("q_galore"),
        "axolotl stops: the optimizer q_galore trains the whole model and does not go with an adapter.",
    ),
    Row(
        "qat-with-adapter",
        "qat",
        lambda r: bool(r.get("qat")) and (bool(r.get("peft")) or bits(r)),
        "axolotl stops: quantization-aware training goes with neither the peft section nor a quantized base.",
        about="quantization",
    ),
    Row(
        "adapter-unknown",
        "adapter",
        _stranger,
        "axolotl stops: it brings lora, qlora and llama-adapter, and no plugin that brings another is named.",
    ),
    Row(
        "qlora-merged-while-quantized",
        "merge_lora",
        lambda r: r.get("adapter") == "qlora" and bool(r.get("merge_lora")) and (bits(r) or bool(r.get("gptq"))),
        "axolotl stops: a QLoRA adapter is merged into a base that is not quantized, so load_in_4bit must be off.",
        about="quantization",
    ),
    Row(
        "one-bit-with-adapter",
        "use_onebitllms",
        lambda r: lora(r) and bool(r.get("use_onebitllms")),
        "axolotl stops: use_onebitllms does not go with LoRA.",
    ),
    Row(
        "target-modules-no-pattern",
        "lora_target_modules",
        _broken_patterns,
        "axolotl stops: an entry of lora_target_modules is no valid regular expression.",
    ),
    Row(
        "learning-rate-groups-and-ratio",
        "loraplus_lr_ratio",
        lambda r: bool(r.get("loraplus_lr_ratio") and r.get("lr_groups")),
        "axolotl stops: loraplus_lr_ratio and lr_groups exclude each other.",
    ),
    Row(
        "kernels-with-8bit",
        "load_in_8bit",
        lambda r: kernels(r) and r.get("adapter") == "lora" and bool(r.get("load_in_8bit")),
        "axolotl stops: the lora_*_kernel switches do not go with an 8-bit base.",
        about="kernels",
    ),
    Row(
        "kernels-with-remote-code",
        "trust_remote_code",
        lambda r: kernels(r) and bool(r.get("trust_remote_code")),
        "axolotl stops: the lora_*_kernel switches do not go with trust_remote_code: true.",
        about="kernels",
    ),
    Row(
        "experts-quantized-unfit",
        "quantize_moe_experts",
        _moe_experts_unfit,
        (
            "axolotl stops: quantize_moe_experts needs adapter: lora or qlora, load_in_4bit or load_in_8bit, and no "
            "lora_target_linear."
        ),
    ),
    Row(
        "relora-unfit",
        "relora",
        _relora_unfit,
        "axolotl stops: ReLoRA needs an adapter and jagged_restart_steps, another scheduler than one_cycle, and no "
        "flash_attn_fuse_mlp.",
    ),
    Row(
        "selective-checkpointing-unfit",
        "selective_checkpointing",
        lambda r: bool(r.get("selective_checkpointing")) and (not checkpoints(r) or reentrant(r)),
        "axolotl stops: selective_checkpointing needs gradient_checkpointing in its non-reentrant form.",
    ),
    Row(
        "selective-checkpointing-of-matmuls",
        "selective_checkpointing",
        _saves_matmuls,
        "axolotl stops: with an adapter selective_checkpointing cannot save the results of matrix products.",
    ),
    Row(
        "offloading-without-checkpointing",
        "activation_offloading",
        lambda r: bool(r.get("activation_offloading")) and not checkpoints(r),
        "axolotl stops: activation_offloading needs gradient_checkpointing.",
    ),
    Row(
        "mpt-with-checkpointing",
        "gradient_checkpointing",
        lambda r: base_is(r, "mpt") and checkpoints(r),
        "axolotl stops: MPT models have no gradient checkpointing.",
    ),
    Row(
        "gptq-with-revision",
        "revision_of_model",
        lambda r: bool(r.get("gptq")) and bool(r.get("revision_of_model") or r.get("model_revision")),
        "axolotl stops: a GPTQ base takes no revision; download that branch and name its folder.",
        about="quantization",
    ),
    Row(
        "nemotron-h-with-checkpointing",
        "gradient_checkpointing",
        lambda r: base_is(r, "nemotron-h") and checkpoints(r) and not r.get("sample_packing"),
        "axolotl before 0.19, which is installed here, stops: nemotron_h has gradient checkpointing with "
        "sample_packing: true only.",
        machine="axolotl < 0.19",
    ),
    Row(
        "selective-checkpointing-with-offloading",
        "activation_offloading",
        lambda r: (
            bool(r.get("selective_checkpointing"))
            and bool(r.get("activation_offloading"))
            and r.get("activation_offloading") != "hidden_states"
        ),
        "axolotl stops: selective_checkpointing goes with activation_offloading: hidden_states only.",
    ),
    Row(
        "offloading-with-reentrant-and-unfrozen",
        "activation_offloading",
        lambda r: r.get("activation_offloading") == "hidden_states" and has("unfrozen_parameters")(r) and reentrant(r),
        "axolotl stops: hidden_states are not offloaded with use_reentrant: true beside unfrozen_parameters.",
        about="freezing",
    ),
    Row(
        "flash-optimum-with-mixed-precision",
        "flash_optimum",
        lambda r: r.get("flash_optimum") is True and bool(r.get("fp16") or r.get("bf16")),
        "axolotl stops: flash_optimum goes with neither bf16 nor fp16.",
    ),
    Row(
        "polora-unfit",
        "optimizer",
        lambda r: r.get("optimizer") == "polora" and (not lora(r) or any_of(*_BESIDE_POLORA)(r)),
        "axolotl 0.19 stops: the optimizer polora updates the factors of a LoRA adapter alone, and by itself; it goes "
        "with no DeepSpeed, no other trainable weights and no learning rates of one's own.",
        about="optimizer",
    ),
    Row(
        "quantized-on-npu",
        "load_in_4bit",
        bits,
        "axolotl stops: on an Ascend NPU, which this machine has, load_in_4bit and load_in_8bit quantize no base.",
        about="quantization",
        machine="torch_npu",
    ),
    Row(
        "optimizer-on-npu",
        "optimizer",
        lambda r: "bit" in str(r.get("optimizer", "")),
        "axolotl stops: on an Ascend NPU, which this machine has, there is no 8-bit or 4-bit optimizer.",
        about="optimizer",
        machine="torch_npu",
    ),
)

"""Combinations that axolotl 0.18 itself refuses, as a table: found here before a GPU is waited for.

Each row is one check of axolotl's utils/schemas/ (file in the comment) that concerns an adapter on a quantized base.
"""

from __future__ import annotations

from collections.abc import Callable

from . import axolotl_adapter_checks
from .axolotl_adapter_checks import ABOUT, Row, bits, fsdp_version, lora, reentrant
from .fields import Reading


def _has(*keys: str) -> Callable[[Reading], bool]:
    return lambda reading: all(bool(reading.get(key)) for key in keys)


def _qlora(reading: Reading) -> bool:
    return bool(reading.get("adapter") == "qlora" and not reading.get("merge_lora"))


def _few_batch_keys(reading: Reading) -> bool:
    keys = ("micro_batch_size", "gradient_accumulation_steps", "batch_size")
    return sum(bool(reading.get(key)) for key in keys) < 2


def _sharegpt(reading: Reading) -> bool:
    found = reading.get("datasets")
    return isinstance(found, list) and any(
        isinstance(one, dict) and str(one.get("type", "")).startswith("sharegpt") for one in found
    )


def _evaluates_nothing(reading: Reading) -> bool:
    asked = reading.get("eval_steps") or reading.get("eval_strategy")
    nothing = reading.get("val_set_size") == 0 and not reading.get("test_datasets")
    return bool(asked) and nothing and reading.get("eval_strategy") not in ("no", False)


def _steps_mismatch(kind: str, *keys: str) -> Callable[[Reading], bool]:
    """A strategy that does not go by steps, beside a number of steps."""

    def is_so(reading: Reading) -> bool:
        strategy = reading.get(f"{kind}_strategy")
        return bool(strategy and strategy != "steps" and any(reading.get(key) for key in keys))

    return is_so


def _stops_early_unmeasured(reading: Reading) -> bool:
    save, evaluate = reading.get("save_steps"), reading.get("eval_steps")
    if not reading.get("early_stopping_patience") or not all(
        isinstance(n, int | float | None) for n in (save, evaluate)
    ):
        return False
    return not (save and evaluate and save % evaluate == 0)


_UNSLOTH = ("cross_entropy_loss", "lora_mlp", "lora_qkv", "lora_o", "rms_norm", "rope")


def _unsloth(reading: Reading) -> bool:
    return any(reading.get(f"unsloth_{part}") for part in _UNSLOTH)


ROWS: tuple[Row, ...] = (
    # peft.py
    (
        "quantized-without-adapter",
        "load_in_4bit",
        lambda r: bits(r) and not r.get("adapter") and not r.get("inference"),
        "axolotl stops: load_in_4bit and load_in_8bit need an adapter.",
    ),
    (
        "qlora-without-4bit",
        "adapter",
        lambda r: _qlora(r) and not r.get("load_in_4bit"),
        "axolotl stops: adapter: qlora needs load_in_4bit: true.",
    ),
    (
        "qlora-with-8bit",
        "load_in_8bit",
        lambda r: _qlora(r) and bool(r.get("load_in_8bit")),
        "axolotl stops: adapter: qlora cannot be loaded in 8 bits.",
    ),
    (
        "qlora-with-gptq",
        "gptq",
        lambda r: _qlora(r) and bool(r.get("gptq")),
        "axolotl stops: adapter: qlora cannot be loaded with gptq.",
    ),
    (
        "target-parameters-with-dropout",
        "lora_dropout",
        _has("lora_target_parameters", "lora_dropout"),
        "axolotl stops: lora_target_parameters needs lora_dropout: 0.",
    ),
    # validation.py
    (
        "too-few-batch-keys",
        "micro_batch_size",
        _few_batch_keys,
        "axolotl stops: at least two of micro_batch_size, gradient_accumulation_steps and batch_size must be set.",
    ),
    (
        "batch-size-and-accumulation",
        "batch_size",
        _has("batch_size", "gradient_accumulation_steps"),
        "axolotl stops: batch_size and gradient_accumulation_steps exclude each other.",
    ),
    (
        "warmup-twice",
        "warmup_ratio",
        _has("warmup_steps", "warmup_ratio"),
        "axolotl stops: warmup_steps and warmup_ratio exclude each other.",
    ),
    (
        "eval-steps-twice",
        "evals_per_epoch",
        _has("eval_steps", "evals_per_epoch"),
        "axolotl stops: eval_steps and evals_per_epoch exclude each other.",
    ),
    (
        "save-steps-twice",
        "saves_per_epoch",
        _has("save_steps", "saves_per_epoch"),
        "axolotl stops: save_steps and saves_per_epoch exclude each other.",
    ),
    (
        "evaluates-without-data",
        "val_set_size",
        _evaluates_nothing,
        "axolotl stops: evaluation is asked for, and val_set_size: 0 leaves nothing to evaluate on.",
    ),
    (
        "eval-steps-and-strategy",
        "eval_strategy",
        _steps_mismatch("eval", "eval_steps", "evals_per_epoch"),
        "axolotl stops: eval_steps and evals_per_epoch need eval_strategy: steps.",
    ),
    (
        "save-steps-and-strategy",
        "save_strategy",
        _steps_mismatch("save", "save_steps"),
        "axolotl stops: save_steps needs save_strategy: steps.",
    ),
    (
        "early-stopping-without-steps",
        "early_stopping_patience",
        _stops_early_unmeasured,
        "axolotl stops: early_stopping_patience needs save_steps and an eval_steps that divides them.",
    ),
    (
        "dataset-type-sharegpt",
        "datasets",
        _sharegpt,
        "axolotl stops: the dataset type sharegpt was removed; type: chat_template takes its place.",
    ),
    (
        "unsloth-kernels-removed",
        "unsloth_lora_mlp",
        _unsloth,
        "axolotl stops: the unsloth_* switches were removed; lora_mlp_kernel, lora_qkv_kernel and "
        "lora_o_kernel take their place.",
    ),
    (
        "packing-with-preference-training",
        "sample_packing",
        _has("rl", "sample_packing"),
        "axolotl stops: sample_packing does not go with rl.",
    ),
    (
        "fused-mlp-with-adapter",
        "flash_attn_fuse_mlp",
        lambda r: lora(r) and bool(r.get("flash_attn_fuse_mlp")),
        "axolotl stops: flash_attn_fuse_mlp does not go with LoRA.",
    ),
    (
        "layers-and-unfrozen",
        "unfrozen_parameters",
        _has("adapter", "peft_layers_to_transform", "unfrozen_parameters"),
        "axolotl stops: peft_layers_to_transform and unfrozen_parameters exclude each other.",
    ),
    (
        "layers-pattern-alone",
        "peft_layers_pattern",
        lambda r: bool(r.get("peft_layers_pattern")) and not r.get("peft_layers_to_transform"),
        "axolotl stops: peft_layers_pattern needs peft_layers_to_transform.",
    ),
    (
        "unfrozen-with-reentrant",
        "unfrozen_parameters",
        lambda r: bool(r.get("unfrozen_parameters")) and reentrant(r),
        "axolotl stops: unfrozen_parameters needs use_reentrant: false.",
    ),
    (
        "fsdp2-with-8bit-optimizer",
        "optimizer",
        lambda r: fsdp_version(r) == 2 and r.get("optimizer") in ("adamw_8bit", "adamw_bnb_8bit"),
        "axolotl stops: FSDP 2 does not go with this 8-bit optimizer; adamw_torch_8bit does.",
    ),
    (
        "fsdp2-with-quantized-preference-training",
        "rl",
        lambda r: fsdp_version(r) == 2 and bits(r) and r.get("rl") in ("dpo", "kto", "orpo", "ipo"),
        "axolotl stops: FSDP 2 does not train a quantized base by preference.",
    ),
    (
        "fsdp-and-deepspeed",
        "deepspeed",
        lambda r: fsdp_version(r) is not None and bool(r.get("deepspeed")),
        "axolotl stops: fsdp and deepspeed exclude each other.",
    ),
    (
        "quantization-config-and-bits",
        "model_quantization_config",
        lambda r: bool(r.get("model_quantization_config")) and bits(r),
        "axolotl stops: model_quantization_config and load_in_4bit or load_in_8bit exclude each other.",
    ),
    (
        "q-galore-with-adapter",
        "optimizer",
        lambda r: lora(r) and str(r.get("optimizer")).startswith("q_galore"),
        "axolotl stops: the optimizer q_galore trains the whole model and does not go with an adapter.",
    ),
    # config.py
    (
        "empty-output-dir",
        "output_dir",
        lambda r: r.written("output_dir") and not r.has("output_dir"),
        "axolotl stops: output_dir stands there without a value; leave the key out to get ./model-out.",
    ),
    (
        "attention-twice",
        "attn_implementation",
        lambda r: (
            bool(r.get("attn_implementation"))
            and any(r.get(f"{kind}_attention") for kind in ("flash", "sdp", "xformers", "flex", "sage", "eager"))
        ),
        "axolotl stops: attn_implementation and the older attention switches exclude each other.",
    ),
    (
        "qat-with-adapter",
        "qat",
        lambda r: bool(r.get("qat")) and (bool(r.get("peft")) or bits(r)),
        "axolotl stops: quantization-aware training goes with neither the peft section nor a quantized base.",
    ),
    (
        "deprecated-key",
        "max_packed_sequence_len",
        _has("max_packed_sequence_len"),
        "axolotl stops: max_packed_sequence_len was removed; sample_packing takes its place.",
    ),
    (
        "deprecated-key",
        "rope_scaling",
        _has("rope_scaling"),
        "axolotl stops: rope_scaling belongs under overrides_of_model_config.",
    ),
    ("deprecated-key", "s2_attention", _has("s2_attention"), "axolotl stops: s2_attention was removed."),
    (
        "deprecated-key",
        "flash_attn_rms_norm",
        _has("flash_attn_rms_norm"),
        "axolotl stops: flash_attn_rms_norm was removed.",
    ),
)


def check(reading: Reading) -> None:
    """Remark on every combination that axolotl refuses."""
    for kind, key, is_so, note in (*ROWS, *axolotl_adapter_checks.ROWS):
        if is_so(reading):
            shown = (
                key if reading.written(key) else next((k for k in ("adapter", "base_model") if reading.written(k)), key)
            )
            reading.refused(kind, shown, note, ABOUT.get(kind, "trainer"))
    axolotl_adapter_checks.remarks(reading)

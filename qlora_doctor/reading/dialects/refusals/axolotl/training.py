"""What axolotl 0.18 and 0.19 refuse of steps, samples and evaluation, and keys that they removed.

From utils/schemas/validation.py, deprecated.py, model.py and config.py.
"""

from __future__ import annotations

from collections.abc import Callable

from ...fields import Reading
from .. import Row, any_of, has
from .words import number


def _few_batch_keys(reading: Reading) -> bool:
    keys = ("micro_batch_size", "gradient_accumulation_steps", "batch_size")
    return sum(bool(reading.get(key)) for key in keys) < 2


def _batch_size_alone(reading: Reading) -> bool:
    return _few_batch_keys(reading) and bool(reading.get("batch_size"))


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


def _several_losses(reading: Reading) -> bool:
    keys = (
        "cut_cross_entropy",
        "chunked_cross_entropy",
        "liger_cross_entropy",
        "liger_fused_linear_cross_entropy",
    )
    return sum(bool(reading.get(key)) for key in keys) > 1


_STREAMED = any_of("pretraining_dataset", "streaming")


def _odd_generations(reading: Reading) -> bool:
    """GRPO: a batch holds whole groups, of two answers at least."""
    if reading.get("rl") != "grpo":
        return False
    group = number(reading, "trl.num_generations")
    batch = number(reading, "trl.generation_batch_size") or (
        number(reading, "micro_batch_size", 1) * number(reading, "gradient_accumulation_steps", 1)
    )
    return reading.has("trl.num_generations") and (group < 2 or batch % group != 0)


def _first(written: object) -> object:
    return written[0] if isinstance(written, list) and written else None


def _odd_losses(reading: Reading) -> bool:
    """DPO's losses and their weights, as lists of one length."""
    kinds, weights = reading.get("dpo_loss_type"), reading.get("dpo_loss_weights")
    if kinds is None and weights is None:
        return False
    if reading.get("rl") != "dpo" or (weights is not None and kinds is None):
        return True
    return isinstance(kinds, list) and isinstance(weights, list) and len(kinds) != len(weights)


_OF_OTHER_TOKENIZERS = ("added_tokens_overrides", "special_tokens", "tokens", "chat_template", "processor_kwargs")


ROWS: tuple[Row, ...] = (
    Row(
        "too-few-batch-keys",
        "batch_size",
        _batch_size_alone,
        "axolotl stops: batch_size needs micro_batch_size or gradient_accumulation_steps beside it.",
    ),
    Row(
        "too-few-batch-keys-before-0.19",
        "micro_batch_size",
        lambda r: _few_batch_keys(r) and not _batch_size_alone(r),
        "axolotl before 0.19, which is installed here, stops: at least two of micro_batch_size, "
        "gradient_accumulation_steps and batch_size must be set.",
        machine="axolotl < 0.19",
    ),
    Row(
        "batch-size-and-accumulation",
        "batch_size",
        has("batch_size", "gradient_accumulation_steps"),
        "axolotl stops: batch_size and gradient_accumulation_steps exclude each other.",
    ),
    Row(
        "warmup-twice",
        "warmup_ratio",
        has("warmup_steps", "warmup_ratio"),
        "axolotl stops: warmup_steps and warmup_ratio exclude each other.",
    ),
    Row(
        "eval-steps-twice",
        "evals_per_epoch",
        has("eval_steps", "evals_per_epoch"),
        "axolotl stops: eval_steps and evals_per_epoch exclude each other.",
    ),
    Row(
        "save-steps-twice",
        "saves_per_epoch",
        has("save_steps", "saves_per_epoch"),
        "axolotl stops: save_steps and saves_per_epoch exclude each other.",
    ),
    Row(
        "evaluates-without-data",
        "val_set_size",
        _evaluates_nothing,
        "axolotl stops: evaluation is asked for, and val_set_size: 0 leaves nothing to evaluate on.",
    ),
    Row(
        "eval-steps-and-strategy",
        "eval_strategy",
        _steps_mismatch("eval", "eval_steps", "evals_per_epoch"),
        "axolotl stops: eval_steps and evals_per_epoch need eval_strategy: steps.",
    ),
    Row(
        "save-steps-and-strategy",
        "save_strategy",
        _steps_mismatch("save", "save_steps"),
        "axolotl stops: save_steps needs save_strategy: steps.",
    ),
    Row(
        "early-stopping-without-steps",
        "early_stopping_patience",
        _stops_early_unmeasured,
        "axolotl stops: early_stopping_patience needs save_steps and an eval_steps that divides them.",
    ),
    Row(
        "dataset-type-sharegpt",
        "datasets",
        _sharegpt,
        "axolotl stops: the dataset type sharegpt was removed; type: chat_template takes its place.",
    ),
    Row(
        "packing-with-preference-training",
        "sample_packing",
        has("rl", "sample_packing"),
        "axolotl stops: sample_packing does not go with rl.",
    ),
    Row(
        "empty-output-dir",
        "output_dir",
        lambda r: r.written("output_dir") and not r.has("output_dir"),
        "axolotl stops: output_dir stands there without a value; leave the key out to get ./model-out.",
    ),
    Row(
        "deprecated-key",
        "max_packed_sequence_len",
        has("max_packed_sequence_len"),
        "axolotl stops: max_packed_sequence_len was removed; sample_packing takes its place.",
    ),
    Row(
        "deprecated-key",
        "rope_scaling",
        has("rope_scaling"),
        "axolotl stops: rope_scaling belongs under overrides_of_model_config.",
    ),
    Row(
        "deprecated-key",
        "s2_attention",
        has("s2_attention"),
        "axolotl stops: s2_attention was removed.",
    ),
    Row(
        "deprecated-key",
        "flash_attn_rms_norm",
        has("flash_attn_rms_norm"),
        "axolotl stops: flash_attn_rms_norm was removed.",
    ),
    Row(
        "several-losses",
        "liger_fused_linear_cross_entropy",
        _several_losses,
        "axolotl stops: of the cross-entropy switches (cut, chunked, liger, liger fused) only one may be on.",
    ),
    Row(
        "saves-without-safetensors",
        "save_safetensors",
        lambda r: r.get("save_safetensors") is False,
        "axolotl stops: save_safetensors: false is no longer possible with transformers 5.",
    ),
    Row(
        "eval-packing-with-table",
        "eval_table_size",
        lambda r: (
            bool(r.get("sample_packing") and r.get("eval_table_size")) and r.get("eval_sample_packing") is not False
        ),
        "axolotl stops: eval_table_size with sample_packing needs eval_sample_packing: false.",
    ),
    Row(
        "deprecated-key",
        "dpo_norm_loss",
        lambda r: r.has("dpo_norm_loss") or r.has("rpo_alpha"),
        "axolotl stops: dpo_norm_loss and rpo_alpha were removed.",
    ),
    Row(
        "kto-drops-columns",
        "rl",
        lambda r: r.get("rl") == "kto" and r.get("remove_unused_columns") is not False,
        "axolotl stops: rl: kto needs remove_unused_columns: false.",
    ),
    Row(
        "warmup-steps-in-parts",
        "warmup_steps",
        lambda r: isinstance(steps := r.get("warmup_steps"), float) and not steps.is_integer(),
        "axolotl stops: warmup_steps is a whole number; a share of all steps is warmup_ratio.",
    ),
    Row(
        "tokens-no-list",
        "tokens",
        lambda r: isinstance(r.get("tokens"), dict),
        "axolotl stops: tokens is a list; names such as pad_token belong under special_tokens.",
    ),
    Row(
        "liger-preference-by-ipo",
        "dpo_use_liger_kernel",
        lambda r: bool(r.get("dpo_use_liger_kernel")) and "ipo" in (r.get("rl"), _first(r.get("dpo_loss_type"))),
        "axolotl 0.19 stops: dpo_use_liger_kernel does not know the loss ipo.",
    ),
    Row(
        "fp8-options-without-fp8",
        "fp8_config",
        lambda r: r.has("fp8_config") and not r.get("fp8"),
        "axolotl 0.19 stops: fp8_config needs fp8: true.",
    ),
    Row(
        "no-dataset",
        "datasets",
        lambda r: not r.has("datasets") and not r.has("pretraining_dataset"),
        "axolotl stops: neither datasets nor pretraining_dataset is set.",
    ),
    Row(
        "test-datasets-and-split",
        "val_set_size",
        has("test_datasets", "val_set_size"),
        "axolotl stops: test_datasets and val_set_size exclude each other.",
    ),
    Row(
        "best-checkpoint-without-metric",
        "save_strategy",
        lambda r: r.get("save_strategy") == "best" and not r.get("metric_for_best_model"),
        "axolotl stops: save_strategy: best needs metric_for_best_model.",
    ),
    Row(
        "bench-without-steps",
        "do_bench_eval",
        lambda r: bool(r.get("do_bench_eval")) and not (r.get("evals_per_epoch") or r.get("eval_steps")),
        "axolotl stops: do_bench_eval needs evals_per_epoch or eval_steps.",
    ),
    Row(
        "generated-evaluation-of-packed-samples",
        "do_causal_lm_eval",
        has("do_causal_lm_eval", "eval_sample_packing"),
        "axolotl stops: do_causal_lm_eval needs eval_sample_packing: false.",
    ),
    Row(
        "streaming-without-steps",
        "max_steps",
        lambda r: _STREAMED(r) and not r.get("max_steps"),
        "axolotl stops: a streamed dataset needs max_steps.",
    ),
    Row(
        "streaming-with-split",
        "val_set_size",
        lambda r: _STREAMED(r) and bool(r.get("val_set_size")),
        "axolotl stops: nothing can be split off a streamed dataset; test_datasets takes the place of val_set_size.",
    ),
    Row(
        "streaming-packs-several-datasets",
        "datasets",
        lambda r: has("streaming", "sample_packing")(r) and isinstance(d := r.get("datasets"), list) and len(d) > 1,
        "axolotl stops: sample_packing streams one dataset only.",
    ),
    Row(
        "deduplication-passed-by",
        "dataset_exact_deduplication",
        lambda r: bool(r.get("dataset_exact_deduplication")) and (_STREAMED(r) or bool(r.get("skip_prepare_dataset"))),
        "axolotl stops: dataset_exact_deduplication goes with neither a streamed dataset nor skip_prepare_dataset.",
    ),
    Row(
        "template-missing",
        "chat_template",
        lambda r: r.get("chat_template") == "jinja" and not r.get("chat_template_jinja"),
        "axolotl stops: chat_template: jinja needs chat_template_jinja.",
    ),
    Row(
        "mistral-common-with-own-tokens",
        "tokenizer_use_mistral_common",
        lambda r: bool(r.get("tokenizer_use_mistral_common")) and any_of(*_OF_OTHER_TOKENIZERS)(r),
        "axolotl stops: the tokenizer of mistral-common takes no tokens, special_tokens or chat_template of one's own.",
    ),
    Row(
        "noise-twice",
        "noisy_embedding_alpha",
        has("noisy_embedding_alpha", "neftune_noise_alpha"),
        "axolotl stops: noisy_embedding_alpha is the older name of neftune_noise_alpha, and both are set.",
    ),
    Row(
        "noise-not-positive",
        "neftune_noise_alpha",
        lambda r: r.has("neftune_noise_alpha") and number(r, "neftune_noise_alpha", 1) <= 0,
        "axolotl stops: neftune_noise_alpha must be above 0.",
    ),
    Row(
        "memory-limited-twice",
        "gpu_memory_limit",
        lambda r: r.has("max_memory") and r.has("gpu_memory_limit"),
        "axolotl stops: max_memory and gpu_memory_limit exclude each other.",
    ),
    Row(
        "compile-options-without-compile",
        "torch_compile_options",
        lambda r: r.has("torch_compile_options") and not r.get("torch_compile"),
        "axolotl stops: torch_compile_options needs torch_compile: true.",
    ),
    Row(
        "groups-do-not-fit-batch",
        "trl",
        _odd_generations,
        "axolotl stops: GRPO needs trl.num_generations of at least 2, and a batch that it divides.",
    ),
    Row(
        "losses-unfit",
        "dpo_loss_type",
        _odd_losses,
        "axolotl stops: dpo_loss_type and dpo_loss_weights are for rl: dpo, and of one length.",
    ),
    Row(
        "simpo-with-warmup-ratio",
        "warmup_ratio",
        lambda r: r.get("rl") == "simpo" and bool(r.get("warmup_ratio")),
        "axolotl stops: rl: simpo takes warmup_steps, not warmup_ratio.",
    ),
    Row(
        "deprecated-key",
        "dpo_use_logits_to_keep",
        lambda r: r.has("dpo_use_logits_to_keep") or r.has("dpo_generate_during_eval"),
        "axolotl stops: dpo_use_logits_to_keep and dpo_generate_during_eval were removed.",
    ),
)

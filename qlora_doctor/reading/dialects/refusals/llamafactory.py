"""LLaMA-Factory 0.9.5: what it refuses, and what it warns of.

Each row is one check of hparams/{parser,finetuning_args,data_args}.py, model/adapter.py or
model/model_utils/quantization.py.
"""

from __future__ import annotations

from ..fields import Reading
from . import Row, any_of


def _bits(reading: Reading) -> int | None:
    written = reading.get("quantization_bit")
    if isinstance(written, str) and written.isdecimal() and len(written) < 4:
        return int(written)
    return written if isinstance(written, int) and not isinstance(written, bool) else None


def _quantized(reading: Reading) -> bool:
    return _bits(reading) is not None


def _method(reading: Reading) -> str:
    return str(reading.get("quantization_method", "bnb")).lower()


def _kind(reading: Reading) -> str:
    return str(reading.get("finetuning_type", "lora"))


def _lora(reading: Reading) -> bool:
    return _kind(reading) == "lora"


def _adapters(reading: Reading) -> int:
    written = reading.get("adapter_name_or_path")
    names = written if isinstance(written, list) else str(written).split(",") if written else []
    return len(names)


def _zero3(reading: Reading) -> bool:
    """The DeepSpeed file is one of stage 3, by its name or, where it stands in the config, by its stage."""
    written = reading.get("deepspeed")
    if isinstance(written, dict):
        return bool(reading.get("deepspeed.zero_optimization.stage") == 3)
    return any(sign in str(written or "") for sign in ("z3", "zero3", "stage3"))


def _shards(reading: Reading) -> bool:
    return _zero3(reading) or bool(reading.get("fsdp"))


def _stage(reading: Reading) -> str:
    return str(reading.get("stage", "sft"))


def _outside_lora(reading: Reading) -> bool:
    return not _lora(reading) and any_of("use_rslora", "use_dora", "pissa_init", "loraplus_lr_ratio")(reading)


def _size(reading: Reading) -> float:
    written = reading.get("val_size", 0)
    return float(written) if isinstance(written, int | float) else 0.0


def _pissa_beside_reference(reading: Reading) -> bool:
    """A stage that keeps a second copy of the base, from which PiSSA takes its part."""
    compares = _stage(reading) == "dpo" and reading.get("pref_loss") not in ("orpo", "simpo")
    return (
        bool(reading.get("pissa_init")) and (_stage(reading) in ("ppo", "kto") or compares) and not _quantized(reading)
    )


def _lora_reward_outside_lora(reading: Reading) -> bool:
    return reading.get("reward_model_type", "lora") == "lora" and not _lora(reading)


_WIDTHS: dict[str, tuple[int, ...]] = {"bnb": (4, 8), "eetq": (8,), "hqq": (1, 2, 3, 4, 5, 6, 8)}
"""Bits that its quantizers take."""


def _odd_bits(reading: Reading) -> bool:
    bits = _bits(reading)
    return bits is not None and bits not in _WIDTHS.get(_method(reading), (bits,))


ROWS: tuple[Row, ...] = (
    Row(
        "quantized-without-lora",
        "finetuning_type",
        lambda r: _quantized(r) and _kind(r) in ("freeze", "full"),
        ("LLaMA-Factory stops: quantization_bit goes with finetuning_type lora or oft only."),
        about="quantization",
    ),
    Row(
        "quantized-with-pissa",
        "pissa_init",
        lambda r: _quantized(r) and bool(r.get("pissa_init")),
        ("LLaMA-Factory stops: pissa_init needs a base that is not quantized; scripts/pissa_init.py makes one."),
        about="quantization",
    ),
    Row(
        "quantized-with-resized-vocabulary",
        "resize_vocab",
        lambda r: (
            _quantized(r) and any_of("resize_vocab", "add_tokens", "add_special_tokens", "new_special_tokens_config")(r)
        ),
        ("LLaMA-Factory stops: the embeddings of a quantized base cannot be resized."),
        about="quantization",
    ),
    Row(
        "quantized-with-new-adapter",
        "create_new_adapter",
        lambda r: _quantized(r) and _adapters(r) > 0 and bool(r.get("create_new_adapter")),
        ("LLaMA-Factory stops: on a quantized base create_new_adapter does not go with adapter_name_or_path."),
        about="quantization",
    ),
    Row(
        "quantized-with-several-adapters",
        "adapter_name_or_path",
        lambda r: _quantized(r) and _adapters(r) > 1,
        ("LLaMA-Factory stops: a quantized base takes one adapter only; merge the others first."),
        about="quantization",
    ),
    Row(
        "quantized-with-fp8",
        "fp8",
        lambda r: _quantized(r) and bool(r.get("fp8")),
        ("LLaMA-Factory stops: fp8 does not go with quantization_bit."),
        about="quantization",
    ),
    Row(
        "quantized-with-device-map",
        "quantization_device_map",
        lambda r: r.get("quantization_device_map") == "auto" and bool(r.get("do_train")),
        ("LLaMA-Factory stops: quantization_device_map: auto is for inference only."),
        about="quantization",
    ),
    Row(
        "quantized-to-odd-bits",
        "quantization_bit",
        _odd_bits,
        ("LLaMA-Factory stops: bnb quantizes to 4 or 8 bits, eetq to 8, hqq to 1 to 6 or 8."),
        about="quantization",
    ),
    Row(
        "sharded-in-8bit",
        "quantization_bit",
        lambda r: _bits(r) == 8 and _method(r) == "bnb" and _shards(r),
        ("LLaMA-Factory stops: under ZeRO-3 or FSDP bitsandbytes goes with 4 bits only."),
        about="distribution",
    ),
    Row(
        "sharded-by-another-method",
        "quantization_method",
        lambda r: _quantized(r) and _method(r) in ("hqq", "eetq") and _shards(r),
        ("LLaMA-Factory stops: hqq and eetq go with neither ZeRO-3 nor FSDP."),
        about="distribution",
    ),
    Row(
        "zero3-unfit",
        "deepspeed",
        lambda r: _zero3(r) and any_of("use_unsloth", "pure_bf16", "predict_with_generate", "pissa_init")(r),
        ("LLaMA-Factory stops: ZeRO-3 goes with none of use_unsloth, pure_bf16, predict_with_generate and pissa_init."),
        about="distribution",
    ),
    Row(
        "adapter-without-lora",
        "adapter_name_or_path",
        lambda r: _adapters(r) > 0 and not _lora(r),
        ("LLaMA-Factory stops: adapter_name_or_path needs finetuning_type: lora."),
    ),
    Row(
        "finetuning-type-unknown",
        "finetuning_type",
        lambda r: _kind(r) not in ("lora", "oft", "freeze", "full"),
        (
            "LLaMA-Factory stops: finetuning_type is one of lora, oft, freeze and full; 4 bits are asked for with "
            "quantization_bit: 4."
        ),
    ),
    Row(
        "lora-with-another-method",
        "finetuning_type",
        lambda r: _lora(r) and any_of("use_galore", "use_apollo", "use_badam")(r),
        ("LLaMA-Factory stops: LoRA goes with none of GaLore, APOLLO and BAdam."),
    ),
    Row(
        "lora-options-without-lora",
        "finetuning_type",
        _outside_lora,
        ("LLaMA-Factory stops: use_rslora, use_dora, pissa_init and loraplus_lr_ratio need finetuning_type: lora."),
    ),
    Row(
        "pissa-with-reference-model",
        "pissa_init",
        _pissa_beside_reference,
        ("LLaMA-Factory stops: pissa_init does not go with this stage."),
    ),
    Row(
        "neat-packing-outside-sft",
        "neat_packing",
        lambda r: any_of("neat_packing", "mask_history", "train_on_prompt")(r) and _stage(r) != "sft",
        ("LLaMA-Factory stops: neat_packing, mask_history and train_on_prompt are for stage: sft only."),
    ),
    Row(
        "history-masked-and-prompt-trained",
        "mask_history",
        lambda r: bool(r.get("mask_history") and r.get("train_on_prompt")),
        ("LLaMA-Factory stops: mask_history and train_on_prompt exclude each other."),
    ),
    Row(
        "validation-split-and-set",
        "val_size",
        lambda r: _size(r) > 1e-6 and bool(r.get("eval_dataset")),
        ("LLaMA-Factory stops: val_size and eval_dataset exclude each other."),
    ),
    Row(
        "streaming-without-steps",
        "max_steps",
        lambda r: bool(r.get("streaming")) and r.get("max_steps", -1) == -1,
        ("LLaMA-Factory stops: streaming needs max_steps."),
    ),
    Row(
        "quantized-under-megatron",
        "quantization_bit",
        lambda r: _quantized(r) and any_of("use_mca", "tensor_model_parallel_size", "pipeline_model_parallel_size")(r),
        "LLaMA-Factory stops: Megatron trains no quantized base.",
        about="quantization",
    ),
    Row(
        "sharded-with-older-bitsandbytes",
        "quantization_bit",
        lambda r: _bits(r) == 4 and _method(r) == "bnb" and _shards(r),
        "LLaMA-Factory stops: under ZeRO-3 or FSDP 4 bits need bitsandbytes 0.43 or later, and an older one is "
        "installed here.",
        about="distribution",
        machine="bitsandbytes < 0.43",
    ),
    Row(
        "bf16-on-older-card",
        "pure_bf16",
        lambda r: bool(r.get("pure_bf16")),
        "LLaMA-Factory stops: pure_bf16 needs a card with bf16, of compute capability 8.0 or above.",
        machine="capability < 8.0",
    ),
    Row(
        "no-dataset",
        "do_train",
        lambda r: bool(r.get("do_train")) and not r.has("dataset"),
        "LLaMA-Factory stops: do_train is set and no dataset is named.",
    ),
    Row(
        "evaluates-without-data",
        "do_eval",
        lambda r: (
            any_of("do_eval", "do_predict", "predict_with_generate")(r)
            and not r.has("eval_dataset")
            and _size(r) < 1e-6
        ),
        "LLaMA-Factory stops: evaluation is asked for, and there is neither eval_dataset nor val_size.",
    ),
    Row(
        "predicts-without-generating",
        "do_predict",
        lambda r: _stage(r) == "sft" and bool(r.get("do_predict")) and not r.get("predict_with_generate"),
        "LLaMA-Factory stops: do_predict needs predict_with_generate: true.",
    ),
    Row(
        "generates-outside-sft",
        "predict_with_generate",
        lambda r: bool(r.get("predict_with_generate")) and (_stage(r) != "sft" or bool(r.get("compute_accuracy"))),
        "LLaMA-Factory stops: predict_with_generate is for stage: sft, without compute_accuracy.",
    ),
    Row(
        "reward-model-unfit",
        "reward_model",
        lambda r: _stage(r) == "ppo" and (not r.has("reward_model") or _lora_reward_outside_lora(r)),
        "LLaMA-Factory stops: stage: ppo needs reward_model, and reward_model_type: lora needs finetuning_type: lora.",
    ),
    Row(
        "best-model-of-reward-training",
        "load_best_model_at_end",
        lambda r: _stage(r) in ("rm", "ppo") and bool(r.get("load_best_model_at_end")),
        "LLaMA-Factory stops: stages rm and ppo do not go with load_best_model_at_end.",
    ),
    Row(
        "label-smoothing-of-another-loss",
        "dpo_label_smoothing",
        lambda r: (
            _stage(r) == "dpo" and r.get("pref_loss", "sigmoid") != "sigmoid" and bool(r.get("dpo_label_smoothing"))
        ),
        "LLaMA-Factory stops: dpo_label_smoothing goes with pref_loss: sigmoid only.",
    ),
    Row(
        "split-without-dataset",
        "val_size",
        lambda r: _size(r) > 1e-6 and not r.has("dataset"),
        "LLaMA-Factory stops: val_size needs dataset.",
    ),
    Row(
        "streaming-cut",
        "streaming",
        lambda r: bool(r.get("streaming")) and (r.has("max_samples") or 1e-6 < _size(r) < 1),
        "LLaMA-Factory stops: streaming goes with neither max_samples nor a val_size below 1.",
    ),
    Row(
        "shares-without-interleaving",
        "interleave_probs",
        lambda r: r.has("interleave_probs") and r.get("mix_strategy", "concat") == "concat",
        "LLaMA-Factory stops: interleave_probs needs a mix_strategy that interleaves.",
    ),
)


def remark(reading: Reading, *, trains_anyway: bool) -> None:
    """Remark on what it goes on with, and warns of or should.

    Args:
        trains_anyway: the file is of the board, which sets do_train itself; elsewhere it is off unless it is written.
    """
    trains = bool(reading.get("do_train", trains_anyway))
    if trains and not any(reading.get(key) for key in ("bf16", "fp16", "pure_bf16")):
        note = "LLaMA-Factory recommends bf16: true (or fp16: true); with neither all but the 4-bit layers is float32."
        reading.remark("no-mixed-precision", None, note)
    if trains and _quantized(reading) and not reading.get("upcast_layernorm"):
        note = "LLaMA-Factory recommends upcast_layernorm: true with a quantized base."
        reading.remark("norms-not-upcast", "quantization_bit", note)
    if not trains and _quantized(reading) and (reading.has("do_train") or any_of("do_eval", "do_predict")(reading)):
        note = "LLaMA-Factory warns: a base in 4 or 8 bits may score lower in evaluation than the base itself."
        reading.remark("evaluated-while-quantized", "quantization_bit", note)
    strategy = reading.get("eval_strategy", reading.get("evaluation_strategy", "no"))
    if trains and _size(reading) > 1e-6 and strategy in ("no", False) and not reading.get("do_eval"):
        share = f"{_size(reading):g}{' of the' if _size(reading) < 1 else ''} rows"
        note = f"val_size holds {share} out of training; without eval_strategy and do_eval they are never evaluated."
        reading.remark("held-out-unused", "val_size", note)
    if reading.get("deepspeed"):
        note = (
            "On one GPU llamafactory-cli starts DeepSpeed with FORCE_TORCHRUN=1 in the environment only; without it "
            "the run stops."
        )
        reading.remark("launched-without-torchrun", "deepspeed", note, "gpus < 2")
    if reading.get("packing") and not reading.get("neat_packing") and _stage(reading) == "sft":
        note = "LLaMA-Factory keeps packed samples apart with neat_packing: true only."
        reading.remark("packing-joins-samples", "packing", note)
    if reading.get("use_unsloth") and reading.get("lora_dropout"):
        note = f"Unsloth's fast kernels need lora_dropout: 0, found {reading.get('lora_dropout')}."
        reading.remark("kernels-passed-by", "lora_dropout", note)

"""Combinations that LLaMA-Factory 0.9.5 itself refuses, as a table; and what it warns of.

Each row is one check of hparams/{parser,finetuning_args,data_args}.py or model/model_utils/quantization.py.
"""

from __future__ import annotations

from collections.abc import Callable

from .fields import Reading

Row = tuple[str, str, str, Callable[[Reading], bool], str]
"""(kind, what it is about, key that it points at, is it so, what LLaMA-Factory says)."""


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


def _any(*keys: str) -> Callable[[Reading], bool]:
    return lambda reading: any(bool(reading.get(key)) for key in keys)


def _outside_lora(reading: Reading) -> bool:
    return not _lora(reading) and _any("use_rslora", "use_dora", "pissa_init", "loraplus_lr_ratio")(reading)


def _size(reading: Reading) -> float:
    written = reading.get("val_size", 0)
    return float(written) if isinstance(written, int | float) else 0.0


_WIDTHS: dict[str, tuple[int, ...]] = {"bnb": (4, 8), "eetq": (8,), "hqq": (1, 2, 3, 4, 5, 6, 8)}
"""Bits that its quantizers take."""


def _odd_bits(reading: Reading) -> bool:
    bits = _bits(reading)
    return bits is not None and bits not in _WIDTHS.get(_method(reading), (bits,))


ROWS: tuple[Row, ...] = (
    (
        "quantized-without-lora",
        "quantization",
        "finetuning_type",
        lambda r: _quantized(r) and _kind(r) in ("freeze", "full"),
        "LLaMA-Factory stops: quantization_bit goes with finetuning_type lora or oft only.",
    ),
    (
        "quantized-with-pissa",
        "quantization",
        "pissa_init",
        lambda r: _quantized(r) and bool(r.get("pissa_init")),
        "LLaMA-Factory stops: pissa_init needs a base that is not quantized; scripts/pissa_init.py makes one.",
    ),
    (
        "quantized-with-resized-vocabulary",
        "quantization",
        "resize_vocab",
        lambda r: (
            _quantized(r) and _any("resize_vocab", "add_tokens", "add_special_tokens", "new_special_tokens_config")(r)
        ),
        "LLaMA-Factory stops: the embeddings of a quantized base cannot be resized.",
    ),
    (
        "quantized-with-new-adapter",
        "quantization",
        "create_new_adapter",
        lambda r: _quantized(r) and _adapters(r) > 0 and bool(r.get("create_new_adapter")),
        "LLaMA-Factory stops: on a quantized base create_new_adapter does not go with adapter_name_or_path.",
    ),
    (
        "quantized-with-several-adapters",
        "quantization",
        "adapter_name_or_path",
        lambda r: _quantized(r) and _adapters(r) > 1,
        "LLaMA-Factory stops: a quantized base takes one adapter only; merge the others first.",
    ),
    (
        "quantized-with-fp8",
        "quantization",
        "fp8",
        lambda r: _quantized(r) and bool(r.get("fp8")),
        "LLaMA-Factory stops: fp8 does not go with quantization_bit.",
    ),
    (
        "quantized-with-device-map",
        "quantization",
        "quantization_device_map",
        lambda r: r.get("quantization_device_map") == "auto" and bool(r.get("do_train")),
        "LLaMA-Factory stops: quantization_device_map: auto is for inference only.",
    ),
    (
        "quantized-to-odd-bits",
        "quantization",
        "quantization_bit",
        _odd_bits,
        "LLaMA-Factory stops: bnb quantizes to 4 or 8 bits, eetq to 8, hqq to 1 to 6 or 8.",
    ),
    (
        "sharded-in-8bit",
        "distribution",
        "quantization_bit",
        lambda r: _bits(r) == 8 and _method(r) == "bnb" and _shards(r),
        "LLaMA-Factory stops: under ZeRO-3 or FSDP bitsandbytes goes with 4 bits only.",
    ),
    (
        "sharded-by-another-method",
        "distribution",
        "quantization_method",
        lambda r: _quantized(r) and _method(r) in ("hqq", "eetq") and _shards(r),
        "LLaMA-Factory stops: hqq and eetq go with neither ZeRO-3 nor FSDP.",
    ),
    (
        "zero3-unfit",
        "distribution",
        "deepspeed",
        lambda r: _zero3(r) and _any("use_unsloth", "pure_bf16", "predict_with_generate", "pissa_init")(r),
        "LLaMA-Factory stops: ZeRO-3 goes with none of use_unsloth, pure_bf16, predict_with_generate and pissa_init.",
    ),
    (
        "adapter-without-lora",
        "trainer",
        "adapter_name_or_path",
        lambda r: _adapters(r) > 0 and not _lora(r),
        "LLaMA-Factory stops: adapter_name_or_path needs finetuning_type: lora.",
    ),
    (
        "finetuning-type-unknown",
        "trainer",
        "finetuning_type",
        lambda r: _kind(r) not in ("lora", "oft", "freeze", "full"),
        "LLaMA-Factory stops: finetuning_type is one of lora, oft, freeze and full; 4 bits are asked for with "
        "quantization_bit: 4.",
    ),
    (
        "lora-with-another-method",
        "trainer",
        "finetuning_type",
        lambda r: _lora(r) and _any("use_galore", "use_apollo", "use_badam")(r),
        "LLaMA-Factory stops: LoRA goes with none of GaLore, APOLLO and BAdam.",
    ),
    (
        "lora-options-without-lora",
        "trainer",
        "finetuning_type",
        _outside_lora,
        "LLaMA-Factory stops: use_rslora, use_dora, pissa_init and loraplus_lr_ratio need finetuning_type: lora.",
    ),
    (
        "pissa-with-reference-model",
        "trainer",
        "pissa_init",
        lambda r: bool(r.get("pissa_init")) and _stage(r) in ("ppo", "kto") and not _quantized(r),
        "LLaMA-Factory stops: pissa_init does not go with this stage.",
    ),
    (
        "neat-packing-outside-sft",
        "trainer",
        "neat_packing",
        lambda r: _any("neat_packing", "mask_history", "train_on_prompt")(r) and _stage(r) != "sft",
        "LLaMA-Factory stops: neat_packing, mask_history and train_on_prompt are for stage: sft only.",
    ),
    (
        "history-masked-and-prompt-trained",
        "trainer",
        "mask_history",
        lambda r: bool(r.get("mask_history") and r.get("train_on_prompt")),
        "LLaMA-Factory stops: mask_history and train_on_prompt exclude each other.",
    ),
    (
        "validation-split-and-set",
        "trainer",
        "val_size",
        lambda r: _size(r) > 1e-6 and bool(r.get("eval_dataset")),
        "LLaMA-Factory stops: val_size and eval_dataset exclude each other.",
    ),
    (
        "streaming-without-steps",
        "trainer",
        "max_steps",
        lambda r: bool(r.get("streaming")) and r.get("max_steps", -1) == -1,
        "LLaMA-Factory stops: streaming needs max_steps.",
    ),
)


def check(reading: Reading) -> None:
    """Remark on every combination that LLaMA-Factory refuses or warns of."""
    for kind, about, key, is_so, note in ROWS:
        if is_so(reading):
            shown = (
                key
                if reading.written(key)
                else next((k for k in ("quantization_bit", "deepspeed") if reading.written(k)), None)
            )
            reading.refused(kind, shown, note, about)
    _remarks(reading)


def _remarks(reading: Reading) -> None:
    """What it goes on with, and warns of or should."""
    trains = reading.get("do_train", True) is True
    if trains and not any(reading.get(key) for key in ("bf16", "fp16", "pure_bf16")):
        note = "LLaMA-Factory recommends bf16: true (or fp16: true); with neither all but the 4-bit layers is float32."
        reading.remark("no-mixed-precision", None, note)
    if trains and _quantized(reading) and not reading.get("upcast_layernorm"):
        note = "LLaMA-Factory recommends upcast_layernorm: true with a quantized base."
        reading.remark("norms-not-upcast", "quantization_bit", note)
    if reading.get("packing") and not reading.get("neat_packing") and _stage(reading) == "sft":
        note = "LLaMA-Factory keeps packed samples apart with neat_packing: true only."
        reading.remark("packing-joins-samples", "packing", note)
    if reading.get("use_unsloth") and reading.get("lora_dropout"):
        note = f"Unsloth's fast kernels need lora_dropout: 0, found {reading.get('lora_dropout')}."
        reading.remark("kernels-passed-by", "lora_dropout", note)

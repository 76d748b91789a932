"""LLaMA-Factory 0.9.5: what the rows of its refusals ask for that takes code, and what it warns of.

The rows themselves are in tables/refusals/llamafactory.yaml.
"""

from __future__ import annotations

from ....tables.conditions import Condition
from ..fields import Reading
from . import Computed


def _bits(reading: Reading) -> int | None:
    written = reading.get("quantization_bit")
    if isinstance(written, str) and written.isdecimal() and len(written) < 4:
        return int(written)
    return written if isinstance(written, int) and not isinstance(written, bool) else None


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


def _size(reading: Reading) -> float:
    written = reading.get("val_size", 0)
    return float(written) if isinstance(written, int | float) else 0.0


COMPUTED: Computed = {"bits": _bits, "adapters": _adapters, "zero3": _zero3}


def remark(reading: Reading, *, trains_anyway: bool) -> None:
    """Remark on what it goes on with, and warns of or should.

    Args:
        trains_anyway: the file is of the board, which sets do_train itself; elsewhere it is off unless it is written.
    """
    trains = bool(reading.get("do_train", trains_anyway))
    if trains and not any(reading.get(key) for key in ("bf16", "fp16", "pure_bf16")):
        note = "LLaMA-Factory recommends bf16: true (or fp16: true); with neither all but the 4-bit layers is float32."
        reading.remark("no-mixed-precision", None, note)
    if trains and _bits(reading) is not None and not reading.get("upcast_layernorm"):
        note = "LLaMA-Factory recommends upcast_layernorm: true with a quantized base."
        reading.remark("norms-not-upcast", "quantization_bit", note)
    if (
        not trains
        and _bits(reading) is not None
        and (reading.has("do_train") or any(map(reading.get, ("do_eval", "do_predict"))))
    ):
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
        reading.remark("launched-without-torchrun", "deepspeed", note, Condition("gpus < 2"))
    if reading.get("packing") and not reading.get("neat_packing") and reading.get("stage", "sft") == "sft":
        note = "LLaMA-Factory keeps packed samples apart with neat_packing: true only."
        reading.remark("packing-joins-samples", "packing", note)
    if reading.get("use_unsloth") and reading.get("lora_dropout"):
        note = f"Unsloth's fast kernels need lora_dropout: 0, found {reading.get('lora_dropout')}."
        reading.remark("kernels-passed-by", "lora_dropout", note)

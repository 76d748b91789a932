"""What a run does against what a config says: setting by setting, of those that the config really sets. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..facts import ConfigFacts, Facts
from ..facts.run import Difference

if TYPE_CHECKING:
    from ..setup.setup import Setup

_COMPARED = {
    "four_bit": "quantization/load_in_4bit",
    "eight_bit": "quantization/load_in_8bit",
    "quant_type": "quantization/bnb_4bit_quant_type",
    "double_quant": "quantization/bnb_4bit_use_double_quant",
    "compute_dtype": "quantization/bnb_4bit_compute_dtype",
    "storage_dtype": "quantization/bnb_4bit_quant_storage",
    "lora_r": "lora/r",
    "lora_alpha": "lora/lora_alpha",
    "lora_dropout": "lora/lora_dropout",
    "use_dora": "lora/use_dora",
    "use_rslora": "lora/use_rslora",
    "bias": "lora/bias",
    "modules_to_save": "lora/modules_to_save",
    "learning_rate": "training/learning_rate",
    "optimizer": "training/optim",
    "batch": "training/per_device_train_batch_size",
    "gradient_accumulation": "training/gradient_accumulation_steps",
    "bf16": "training/bf16",
    "fp16": "training/fp16",
    "gradient_checkpointing": "training/gradient_checkpointing",
    "max_grad_norm": "training/max_grad_norm",
    "packing": "training/packing",
}
"""Field of ``ConfigFacts`` → where it stands in the native config."""


def differences(setup: Setup, run: Facts) -> list[Difference]:
    """Settings that the config sets and of which the run does something else, in the order of the table.

    What the config leaves to a default, and what the run does not show, is not compared.
    """
    from ..probes.config.conclude import conclude

    asked, real = conclude(setup, run.environment), run.config
    if real is None:
        return []
    seen = run.run  # a loop of one's own has no arguments: what its optimizer and its steps showed
    if seen is not None:
        shown = {"learning_rate": seen.learning_rate_real, "gradient_accumulation": _same_in_all(seen.micro_batches)}
        real = real.model_copy(update={name: value for name, value in shown.items() if getattr(real, name) is None})
    found = []
    for name, pointer in _COMPARED.items():
        wanted, done = getattr(asked, name), getattr(real, name)
        if wanted is None or done is None or not _is_set(setup, pointer) or _same(wanted, done):
            continue
        found.append(Difference(name=name, pointer=pointer, file=_text(wanted), run=_text(done)))
    return found + _length(setup, asked, run) + _targets(setup, run) + _model(setup, asked, real)


def _same_in_all(micro_batches: list[int] | None) -> int | None:
    """Micro-batches of each watched step, where all have as many."""
    counts = set(micro_batches or ())
    return counts.pop() if len(counts) == 1 else None


def _is_set(setup: Setup, pointer: str) -> bool:
    origin = setup.origins.get(pointer.replace("/", "."))
    return origin is not None and origin.source not in ("unknown", "default", "absent")


def _same(wanted: Any, done: Any) -> bool:
    if isinstance(wanted, bool) or isinstance(done, bool):
        return bool(wanted) == bool(done)
    if isinstance(wanted, int | float) and isinstance(done, int | float):
        return abs(wanted - done) <= 1e-9 * max(abs(wanted), abs(done))
    if isinstance(wanted, list) and isinstance(done, list):
        return sorted(map(str, wanted)) == sorted(map(str, done))
    return str(wanted).lower() == str(done).lower()


def _length(setup: Setup, asked: ConfigFacts, run: Facts) -> list[Difference]:
    """Rows longer than the config allows: shorter ones are what it allows."""
    longest = run.batch.length_max if run.batch is not None else None
    pointer = "training/max_length"
    if asked.sequence is None or longest is None or not _is_set(setup, pointer) or longest <= asked.sequence:
        return []
    return [Difference(name="sequence", pointer=pointer, file=str(asked.sequence), run=f"{longest} and more")]


def _targets(setup: Setup, run: Facts) -> list[Difference]:
    """Kinds of modules that the config names and that have no adapter, or the other way round."""
    pointer = "lora/target_modules"
    wanted, matched = setup.lora.target_modules, run.adapter.matched_modules if run.adapter is not None else None
    if not isinstance(wanted, list) or matched is None or not _is_set(setup, pointer):
        return []
    kinds = {name.rpartition(".")[2] for name in matched}
    missing = [name for name in wanted if not any(m == name or m.endswith(f".{name}") for m in matched)]
    more = sorted(kind for kind in kinds if not any(kind == name.rpartition(".")[2] for name in wanted))
    if not missing and not more:
        return []
    return [Difference(name="target_modules", pointer=pointer, file=_text(wanted), run=_text(sorted(kinds)))]


def _model(setup: Setup, asked: ConfigFacts, real: ConfigFacts) -> list[Difference]:
    """Another model, by the last part of its name: a hub id and the folder it was downloaded to are the same."""
    if not asked.model or not real.model or not _is_set(setup, "model/name_or_path"):
        return []
    last = [name.rstrip("/").rpartition("/")[2].lower() for name in (asked.model, real.model)]
    cached = f"models--{asked.model.replace('/', '--')}".lower() in real.model.lower()
    if last[0] == last[1] or cached:
        return []
    return [Difference(name="model", pointer="model/name_or_path", file=asked.model, run=real.model)]


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value).lower() if isinstance(value, bool) else str(value)

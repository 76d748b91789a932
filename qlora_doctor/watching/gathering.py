"""The facts of a training that is watched, as far as they are known by now."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from ..facts import Facts, MemoryFacts, RunFacts
from ..facts.batch import BatchFacts
from ..facts.memory import MemoryPicture
from ..facts.run import RankFacts
from ..probes.observing.timeline import StepPeak
from ..probes.step.picture import breakdown
from ..probes.tensors import every_module, layer_names, quant_state_of
from .arguments import precision_facts
from .onlooker import Onlooker
from .rows import Rows
from .scaler import Scaler
from .schedules import know_low_rates
from .training import Training, device_of, finite
from .warned import telling

_OUT_OF_REACH = (
    "parameters_out_of_reach", "parameters_below_precision", "parameters_too_coarse", "precision_too_coarse",
    "too_coarse_share",
)  # fmt: skip
"""Facts of a step that a gradient which never reaches the optimizer says nothing of."""
_OF_TENSORS = (
    "changed_base_tensors", "cast_base_tensors", "recomputed_buffers", "parameters_without_gradient",
    "parameters_zero_gradient", "parameters_cut_off", "branches_without_gradient", "gradients_sound",
    "parameters_not_updated", *_OUT_OF_REACH,
)  # fmt: skip
"""Facts of a step that tell tensors apart."""
_OF_UPDATES = (*_OUT_OF_REACH, "parameters_not_updated", "lost_update_ratio", "update_share", "steps_to_update")
"""Facts of a step that a low rate says little of."""


def known_facts(training: Training, rows: Rows, scaler: Scaler) -> dict[str, Any]:
    """Fields of ``Facts``: what the steps so far have shown."""
    known: dict[str, Any] = {}
    onlooker, run = training.onlooker, training.run
    step = None
    if onlooker is not None:
        step = known["step"] = _step_facts(training, onlooker)
        known["batch"] = _batch_facts(onlooker, rows)
        known["config"] = _config_facts(training.facts.config, step)
        _forward_facts(training, onlooker, scaler)
    measured = _measured(training.facts, step or training.facts.step, training.breakdown)
    if measured is not None:
        known["memory"] = MemoryFacts(measured=measured)
    rank = RankFacts(
        rank=training.rank,
        device=training.facts.load.device if training.facts.load else None,
        steps=training.counted,
        batches=list(onlooker.batches.digests) if onlooker is not None else training.digests,
        trainable=training.trainable_digest,
        peak_allocated_bytes=measured.peak_allocated_bytes if measured else None,
        peak_reserved_bytes=measured.peak_reserved_bytes if measured else None,
        loss=finite(training.losses[-1]) if training.losses else None,
        ended=training.ended,
        **training.rank_loss,
    )
    training.digests = rank.batches
    known["run"] = RunFacts(
        **{
            **run,
            "ranks": [rank],
            "steps": training.counted,
            "ended": training.ended,
            "watching_seconds": round(training.work.seconds, 4),
            "watching_parts": {name: round(seconds, 4) for name, seconds in training.work.parts.items()},
            "troubles": list(training.guard.troubles),
        }
    )
    return known


def _step_facts(training: Training, onlooker: Onlooker) -> Any:
    seen, run = onlooker.facts(), training.run
    # Labels as the trainer has them: its compute_loss may take them out before the model is called.
    batch = onlooker.batches.facts()
    changes: dict[str, Any] = {
        "trainer": run.get("trainer") or run.get("kind"),
        "device": str(onlooker.timeline.device),
        "data": "given",
        "failure": training.failure,
        "warnings": list(training.heard.heard),
        "trained_tokens": batch.trained_tokens if batch is not None else None,
    }
    run["telling_warnings"] = telling(training.heard.heard)
    losses = [finite(value) for value in training.losses]
    if seen.losses is None and any(value is not None for value in losses):
        changes["losses"] = losses
        changes["loss_finite"] = all(value is not None for value in losses)
    first = seen.losses or changes.get("losses")
    if first and seen.loss_before is None:
        changes["loss_before"] = first[0]
    know_low_rates(training)
    unknown: list[str] = []
    if onlooker.sharded:  # norms of this rank's part alone
        unknown += ("gradient_norm", "gradients")
    if training.hidden:
        unknown += _OF_TENSORS
    if training.parallel == "deepspeed" and not any(step.norms for step in onlooker.gradients.steps):
        unknown += ("parameters_without_gradient", "parameters_zero_gradient", "gradients_sound")
    if run.get("gradients_gone"):
        unknown += _OUT_OF_REACH
    if run.get("rates_during_warmup") and seen.trainable_dtypes != ["float32"]:
        unknown += _OF_UPDATES
    return seen.model_copy(update=changes | dict.fromkeys(unknown))


def _config_facts(config: Any, step: Any) -> Any:
    """The config with the shape of the first batch, where the arguments do not say it."""
    if config is None or step.batch is None:
        return config
    return config.model_copy(update={"batch": config.batch or step.batch, "sequence": step.sequence})


def _batch_facts(onlooker: Onlooker, rows: Rows) -> Any:
    found = onlooker.batches.facts()
    by_hand = rows.masked_by_hand
    discarded = None
    if by_hand is not None and found is not None and found.trained_ratio is not None:
        discarded = by_hand > 0 and found.trained_ratio >= 0.999
    elif by_hand and rows.rewrites_labels:  # no batch came: it may fail for that very reason
        discarded = True
    if found is None:
        return BatchFacts(mask_by_hand_ratio=by_hand, mask_discarded=True) if discarded else None
    return found.model_copy(update={"mask_by_hand_ratio": by_hand, "mask_discarded": discarded})


def _forward_facts(training: Training, onlooker: Onlooker, scaler: Scaler) -> None:
    seen, run = onlooker.forwards.seen, training.run
    if not seen.micro_batches:
        return
    known = onlooker.known
    dropouts = [m for m in every_module(onlooker.model) if isinstance(m, nn.Dropout) and m.p > 0]
    active = None
    if known.get("gradient_checkpointing") is not None and seen.layer_forwards and onlooker.gradients.steps:
        active = seen.layer_recomputations > 0
    asked_for = known.get("gradient_checkpointing")
    # transformers leaves the function where it was when checkpointing is switched off again.
    left = any("_gradient_checkpointing_func" in vars(module) for module in every_module(onlooker.model))
    if getattr(training.arguments, "gradient_checkpointing", False) or left:
        asked_for = True
        active = seen.layer_recomputations > 0 if seen.layer_forwards and onlooker.gradients.steps else None
    run.update(
        training_mode=seen.training_mode,
        evaluation_mode_since=onlooker.step_of_evaluation,
        dropout_idle=bool(dropouts) and not any(m.training for m in dropouts),
        checkpointing_asked=asked_for,
        checkpointing_active=active,
        float16_without_scaler=training.is_loop and scaler.there() is None and seen.autocast_dtype == "float16",
        packed_layers=sum(map(_is_packed_for_cpu, every_module(onlooker.model))),
        scaler_without_float16=scaler.there() is not None and seen.autocast_dtype == "bfloat16",
    )
    run |= precision_facts(training.arguments, seen.autocast_dtype, seen.dtypes)
    if run.get("nonfinite_layer") is None and any(
        loss is not None and not math.isfinite(loss) for loss in training.losses
    ):
        place = onlooker.forwards.first_nonfinite_layer()
        names = layer_names(onlooker.model, onlooker.forwards.layers)
        run["nonfinite_layer"] = names[place] if place is not None and place < len(names) else ""
    if seen.batch is not None and onlooker.micro_batches:
        run["rows_per_update"] = seen.batch * max(onlooker.micro_batches[-1], 1) * training.world


def _is_packed_for_cpu(module: nn.Module) -> bool:
    """Whether an evaluation on a CPU has packed a 4-bit layer, whose product has no backward then.

    Source: bitsandbytes 0.50, autograd/_functions.py, matmul_4bit; only on a CPU with AVX512-BF16.
    """
    state = quant_state_of(getattr(module, "weight", None), module)
    return bool(getattr(state, "packing_format_for_cpu", False))


def bytes_by_part(onlooker: Onlooker, model: nn.Module) -> dict[str, int] | None:
    """Bytes by part at the highest allocation so far; None without CUDA."""
    if device_of(model).type != "cuda":
        return None
    peak = StepPeak(allocated=torch.cuda.max_memory_allocated(device_of(model)), phase="backward")
    state = onlooker.optimizer_cuda_bytes
    return breakdown(model, peak, state[-1] if state else 0)


def memory_now(facts: Facts) -> dict[str, float]:
    """What a record of the series says of the card; nothing without CUDA."""
    device = _cuda_device(facts)
    if device is None:
        return {}
    return {
        "memory_gib": torch.cuda.memory_allocated(device) / 2**30,
        "allocated_bytes": torch.cuda.memory_allocated(device),
        "reserved_bytes": torch.cuda.memory_reserved(device),
        "peak_allocated_bytes": torch.cuda.max_memory_allocated(device),
    }


def digest(prints: Mapping[str, Any] | None) -> str | None:
    """One digest of the fingerprints of many tensors; None without any."""
    if not prints:
        return None
    every = hashlib.blake2b(digest_size=8)
    for name in sorted(prints):
        every.update(name.encode())
        every.update(prints[name].digest)
    return every.hexdigest()


def _measured(facts: Facts, step: Any, parts: dict[str, int] | None) -> MemoryPicture | None:
    """CUDA's own counters since the process began; nothing is reset."""
    device = _cuda_device(facts)
    if device is None:
        return None
    return MemoryPicture(
        peak_allocated_bytes=torch.cuda.max_memory_allocated(device),
        peak_reserved_bytes=torch.cuda.max_memory_reserved(device),
        breakdown=parts,
        device=torch.cuda.get_device_name(device),
        batch=step.batch if step is not None else None,
        sequence=step.sequence if step is not None else None,
    )


def _cuda_device(facts: Facts) -> str | None:
    device = facts.load.device if facts.load else None
    return device if device is not None and device.startswith("cuda") else None

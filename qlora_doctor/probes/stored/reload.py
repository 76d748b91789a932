"""A reloaded adapter against what the trained model said when it was saved, or when its training ended."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...core.errors import StageError
from ...facts.run import KeptOutputs
from ..config.stored_adapter import WEIGHTS
from ..load.checkpoint import read_header
from ..log.files import CHECKPOINT
from .arrays import Passing
from .names import parse

_NOISE = 0.01
"""Nats per token that another kernel, or 16-bit arithmetic in another order, may make."""
_SHARE = 0.1
"""Of what the adapter does: no more of it may be lost."""
_SAME_NORM = 2e-3
"""Relative: rounding to 16-bit changes the norm of millions of numbers by less."""
BASES = {"adapter-on-4bit": "base", "adapter-on-16bit": "base-16bit"}
"""The ways under which a reload is looked at, and the base of each."""


def kept_of(folder: Path, kept: Sequence[KeptOutputs]) -> KeptOutputs | None:
    """What was kept of the adapter in a folder: at its save, else at the end of the training.

    A checkpoint of another step than any that was kept has none.
    """
    step = CHECKPOINT.search(folder.name) or CHECKPOINT.search(folder.parent.name)
    if step is not None:
        return next((each for each in reversed(kept) if each.step == int(step[1])), None)
    tail = folder.resolve().parts[-2:]
    own = [each for each in kept if each.folder is not None and Path(each.folder).parts[-2:] == tail]
    last = [each for each in kept if each.folder is None]
    return own[-1] if own else last[-1] if last else None


def has_other_weights(folder: Path, kept: KeptOutputs) -> bool | None:
    """Whether the file holds other matrices than the adapter had; None where that cannot be known."""
    if kept.adapter_norm is None or not (folder / WEIGHTS).is_file():
        return None
    try:
        tensors = read_header(folder / WEIGHTS)
    except StageError:
        return None
    square = 0.0
    with Passing(folder / WEIGHTS) as passing:
        for name, tensor in tensors.items():
            parts = parse(name)
            if parts is not None and parts.part in ("lora_A", "lora_B") and tensor.elements:
                values = passing.values(tensor)
                square += float((values.astype("f8") ** 2).sum()) if values is not None else 0.0
    return abs(math.sqrt(square) - kept.adapter_norm) > _SAME_NORM * max(kept.adapter_norm, 1e-12)


def answered(model: Any, kept: KeptOutputs, device: Any) -> tuple[float, float]:
    """(divergence from what was kept, share of the tokens with the same likeliest next one) of a loaded model."""
    import torch

    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([kept.ids], device=device), use_cache=False).logits
    logs = torch.log_softmax(logits[0, -len(kept.ids) :].double().cpu(), -1)[:-1]
    then = torch.tensor(kept.log_probabilities, dtype=torch.float64)
    tokens = torch.tensor(kept.likeliest)
    if int(tokens.max()) >= logs.shape[-1]:
        return math.inf, 0.0
    now = logs.gather(-1, tokens)
    divergence = (then.exp() * (then - now)).sum(-1) + _of_rest(then.exp().sum(-1), now.exp().sum(-1))
    agrees = (logs.argmax(-1) == tokens[:, 0]).double().mean()
    return float(divergence.mean()), float(agrees)


def _of_rest(then: Any, now: Any) -> Any:
    """The part of all other tokens, taken as one."""
    p, q = (1 - then).clamp_min(0), (1 - now).clamp_min(1e-12)
    return p * (p.clamp_min(1e-12) / q).log()


def concluded(kept: KeptOutputs, answers: Mapping[str, tuple[float, float]]) -> dict[str, Any]:
    """Facts of the reload, by the base under which it comes nearest: a run may have trained on either.

    Args:
        answers: of ``answered``, by the names of ``BASES`` and of their bases.
    """
    pairs = [(answers[way], answers[base], way) for way, base in BASES.items() if way in answers and base in answers]
    if not pairs:
        return {}
    (far, agrees), (base, _), way = min(pairs, key=lambda pair: pair[0][0])
    verdict = "differs"
    if far <= max(_NOISE, _SHARE * base):
        verdict = "same"
    elif abs(far - base) <= _SHARE * base:
        verdict = "as-base"
    return {
        "reload": verdict, "reload_way": way, "reload_step": kept.step, "reload_divergence": far,
        "base_divergence": base, "reload_agreement_ratio": agrees,
    }  # fmt: skip

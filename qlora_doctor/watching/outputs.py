"""What the model says to a few fixed tokens when it is saved and when it is trained: a reload is held against it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from ..core.text import template_digest
from ..facts.run import KeptOutputs, TrainingTokenizer
from ..probes.tensors import local_part

_TEXT = (
    "The adapter was trained on a base whose weights are stored in four bits. What does the model answer when it is "
    "loaded again? 1. It says the same. 2. It says something else, for a part of it was left behind."
)
_TOKENS, _LIKELIEST = 48, 8
_HALVES = (".lora_A.", ".lora_B.", ".lora_embedding_A.", ".lora_embedding_B.")


_SPECIAL = ("bos_token", "eos_token", "pad_token", "unk_token")


def training_tokenizer(model: nn.Module, tokenizer: Any) -> TrainingTokenizer | None:
    """What serving must have as the training has it; None where neither tokenizer nor generation config is there."""
    inner = getattr(tokenizer, "tokenizer", tokenizer)  # of a processor
    template = getattr(tokenizer, "chat_template", None) or getattr(inner, "chat_template", None)
    if isinstance(template, dict):
        template = template.get("default")
    stops = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    ids = [each for each in (stops if isinstance(stops, list | tuple) else [stops]) if isinstance(each, int)]
    config = getattr(model, "config", None)
    commit = getattr(config, "_commit_hash", None)
    if inner is None and not ids and commit is None:
        return None
    tokens = {name: getattr(inner, name, None) for name in _SPECIAL} if inner is not None else {}
    return TrainingTokenizer(
        template_digest=template_digest(template if isinstance(template, str) else None) if inner is not None else None,
        special_tokens={name: str(token) if token is not None else None for name, token in tokens.items()},
        stop_ids=ids or None,
        base_commit=commit if isinstance(commit, str) else None,
    )


def kept_outputs(model: nn.Module, tokenizer: Any, *, step: int, folder: str | None) -> KeptOutputs | None:
    """One forward without gradients; random state, training mode and weights are as before.

    Args:
        folder: where the model was saved just now; None at the end of the training.

    None for what is no language model that writes one token after another.
    """
    config = getattr(model, "config", None)
    if config is None or getattr(config, "is_encoder_decoder", False) or not hasattr(model, "get_input_embeddings"):
        return None
    table = model.get_input_embeddings()
    if table is None or not hasattr(table, "weight"):
        return None
    ids = _ids(tokenizer, len(table.weight))
    device = table.weight.device
    with _quietly(model, device), torch.no_grad():
        answer = model(input_ids=torch.tensor([ids], device=device), use_cache=False)
    logits = getattr(answer, "logits", None)
    if logits is None or logits.dim() != 3 or logits.shape[1] < len(ids):
        return None
    logs = torch.log_softmax(logits[0, -len(ids) :].float(), -1)[:-1]  # a prompt that was trained stands before
    loss = -logs.gather(-1, torch.tensor(ids[1:], device=logs.device)[:, None]).mean().item()
    if not math.isfinite(loss):
        return None
    values, tokens = logs.topk(min(_LIKELIEST, logs.shape[-1]), dim=-1)
    return KeptOutputs(
        step=step,
        folder=folder,
        ids=ids,
        likeliest=tokens.tolist(),
        log_probabilities=[[round(value, 4) for value in row] for row in values.tolist()],
        loss=loss,
        adapter_norm=_norm(model),
    )


def _ids(tokenizer: Any, rows: int) -> list[int]:
    """The built-in text's tokens, or numbers spread over the vocabulary where there is no tokenizer for text."""
    try:
        found = [each for each in tokenizer(_TEXT)["input_ids"][:_TOKENS] if 0 <= each < rows]
    except Exception:  # none at all, or one that wants pictures beside the text
        found = []
    return [int(each) for each in found] if len(found) > 8 else [(7919 * i + 11) % rows for i in range(_TOKENS)]


@contextmanager
def _quietly(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Evaluation mode while it lasts, with the random state kept.

    bitsandbytes' layers stay in their mode: they hold no dropout, and on a CPU a forward in evaluation mode packs their
    weights anew for good (bitsandbytes 0.50, nn/modules.py: Linear4bit.forward).
    """
    changed = [
        module
        for module in model.modules()
        if module.training and not type(module).__module__.startswith("bitsandbytes.")
    ]
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        try:
            for module in changed:
                module.training = False
            yield
        finally:
            for module in changed:
                module.training = True


def _norm(model: Any) -> float | None:
    """Of all matrices of the adapter in use together; None without one adapter in use."""
    adapter = getattr(model, "active_adapter", None)
    if not isinstance(adapter, str):
        return None
    halves = [
        local_part(parameter.detach())
        for name, parameter in model.named_parameters()
        if any(half in name for half in _HALVES) and (f".{adapter}." in name or name.endswith(f".{adapter}"))
    ]
    return math.sqrt(sum(half.double().square().sum().item() for half in halves)) if halves else None

"""What stage data gives, and what is said of every way by which it came to its rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...core.errors import StageError
from ...facts import BatchFacts, DataFacts
from ...pipeline import Architecture, load_config, load_tokenizer
from ...pipeline.batches import TOKENS_BEFORE
from ...setup.setup import Setup
from .rows import masked_by_hand

NO_TOKENIZER = "The tokenizer of the model is not on this machine."
ROWS = 256
"""Rows that are looked at."""
_TRAINS_EMBEDDINGS = ("lora.modules_to_save", "lora.target_modules", "lora.trainable_token_indices")
_EMBEDDINGS = ("embed", "wte", "wrd")
ALL_TRAINED = 0.999
"""Share of trained tokens at which nothing but padding is masked."""


@dataclass(frozen=True)
class DataSeen:
    """What the stage gives: facts of the data, and of the batches that the model would be given (None without them)."""

    data: DataFacts
    batch: BatchFacts | None = None


def vocabulary_of(architecture: Architecture) -> int | None:
    """Rows of the embedding, as the architecture's config says."""
    config = architecture.config
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    rows = getattr(text, "vocab_size", None)
    return int(rows) if rows else None


def load_if_here(
    setup: Setup, progress: Callable[..., None], offline: bool
) -> tuple[Architecture | None, Any, dict[str, Any]]:
    """The architecture and the tokenizer, each None where it is not on this machine, and what they say of the data."""
    known: dict[str, Any] = {}
    architecture = tokenizer = None
    try:
        architecture = load_config(setup, offline=offline, with_files=True)
        known["vocab_rows"] = vocabulary_of(architecture)
        progress("Loading the tokenizer")
        tokenizer = load_tokenizer(setup, architecture, offline=offline)
    except StageError:
        pass  # the model is not here; its name and its rows are
    known["tokens_unseen"] = NO_TOKENIZER if tokenizer is None else None
    if tokenizer is not None:
        known["chat_template"] = getattr(tokenizer, "chat_template", None) is not None
    return architecture, tokenizer, known


def new_tokens(setup: Setup, rows: Iterable[Sequence[int] | np.ndarray], tokenizer: Any) -> dict[str, Any]:
    """Tokens of the rows that a script or a trainer added to the tokenizer, and whether their embeddings are trained.

    Whether they got rows of their own by resizing or took some that the embedding has to spare: no one trained those.
    """
    before = getattr(tokenizer, TOKENS_BEFORE, None)
    if before is None or len(tokenizer) <= before or any(map(setup.is_unknown, _TRAINS_EMBEDDINGS)):
        return {}
    if any(setup.says(kind) for kind in ("no-lora", "lora-switched-off", "lora-not-switched-on")):
        return {}  # all weights train
    lora = setup.lora
    said = [lora.modules_to_save, lora.target_modules]
    names = [name for each in said for name in ([each] if isinstance(each, str) else each or ())]
    new = sum(int((np.asarray(row) >= before).sum()) for row in rows)
    trained = bool(lora.trainable_token_indices) or any(word in name for name in names for word in _EMBEDDINGS)
    return {"new_tokens": new, "new_tokens_trained": trained}


def masked_before(dataset: Any) -> float | None:
    """Share of labels that are -100 in the rows before the collator; None where they hold none beside their ids."""
    if "labels" not in (getattr(dataset, "column_names", None) or dataset[0]):
        return None
    return masked_by_hand(dataset[index] for index in range(min(len(dataset), ROWS)))

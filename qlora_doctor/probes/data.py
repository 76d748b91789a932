"""Stage ``data``: the samples after the trainer's own preparation and collator."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from ..core.errors import StageError
from ..facts import DataFacts
from ..pipeline import Architecture, Batches, load_config, load_tokenizer, make_batches, make_trainer, sequence_length
from ..pipeline.batches import context_length, render
from ..pipeline.samples import COMPARED, read_samples
from ..setup.resolved import Taken
from ..setup.setup import Setup
from .failures import explain

ROWS = 256
"""Rows that are looked at."""
_UNCUT = 10_000_000
_IGNORED = -100
_CLASSIFIES = "sequence-classification"


@dataclass(frozen=True)
class _Row:
    """A sample as the model gets it, padding taken off."""

    ids: list[int]
    labels: list[int]


def look_at_data(setup: Setup, progress: Callable[..., None], *, offline: bool = True) -> DataFacts:
    """Read, render and tokenise the first rows of ``data.train`` as the setup's trainer does, and look at the result.

    Once as the setup cuts and packs them, and once in full, which shows what is cut. Never raises for what is wrong
    with the data: that is a fact.
    """
    known: dict[str, Any] = {"source": setup.data.train}
    try:
        architecture = load_config(setup, offline=offline, with_files=True)
        known["vocab_rows"] = _vocabulary(architecture)
        progress("Loading the tokenizer")
        tokenizer = load_tokenizer(setup, architecture, offline=offline)
        if tokenizer is not None:
            known["chat_template"] = getattr(tokenizer, "chat_template", None) is not None
        progress("Reading and tokenising the data")
        compared = _compared(setup, architecture, tokenizer) if setup.model.task != _CLASSIFIES else None
        if compared is not None:
            return DataFacts(**known, **compared)
        rows, batches = _rows(setup, architecture, tokenizer)
        known.update(_of_samples(batches))
        if setup.model.task == _CLASSIFIES:
            known.update(_of_classes(rows, known["vocab_rows"]))
        else:
            known.update(_of_labels(rows, known["vocab_rows"], _dropped(setup, batches, rows)))
        whole = _uncut(setup)
        if whole is not setup:
            progress("Tokenising the data in full")
        in_full = _rows(whole, architecture, tokenizer)[0] if whole is not setup else rows
        known.update(_of_texts(in_full, _limit(setup, architecture), tokenizer))
        if setup.model.task == _CLASSIFIES:
            known.pop("eos_supervised_ratio", None)  # its labels are classes, no tokens
    except StageError as error:
        known["failure"] = error.message
    except Exception as raised:
        known["failure"] = explain(raised, "preparing the data").message
    return DataFacts(**known)


def _compared(setup: Setup, architecture: Architecture, tokenizer: Any) -> dict[str, Any] | None:
    """Data of a method that compares answers: lengths and what can be said of pairs; None of any other method.

    Its trainers have no labels of tokens, and add the end token by themselves.
    """
    samples = read_samples(setup, ROWS)
    if samples.format not in COMPARED:
        return None
    facts: dict[str, Any] = {
        "format": samples.format,
        "columns": samples.columns,
        "rows": len(samples.rows) if len(samples.rows) < ROWS else None,
        "rows_seen": len(samples.rows),
    }
    if samples.format == "preference":
        facts["identical_pairs"] = sum(row["chosen"] == row["rejected"] for row in samples.rows)
    if samples.format == "unpaired-preference":
        facts["desirable_ratio"] = statistics.fmean(bool(row["label"]) for row in samples.rows)
    if tokenizer is None:
        return facts
    whole = samples.format != "prompt-only"
    lengths = [max(_lengths(tokenizer, row if whole else {"prompt": row["prompt"]})) for row in samples.rows]
    limit = _limit(setup, architecture) if whole else None
    facts |= {
        "tokens_mean": statistics.fmean(lengths),
        "tokens_median": int(statistics.median(lengths)),
        "tokens_max": max(lengths),
        "truncated_ratio": sum(limit is not None and n > limit for n in lengths) / len(lengths),
    }
    return facts


def _lengths(tokenizer: Any, row: dict[str, Any]) -> list[int]:
    """Tokens of each answer of a row with its prompt, or of the prompt alone."""
    prompt = row.get("prompt")
    answers = [row[name] for name in ("chosen", "rejected", "completion") if row.get(name) is not None]
    return [_length(tokenizer, prompt, answer) for answer in answers or [None]]


def _length(tokenizer: Any, prompt: Any, answer: Any) -> int:
    parts = [part for part in (prompt, answer) if part is not None]
    if any(isinstance(part, list) for part in parts):
        messages = [message for part in parts for message in (part if isinstance(part, list) else [part])]
        return len(render(tokenizer, messages))
    return len(tokenizer("".join(map(str, parts)))["input_ids"])


def _of_classes(rows: Sequence[_Row], vocabulary: int | None) -> dict[str, Any]:
    """A classifier's rows: what it reads are tokens, what it learns is a class."""
    ids = [i for row in rows for i in row.ids]
    facts: dict[str, Any] = {"max_token_id": max(ids, default=None)}
    if vocabulary is not None:
        facts["tokens_out_of_range"] = sum(not 0 <= i < vocabulary for i in ids)
    return facts


def _uncut(setup: Setup) -> Setup:
    """The same setup without cutting or packing."""
    training = setup.training.model_copy(update={"max_length": _UNCUT, "packing": False, "padding_free": False})
    return setup.model_copy(update={"training": training})


def _rows(setup: Setup, architecture: Architecture, tokenizer: Any) -> tuple[list[_Row], Batches]:
    """Samples as the collator hands them to the model, batch by batch."""
    model = _StandIn(architecture.config)
    batches = make_batches(setup, model, tokenizer, rows=ROWS)
    if Taken(setup).trainer == "trl":
        dataset, collator = _prepared_by_trl(setup, batches, architecture)
    else:
        dataset, collator = batches.dataset, batches.collator
    size = Taken(setup)["training.per_device_train_batch_size"]
    samples = [dataset[index] for index in range(min(len(dataset), ROWS))]
    rows: list[_Row] = []
    for start in range(0, len(samples), size):
        rows.extend(_split(collator([dict(sample) for sample in samples[start : start + size]])))
    return rows, batches


class _StandIn:
    """What the pipeline wants of a model to prepare data: its config."""

    def __init__(self, config: Any) -> None:
        self.config = config


def _prepared_by_trl(setup: Setup, batches: Batches, architecture: Architecture) -> tuple[Any, Any]:
    """The dataset that SFTTrainer makes of the rows, and its collator.

    SFTTrainer prepares data in its constructor, which wants a model: a Llama of one tiny layer with the real
    vocabulary stands in, for no weight of the model has a part in it.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    context = max(sequence_length(setup, architecture.config), 16)
    config = LlamaConfig(
        vocab_size=max(_vocabulary(architecture) or 0, len(batches.tokenizer)),
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        max_position_embeddings=context,
    )
    training = setup.training.model_copy(update={"bf16": None, "fp16": None, "gradient_checkpointing": None})
    trainer = make_trainer(setup.model_copy(update={"training": training}), LlamaForCausalLM(config), batches, "cpu")
    try:
        return trainer.train_dataset, trainer.data_collator
    finally:
        trainer.temporary_folder.cleanup()


def _split(batch: Any) -> list[_Row]:
    """A collated batch as rows without padding; a padding-free batch is one row for each of its samples."""
    ids, labels = batch["input_ids"].tolist(), batch["labels"].tolist()
    if not labels or not isinstance(labels[0], list):  # classification: one label a row
        labels = [[label] for label in labels]
    if "attention_mask" in batch:
        mask = batch["attention_mask"].tolist()
        return [
            _Row([i for i, kept in zip(row, keep, strict=True) if kept], label)
            for row, keep, label in zip(ids, mask, labels, strict=True)
        ]
    positions = batch["position_ids"].tolist() if "position_ids" in batch else None
    if positions is None:
        return [_Row(row, label) for row, label in zip(ids, labels, strict=True)]
    rows = []
    for row, label, place in zip(ids, labels, positions, strict=True):
        starts = [index for index, position in enumerate(place) if position == 0] + [len(row)]
        rows += [_Row(row[a:b], label[a:b]) for a, b in pairwise(starts) if b > a]
    return rows


def _of_samples(batches: Batches) -> dict[str, Any]:
    samples = batches.samples
    if samples is None:
        return {}
    read = len(samples.rows)
    return {
        "format": samples.format,
        "columns": samples.columns,
        "rows": read if read < ROWS else None,  # as many as were asked for: there may be more
        "rows_seen": min(read, ROWS),
    }


def _dropped(setup: Setup, batches: Batches, rows: Sequence[_Row]) -> int:
    """Rows that SFTTrainer leaves out because cutting them took the last label that counts."""
    if Taken(setup).trainer != "trl" or setup.training.packing or batches.samples is None:
        return 0
    return max(0, min(len(batches.samples.rows), ROWS) - len(rows))


def _of_labels(rows: Sequence[_Row], vocabulary: int | None, dropped: int) -> dict[str, Any]:
    """What is trained on, padding counted as the collator made it; a dropped row is one whose labels are masked."""
    positions = sum(len(row.labels) for row in rows)
    masked = sum(label == _IGNORED for row in rows for label in row.labels)
    ids = [i for row in rows for i in row.ids]
    facts: dict[str, Any] = {
        "labels_masked_ratio": masked / positions if positions else 1.0 if dropped else None,
        "rows_fully_masked": dropped + sum(all(label == _IGNORED for label in row.labels) for row in rows),
        "max_token_id": max(ids, default=None),
    }
    if vocabulary is not None:
        facts["tokens_out_of_range"] = sum(not 0 <= i < vocabulary for i in ids)
    return facts


def _limit(setup: Setup, architecture: Architecture) -> int | None:
    """Tokens at which the setup's trainer cuts a sample; None where it does not."""
    if Taken(setup).trainer == "trl":
        return sequence_length(setup, architecture.config)
    return setup.training.max_length or context_length(architecture.config)


def _of_texts(rows: Sequence[_Row], limit: int | None, tokenizer: Any) -> dict[str, Any]:
    """What the texts are like before they are cut."""
    lengths = [len(row.ids) for row in rows]
    if not lengths:
        return {}
    facts: dict[str, Any] = {
        "tokens_mean": statistics.fmean(lengths),
        "tokens_median": int(statistics.median(lengths)),
        "tokens_max": max(lengths),
        "truncated_ratio": sum(limit is not None and n > limit for n in lengths) / len(lengths),
    }
    eos = getattr(tokenizer, "eos_token_id", None)
    if eos is not None:
        facts["eos_supervised_ratio"] = sum(eos in row.labels for row in rows) / len(rows)
    bos = getattr(tokenizer, "bos_token_id", None)
    if bos is not None and bos != eos:
        facts["double_bos_rows"] = sum(row.ids[:2] == [bos, bos] for row in rows)
    return facts


def _vocabulary(architecture: Architecture) -> int | None:
    """Rows of the embedding, as the architecture's config says."""
    config = architecture.config
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    rows = getattr(text, "vocab_size", None)
    return int(rows) if rows else None

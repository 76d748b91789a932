"""Rows as their trainer prepares and collates them: in full, and cut and packed as the setup says."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ...core.errors import StageError
from ...pipeline import Architecture, Batches, make_trainer, sequence_length
from ...pipeline.architecture import context_length
from ...pipeline.forms import NotFollowedForm
from ...setup.resolved import Taken
from ...setup.setup import NamedData, Origin, Setup
from ..batch import BatchLook
from .rows import Row, split_batch
from .seen import ROWS, vocabulary_of

_UNCUT = 10_000_000


def limit_of(setup: Setup, architecture: Architecture) -> int | None:
    """Tokens at which the setup's trainer cuts a sample; None where it does not."""
    values = Taken(setup)
    if values.trainer == "trl":
        return None if values.cuts_nothing else sequence_length(setup, architecture.config)
    return setup.training.max_length or context_length(architecture.config)


def uncut(setup: Setup) -> Setup:
    """The same setup without cutting or packing; TRL does so at a null that is written down."""
    by_trl = Taken(setup).trainer == "trl"
    most = None if by_trl else _UNCUT
    training = setup.training.model_copy(update={"max_length": most, "packing": False, "padding_free": False})
    origins = {**setup.origins, "training.max_length": Origin(source="explicit")}
    return setup.model_copy(update={"training": training, "origins": origins})


def collated_rows(setup: Setup, dataset: Any, collator: Any, look: BatchLook | None = None) -> list[Row]:
    """Samples as the collator hands them to the model, batch by batch, each of which ``look`` is shown."""
    size = Taken(setup)["training.per_device_train_batch_size"]
    samples = list(itertools.islice(dataset, ROWS))
    rows: list[Row] = []
    for start in range(0, len(samples), size):
        batch = collator([dict(sample) for sample in samples[start : start + size]])
        if look is not None:
            look.look(batch)
        rows.extend(split_batch(batch))
    return rows


def prepared(setup: Setup, batches: Batches, architecture: Architecture, *, streams: bool = False) -> tuple[Any, Any]:
    """The dataset as its trainer prepares it, and the collator.

    Args:
        streams: hand the rows to TRL as a stream, which it prepares by the same functions, without tables in between.
    """
    if Taken(setup).trainer != "trl":
        return batches.dataset, batches.collator
    if not streams or not hasattr(batches.dataset, "to_iterable_dataset"):
        return _prepared_by_trl(setup, batches, architecture)
    stream = replace(batches, dataset=batches.dataset.to_iterable_dataset())
    dataset, collator = _prepared_by_trl(setup, stream, architecture)
    return list(dataset), collator


def refuse_unprepared(setup: Setup, batches: Batches) -> None:
    """``skip_prepare_dataset`` leaves the rows as they are, for a collator of one's own.

    Raises:
        NotFollowedForm: there is such a collator.
        StageError: there is none, and TRL's own finds no tokens.
    """
    asked = setup.training.extra.get("dataset_kwargs")
    skips = isinstance(asked, Mapping) and asked.get("skip_prepare_dataset") is True
    row = batches.dataset[0] if skips and Taken(setup).trainer == "trl" else {"input_ids": []}
    if "input_ids" in row or batches.behind is not None:
        return
    if batches.collator is not None or any(each.kind == "collator" for each in setup.not_followed):
        raise NotFollowedForm("With skip_prepare_dataset the rows go as they are to a collator that is not followed.")
    raise StageError(
        f"skip_prepare_dataset hands the rows to the collator as they are, and they have {', '.join(row)} and no "
        "input_ids: the first batch ends in an error.",
        remedy="Leave skip_prepare_dataset out, tokenize the rows, or give the trainer a collator that does.",
        place=setup.place("training.extra.dataset_kwargs"),
    )


def is_changed(setup: Setup, in_full: Sequence[Row], limit: int | None) -> bool:
    """Whether the setup cuts, packs or joins what was prepared in full, or TRL leaves a row out that trains nothing."""
    training = setup.training
    return bool(training.packing or training.padding_free) or any(
        len(row.ids) > (limit or _UNCUT) or row.positions == row.masked for row in in_full
    )


def cut(
    setup: Setup, batches: Batches, full: tuple[Any, Any], architecture: Architecture, way: NamedData | None
) -> tuple[Any, Any]:
    """What was prepared in full, cut and packed as the setup says: it is tokenized once."""
    dataset, collator = full
    if Taken(setup).trainer == "trl":
        # SFTTrainer tokenizes no rows that have ids, and cuts and packs them all the same (trl, sft_trainer.py).
        tokenized = isinstance(dataset, list) and bool(dataset) and "input_ids" in dataset[0]
        if tokenized:
            from datasets import Dataset

            batches = replace(batches, dataset=Dataset.from_list(dataset))
        return _prepared_by_trl(setup, batches, architecture)
    limit = limit_of(setup, architecture)
    if way is not None or limit is None:
        return dataset, collator
    rows = [{name: part[:limit] if isinstance(part, list) else part for name, part in row.items()} for row in dataset]
    return rows, collator


class StandIn:
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
        vocab_size=max(vocabulary_of(architecture) or 0, len(batches.tokenizer)),
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

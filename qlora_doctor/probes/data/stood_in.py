"""A script's samples where the model's tokenizer is not here: bytes stand in for tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ...core.errors import StageError
from ...core.labels import IGNORED
from ...facts import BatchFacts, DataFacts
from ...pipeline.batches import rows_of_a_batch
from ...pipeline.changes import change_tokenizer
from ...pipeline.forms import NotFollowedForm, read_named
from ...pipeline.forms.script import byte_tokenizer, hands_over_rows, scripted
from ...setup.setup import NamedData, Setup
from ..batch import BatchLook
from .rows import of_tensors
from .seen import ALL_TRAINED, NO_TOKENIZER, ROWS, DataSeen, masked_before


def see_stood_in(setup: Setup, way: NamedData, progress: Callable[..., None]) -> DataSeen:
    """A script's samples without the model's tokenizer: bytes stand in for tokens.

    Which labels are masked, moved or made again does not depend on where tokens end; lengths and shares do, and are
    left out.

    Raises:
        NotFollowedForm: nothing is tokenized before the trainer, so that the mask is the trainer's own.
    """
    progress("Working the script's functions out")
    tokenizer = change_tokenizer(byte_tokenizer(), setup)
    try:
        read = read_named(setup, way, ROWS)
        made = scripted(
            way, [row for _, row in read.rows], tokenizer, newest_trl=hands_over_rows(setup), total=read.total
        )
    except StageError as error:
        return DataSeen(DataFacts(source=way.name, failure=error.message))
    if not made.tokenized or made.collator is None:
        raise NotFollowedForm(NO_TOKENIZER)
    if of_tensors(made.rows[0]):
        return DataSeen(DataFacts(source=way.name), BatchFacts(rows=len(made.rows), dimensions=3))
    look = BatchLook(tokenizer)
    size = rows_of_a_batch(setup)
    for start in range(0, len(made.rows), size):
        look.look(made.collator([dict(row) for row in made.rows[start : start + size]]))
    found, by_hand = look.facts(), masked_before(made.rows)
    data = DataFacts(
        source=way.name,
        columns=read.columns,
        rows=read.total,
        rows_seen=len(read.rows),
        rendered_by="the script's own functions, worked out by qlora-doctor with bytes for tokens",
        tokens_unseen=NO_TOKENIZER,
    )
    if found is None:
        return DataSeen(data)
    discarded = None
    if by_hand is not None and found.trained_ratio is not None:
        discarded = by_hand > 0 and found.trained_ratio >= ALL_TRAINED
    batch = BatchFacts(
        batches=found.batches, rows=found.rows, labels_shifted=found.labels_shifted, mask_discarded=discarded,
        pad_is_eos=found.pad_is_eos, collator_masks_ends=_masks_ends(made.collator, tokenizer),
    )  # fmt: skip
    if found.ends_untrained:
        batch = batch.model_copy(update={"ends_trained": found.ends_trained, "ends_untrained": found.ends_untrained})
    return DataSeen(data, batch)


def _masks_ends(collator: Any, tokenizer: Any) -> bool | None:
    """Whether a collator masks the label of an end token that closes a row; None where it does not take such a row."""
    ids = [*tokenizer("a").input_ids, tokenizer.eos_token_id]
    try:
        labels = collator([{"input_ids": ids, "attention_mask": [1] * len(ids)}])["labels"][0]
    except Exception:
        return None
    return bool(labels[0] != IGNORED and labels[-1] == IGNORED)

"""Samples formed by a trainer's own code, or by its rules where it is not here."""

from __future__ import annotations

from collections.abc import Callable

from ...core.errors import StageError
from ...facts import DataFacts
from ...pipeline.batches import rows_of_a_batch
from ...pipeline.forms import NotFollowedForm, follow
from ...pipeline.own_code.finding import TrainerPython
from ...setup.setup import Setup
from ..failures import explain
from .filling import filling
from .formed import batch_of, facts_of
from .overlap import overlap_of
from .seen import ROWS, DataSeen, load_if_here, new_tokens
from .turn_end import turn_end_facts


def see_followed(setup: Setup, progress: Callable[..., None], offline: bool, own: TrainerPython | None) -> DataSeen:
    """Samples formed by the trainer's own code, or by its rules; without the model's tokenizer what needs none."""
    named = next(each for each in setup.named_data if each.role == "train")
    architecture, tokenizer, known = load_if_here(setup, progress, offline)
    known["source"] = named.name
    try:
        asks = own is not None and own.asked and tokenizer is not None
        progress(
            "Reading the samples, and asking the trainer's own code" if asks else "Reading and forming the samples"
        )
        followed = follow(setup, tokenizer, ROWS, offline=offline, own=own)
        if followed is None:
            raise NotFollowedForm("The config names no data.")
        known.update(facts_of(followed, known.get("vocab_rows")))
        if tokenizer is not None:
            known.update(new_tokens(setup, (row.ids for row in followed.rows if row.ids), followed.tokenizer))
        if setup.training.method == "pretrain":
            known.pop("eos_supervised_ratio", None)
        lengths = [row.length for row in followed.rows if row.dropped is None and row.length]
        known.update(filling(lengths, rows_of_a_batch(setup), followed.limit))
        known.update(overlap_of(setup))
        if named.settings.get("chat_template") in (None, "tokenizer_default") and not setup.traits.own_templates:
            folder = architecture.folder if architecture is not None else None
            known.update(turn_end_facts(tokenizer, folder) if known.get("roles") is not None else {})
        batch = None
        if tokenizer is not None and architecture is not None:
            batch = batch_of(followed, rows_of_a_batch(setup), architecture.config) if not followed.packing else None
    except StageError as error:
        return DataSeen(DataFacts(**known, failure=error.message))
    except NotFollowedForm:
        raise
    except Exception as raised:
        return DataSeen(DataFacts(**known, failure=explain(raised, "preparing the data").message))
    return DataSeen(DataFacts(**known), batch)

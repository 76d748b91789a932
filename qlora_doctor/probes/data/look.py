"""Stage ``data``: the samples after the trainer's own preparation and collator."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...core.errors import StageError
from ...core.labels import IGNORED
from ...core.uncollected import uncollected
from ...facts import BatchFacts, DataFacts
from ...facts.data import DataSetFacts
from ...pipeline import Architecture, Batches, load_config, load_tokenizer, make_batches
from ...pipeline.batches import rows_of_a_batch, rows_of_a_step
from ...pipeline.changes import align_padding, change_config
from ...pipeline.forms import NotFollowedForm, is_followed
from ...pipeline.forms.chat import lost_content
from ...pipeline.forms.compared import compares
from ...pipeline.forms.script import way_of
from ...pipeline.own_code.finding import TrainerPython
from ...pipeline.samples import COMPARED, NOT_AT_HAND, sample_rows
from ...setup.resolved import Taken
from ...setup.setup import NamedData, Setup
from ..batch import BatchLook
from ..failures import explain
from .compared import compared_facts, see_compared_elsewhere
from .filling import filling
from .followed import see_followed
from .formed import facts_of_texts, without_repeats
from .overlap import overlap_of
from .prepared import StandIn, collated_rows, cut, is_changed, limit_of, prepared, refuse_unprepared, uncut
from .rows import MOST_CUT, Row, by_mask, of_cut, of_ids, of_labels, of_tensors, of_texts
from .samples import not_in_evaluation, sample_facts
from .seen import ALL_TRAINED, ROWS, DataSeen, masked_before, new_tokens, vocabulary_of
from .showing import Shown, histogram, rows_shown
from .stood_in import see_stood_in
from .turn_end import turn_end_facts

_OF_CLASSES = ("rows", "classes", "classes_seen", "class_labels_out_of_range", "conflicting_class_rows")
_CLASSIFIES = "sequence-classification"


def look_at_data(setup: Setup, progress: Callable[..., None], *, offline: bool = True) -> DataFacts:
    """The facts of the data alone, by what is here; see ``see_data``."""
    return see_data(setup, progress, offline=offline).data


def see_data(
    setup: Setup, progress: Callable[..., None], *, offline: bool = True, own: TrainerPython | None = None
) -> DataSeen:
    """Read, render and tokenise rows of the data as the setup's trainer does, and look at the result.

    Once as the setup cuts and packs them, and once in full, which shows what is cut. Never raises for what is wrong
    with the data: that is a fact.

    Args:
        own: a Python that has the trainer, which forms the rows then.

    Raises:
        NotFollowedForm: the trainer forms samples in a way that is not followed, or they are not on this machine.
    """
    with uncollected():
        return _seen(setup, progress, offline, own)


def _seen(setup: Setup, progress: Callable[..., None], offline: bool, own: TrainerPython | None) -> DataSeen:
    if is_followed(setup):
        if compares(setup):
            return see_compared_elsewhere(setup, progress, offline)
        return see_followed(setup, progress, offline, own)
    way = way_of(setup)
    if way is not None and not _has_tokenizer(setup, offline):
        return see_stood_in(setup, way, progress)
    look = _Look(setup, way, progress, offline)
    try:
        look.look()
    except NotFollowedForm:
        raise
    except StageError as error:
        if error.kind == NOT_AT_HAND:
            raise NotFollowedForm(error.message) from error
        look.known["failure"] = error.message
    except Exception as raised:
        look.known["failure"] = explain(raised, "preparing the data").message
    return DataSeen(DataFacts(**look.known), look.batch)


@dataclass
class _Look:
    """Rows on their way through a trainer that is installed here; a failure leaves what was seen before it.

    Attributes:
        way: a script's own way of making its samples; None where the trainer makes them.
        known, batch: the facts, as they are learned.
    """

    setup: Setup
    way: NamedData | None
    progress: Callable[..., None]
    offline: bool
    known: dict[str, Any] = field(default_factory=dict)
    batch: BatchFacts | None = None

    def look(self) -> None:
        """Learn all that can be.

        Raises:
            NotFollowedForm: the rows are not on this machine, or go to a collator that is not followed.
            StageError: a file cannot be read, or the trainer would stop at the data.
        """
        setup = self.setup
        self.known["source"] = setup.data.train
        architecture = load_config(setup, offline=self.offline, with_files=True)
        self.known["vocab_rows"] = vocabulary_of(architecture)
        self.progress("Loading the tokenizer")
        tokenizer = load_tokenizer(setup, architecture, offline=self.offline)
        if tokenizer is not None:
            self.known["chat_template"] = getattr(tokenizer, "chat_template", None) is not None
        self.progress("Reading and tokenising the data")
        as_read = self.way is None and not _classifies(setup) and setup.data.train
        samples = sample_rows(setup, max(ROWS, 2 * rows_of_a_step(setup))) if as_read else None
        if samples is not None and samples.format in COMPARED:
            self.known |= compared_facts(setup, samples, architecture, tokenizer)
            return
        config = _classifying(setup, architecture, self.way, tokenizer) if _classifies(setup) else architecture.config
        stand_in = StandIn(config or architecture.config)
        batches = make_batches(uncut(setup), stand_in, tokenizer, rows=ROWS, samples=samples)
        if self.way is not None and of_tensors(batches.dataset[0]):
            self.known["source"], self.batch = self.way.name, BatchFacts(rows=len(batches.dataset), dimensions=3)
            return
        refuse_unprepared(setup, batches)
        self._look_at(batches, architecture, tokenizer, config)

    def _look_at(self, batches: Batches, architecture: Architecture, tokenizer: Any, config: Any) -> None:
        """What is true of the rows as the trainer prepares, cuts and collates them."""
        setup, known, way = self.setup, self.known, self.way
        classifies = _classifies(setup)
        look = BatchLook(tokenizer, config)
        limit = limit_of(setup, architecture)
        full = prepared(uncut(setup), batches, architecture, streams=True)
        rows = in_full = collated_rows(uncut(setup), *full, look)
        if is_changed(setup, in_full, limit):
            self.progress("Cutting and packing the data")
            look = BatchLook(tokenizer, config)
            rows = collated_rows(setup, *cut(setup, batches, full, architecture, way), look)
        known.update(sample_facts(batches, tokenizer))
        if setup.data.format is None and setup.training.completion_only_loss and Taken(setup).trainer == "trl":
            known["completion_mask_lost"] = known.get("format") in ("text", "messages")
        known.update(_others(setup))
        known.update(overlap_of(setup))
        known.update(not_in_evaluation(setup, batches))
        if way is not None:
            known.update(source=way.name, rendered_by="the script's own functions, worked out by qlora-doctor")
        vocabulary = vocabulary_of(architecture)
        if classifies:
            known.update(of_ids([row.ids for row in rows], vocabulary))
        else:
            known.update(of_labels(rows, vocabulary, _dropped(setup, batches, rows)))
        known.update(of_texts(in_full, limit, tokenizer))
        known.update(new_tokens(setup, (row.ids for row in in_full), tokenizer))
        self.batch = _batch(setup, look, batches)
        if classifies:
            known.pop("eos_supervised_ratio", None)  # its labels are classes, no tokens
            return
        decodes = bool(getattr(architecture.config, "is_encoder_decoder", False))
        known.update(_shown(setup, rows, in_full, limit, tokenizer, decodes))
        known.update(filling([len(row.ids) for row in in_full], rows_of_a_batch(setup), limit))
        known.update(_marked(way, in_full, tokenizer))
        if way is not None and batches.raw is not None:
            known.update(_by_script(in_full, batches, tokenizer))
        if setup.training.method == "pretrain":
            known.pop("eos_supervised_ratio", None)
        if known.get("format") == "messages":
            known.update(turn_end_facts(tokenizer, architecture.folder))


def _classifies(setup: Setup) -> bool:
    """Whether the samples have classes; a reward model is a classifier of pairs that have none."""
    return setup.model.task == _CLASSIFIES and setup.training.method != "reward"


def _has_tokenizer(setup: Setup, offline: bool) -> bool:
    try:
        architecture = load_config(setup, offline=offline, with_files=True)
        return load_tokenizer(setup, architecture, offline=offline) is not None
    except StageError:
        return False


def _others(setup: Setup) -> dict[str, Any]:
    """The data sets of a config that names several, of which the first is looked at; nothing where it names one."""
    named = [each for each in setup.named_data if each.role == "train"]
    if len(named) < 2 or setup.dialect == "python":
        return {}
    sets = [DataSetFacts(name=each.name, key=each.key, not_followed=each.not_followed) for each in named]
    return {"sets": sets, "sets_not_followed": sum(each.not_followed is not None for each in sets)}


def _by_script(rows: Sequence[Row], batches: Batches, tokenizer: Any) -> dict[str, Any]:
    """Of rows that a script tokenized: what was cut, what is asked and answered by the mask, what is not in them."""
    known = of_cut(rows, batches.limits, tokenizer)
    formed = [by_mask(row, tokenizer) if len(row.labels) == len(row.ids) else None for row in rows]
    if known.get("truncated_ratio", 0.0) <= MOST_CUT:
        known.update(facts_of_texts([each for each in formed if each is not None]))
    if batches.raw:  # without the rows as they were, a mask that is too long looks the same
        known["empty_answers"] = sum(
            each is not None
            and bool((np.asarray(row.labels) != IGNORED).any())  # a row that trains nothing teaches no end
            and not each.answer.strip()
            and any(isinstance(value, str) and not value.strip() for value in raw.values())
            for row, each, raw in zip(rows, formed, batches.raw, strict=False)
        )
    talks = [raw.get("messages") or raw.get("conversations") for raw in batches.raw or ()]
    lost = [
        found
        for row, talk in zip(rows, talks, strict=False)
        if isinstance(talk, list) and len(row.ids) not in batches.limits
        if (found := lost_content(tokenizer.decode(row.ids), [each for each in talk if isinstance(each, dict)]))
    ]
    if any(isinstance(talk, list) for talk in talks):
        known |= {"content_lost_rows": len(lost), "content_lost": lost[0] if lost else None}
    return known


def _marked(way: NamedData | None, rows: Sequence[Row], tokenizer: Any) -> dict[str, Any]:
    """The marker behind which a script trains, and how many rows have it as text; nothing where there is none."""
    parts = way.settings.get("responses") if way is not None else None
    if not parts:
        return {}
    marker = parts["response_part"]
    found = sum(marker in tokenizer.decode(row.ids) for row in rows)
    return {"response_marker": marker.strip(), "rows_with_marker": found}


def _batch(setup: Setup, look: BatchLook, batches: Batches) -> BatchFacts | None:
    """Facts of the batches where they are the user's: TRL makes them, or the script's own collator does.

    Of transformers' Trainer without a script nobody knows the collator; classes are none of its making, and none pads
    without a padding token.
    """
    facts = without_repeats(look.facts())
    if facts is not None and not (setup.training.trainer == "trl" or way_of(setup) is not None):
        known = {name: getattr(facts, name) for name in _OF_CLASSES} if facts.classes is not None else {}
        known |= {} if batches.pads is None else {"padding_token": batches.pads}
        return BatchFacts(**known) if known else None
    by_hand = masked_before(batches.dataset)
    if facts is None or by_hand is None:
        return facts
    discarded = by_hand > 0 and facts.trained_ratio is not None and facts.trained_ratio >= ALL_TRAINED
    return facts.model_copy(update={"mask_by_hand_ratio": by_hand, "mask_discarded": discarded})


def _shown(
    setup: Setup, rows: Sequence[Row], in_full: Sequence[Row], limit: int | None, tokenizer: Any, decodes: bool
) -> dict[str, Any]:
    """Rows to be shown, each with what is cut of it; rows that are packed are shown as the samples in them.

    Args:
        decodes: labels are what a decoder writes, and no part of the tokens that its encoder reads.
    """
    lengths, width = histogram([len(row.ids) for row in in_full])
    shown = [
        Shown(
            row.ids[:limit],
            row.labels[:limit],
            len(row.ids),
            row.ids[limit:] if limit else (),
            number=number,
            decoded=decodes,
            padding=_padding(row, limit),
        )
        for number, row in enumerate(in_full)
    ]
    counted = sum(row.positions - row.masked for row in rows)
    tokens = sum(len(row.ids) for row in rows)
    lost = sum(bool((row.labels[limit:] != IGNORED).any()) for row in in_full if limit and len(row.ids) > limit)
    return {
        "lengths": lengths,
        "lengths_bin": width,
        "limit": limit,
        "shown": rows_shown(shown, tokenizer),
        "trained_ratio": min(1.0, counted / tokens) if tokens and not decodes else None,
        "cut_end_rows": lost if not setup.training.packing else None,
    }


def _padding(row: Row, limit: int | None) -> tuple[int, int]:
    """Padding of a row in its batch, which is no longer than the limit."""
    count, trained = row.padding
    if limit is not None:
        count = max(0, min(row.positions, limit) - min(len(row.ids), limit))
    return count, min(count, trained)


def _dropped(setup: Setup, batches: Batches, rows: Sequence[Row]) -> int:
    """Rows that SFTTrainer leaves out because cutting them took the last label that counts."""
    if Taken(setup).trainer != "trl" or setup.training.packing or batches.samples is None:
        return 0
    return max(0, min(len(batches.samples.rows), ROWS) - len(rows))


def _classifying(setup: Setup, architecture: Architecture, way: NamedData | None, tokenizer: Any) -> Any:
    """The config of a classifier at its first step; None where it is not known how many classes it has."""
    if setup.is_unknown("model.num_labels"):
        return None
    config = copy.deepcopy(architecture.config)
    if setup.model.num_labels:
        config.num_labels = setup.model.num_labels
    config.problem_type = setup.model.extra.get("problem_type", config.problem_type)
    change_config(config, setup, tokenizer)
    if tokenizer is not None and (way is None or way.settings.get("has_tokenizer")):
        align_padding(config, tokenizer)
    return config

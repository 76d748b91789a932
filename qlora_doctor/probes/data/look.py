"""Stage ``data``: the samples after the trainer's own preparation and collator."""

from __future__ import annotations

import copy
import itertools
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ...core.errors import StageError
from ...core.labels import IGNORED
from ...core.uncollected import uncollected
from ...facts import BatchFacts, DataFacts
from ...facts.data import DataSetFacts
from ...pipeline import Architecture, Batches, load_config, load_tokenizer, make_batches, make_trainer, sequence_length
from ...pipeline.architecture import context_length
from ...pipeline.batches import TOKENS_BEFORE, render, rows_of_a_batch, rows_of_a_step
from ...pipeline.changes import align_padding, change_config, change_tokenizer
from ...pipeline.forms import NotFollowedForm, follow, is_followed, read_named
from ...pipeline.forms.chat import chat_text, lost_content
from ...pipeline.forms.compared import compares, form_compared
from ...pipeline.forms.kinds import CannotForm, FormedRow
from ...pipeline.forms.script import byte_tokenizer, hands_over_rows, scripted, way_of
from ...pipeline.own_code.finding import TrainerPython
from ...pipeline.samples import COMPARED, NOT_AT_HAND, Samples, sample_rows
from ...setup.resolved import Taken
from ...setup.setup import NamedData, Origin, Setup
from ..batch import BatchLook
from ..failures import explain
from .filling import filling
from .formed import ANSWERS, CONTENT, QUESTIONS, batch_of, facts_of, facts_of_texts, without_repeats
from .overlap import columns_of_evaluation, leaves, overlap_of
from .pairs import pair_facts
from .rows import MOST_CUT, Row, by_mask, masked_by_hand, of_cut, of_ids, of_labels, of_tensors, of_texts, split_batch
from .showing import Shown, histogram, rows_shown
from .talk import talk_facts
from .turn_end import turn_end_facts

_NO_TOKENIZER = "The tokenizer of the model is not on this machine."
ROWS = 256
"""Rows that are looked at."""
_UNCUT = 10_000_000
_TRAINS_EMBEDDINGS = ("lora.modules_to_save", "lora.target_modules", "lora.trainable_token_indices")
_EMBEDDINGS = ("embed", "wte", "wrd")
_ALL = 0.999
"""Share of trained tokens at which nothing but padding is masked."""
_OF_CLASSES = ("rows", "classes", "classes_seen", "class_labels_out_of_range", "conflicting_class_rows")
_CLASSIFIES = "sequence-classification"


@dataclass(frozen=True)
class DataSeen:
    """What the stage gives: facts of the data, and of the batches that the model would be given (None without them)."""

    data: DataFacts
    batch: BatchFacts | None = None


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
    known: dict[str, Any] = {"source": setup.data.train}
    if is_followed(setup):
        if compares(setup):
            return _compared_elsewhere(setup, progress, offline)
        return _followed(setup, progress, offline, own)
    batch = None
    way = way_of(setup)
    if way is not None and not _has_tokenizer(setup, offline):
        return _stood_in(setup, way, progress)
    try:
        architecture = load_config(setup, offline=offline, with_files=True)
        known["vocab_rows"] = _vocabulary(architecture)
        progress("Loading the tokenizer")
        tokenizer = load_tokenizer(setup, architecture, offline=offline)
        if tokenizer is not None:
            known["chat_template"] = getattr(tokenizer, "chat_template", None) is not None
        progress("Reading and tokenising the data")
        classifies = _classifies(setup)
        as_read = not classifies and way is None
        samples = sample_rows(setup, max(ROWS, 2 * rows_of_a_step(setup))) if as_read and setup.data.train else None
        if samples is not None and samples.format in COMPARED:
            return DataSeen(DataFacts(**known, **_compared(setup, samples, architecture, tokenizer)))
        config = _classifying(setup, architecture, way, tokenizer) if classifies else architecture.config
        look = BatchLook(tokenizer, config)
        whole, limit = _uncut(setup), _limit(setup, architecture)
        batches = make_batches(whole, _StandIn(config or architecture.config), tokenizer, rows=ROWS, samples=samples)
        if way is not None and of_tensors(batches.dataset[0]):
            return DataSeen(
                DataFacts(**known | {"source": way.name}), BatchFacts(rows=len(batches.dataset), dimensions=3)
            )
        _refuse_unprepared(setup, batches)
        full = _prepared(whole, batches, architecture, streams=True)
        rows = in_full = _rows(whole, *full, look)
        if _is_changed(setup, in_full, limit):
            progress("Cutting and packing the data")
            look = BatchLook(tokenizer, config)
            rows = _rows(setup, *_cut(setup, batches, full, architecture, way), look)
        known.update(_of_samples(batches, tokenizer))
        if setup.data.format is None and setup.training.completion_only_loss and Taken(setup).trainer == "trl":
            known["completion_mask_lost"] = known.get("format") in ("text", "messages")
        known.update(_others(setup))
        known.update(overlap_of(setup))
        known.update(_not_in_evaluation(setup, batches))
        if way is not None:
            known["source"] = way.name
            known["rendered_by"] = "the script's own functions, worked out by qlora-doctor"
        if classifies:
            known.update(of_ids([row.ids for row in rows], known["vocab_rows"]))
        else:
            known.update(of_labels(rows, known["vocab_rows"], _dropped(setup, batches, rows)))
        known.update(of_texts(in_full, limit, tokenizer))
        known.update(_new_tokens(setup, (row.ids for row in in_full), tokenizer))
        batch = _batch(setup, look, batches)
        if classifies:
            known.pop("eos_supervised_ratio", None)  # its labels are classes, no tokens
        else:
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
    except NotFollowedForm:
        raise
    except StageError as error:
        if error.kind == NOT_AT_HAND:
            raise NotFollowedForm(error.message) from error
        known["failure"] = error.message
    except Exception as raised:
        known["failure"] = explain(raised, "preparing the data").message
    return DataSeen(DataFacts(**known), batch)


def _classifies(setup: Setup) -> bool:
    """Whether the samples have classes; a reward model is a classifier of pairs that have none."""
    return setup.model.task == _CLASSIFIES and setup.training.method != "reward"


def _has_tokenizer(setup: Setup, offline: bool) -> bool:
    try:
        architecture = load_config(setup, offline=offline, with_files=True)
        return load_tokenizer(setup, architecture, offline=offline) is not None
    except StageError:
        return False


def _stood_in(setup: Setup, way: NamedData, progress: Callable[..., None]) -> DataSeen:
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
        raise NotFollowedForm(_NO_TOKENIZER)
    if of_tensors(made.rows[0]):
        return DataSeen(DataFacts(source=way.name), BatchFacts(rows=len(made.rows), dimensions=3))
    look = BatchLook(tokenizer)
    size = rows_of_a_batch(setup)
    for start in range(0, len(made.rows), size):
        look.look(made.collator([dict(row) for row in made.rows[start : start + size]]))
    found, by_hand = look.facts(), _masked_by_hand(made.rows)
    data = DataFacts(
        source=way.name,
        columns=read.columns,
        rows=read.total,
        rows_seen=len(read.rows),
        rendered_by="the script's own functions, worked out by qlora-doctor with bytes for tokens",
        tokens_unseen=_NO_TOKENIZER,
    )
    if found is None:
        return DataSeen(data)
    discarded = None
    if by_hand is not None and found.trained_ratio is not None:
        discarded = by_hand > 0 and found.trained_ratio >= _ALL
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


def _followed(setup: Setup, progress: Callable[..., None], offline: bool, own: TrainerPython | None) -> DataSeen:
    """Samples formed by the trainer's own code, or by its rules; without the model's tokenizer what needs none."""
    named = next(each for each in setup.named_data if each.role == "train")
    known: dict[str, Any] = {"source": named.name}
    architecture = tokenizer = None
    try:
        architecture = load_config(setup, offline=offline, with_files=True)
        known["vocab_rows"] = _vocabulary(architecture)
        progress("Loading the tokenizer")
        tokenizer = load_tokenizer(setup, architecture, offline=offline)
    except StageError:
        pass  # the model is not here; its name and its rows are
    known["tokens_unseen"] = _NO_TOKENIZER if tokenizer is None else None
    try:
        if tokenizer is not None:
            known["chat_template"] = getattr(tokenizer, "chat_template", None) is not None
        asks = own is not None and own.asked and tokenizer is not None
        progress(
            "Reading the samples, and asking the trainer's own code" if asks else "Reading and forming the samples"
        )
        followed = follow(setup, tokenizer, ROWS, offline=offline, own=own)
        if followed is None:
            raise NotFollowedForm("The config names no data.")
        known.update(facts_of(followed, known.get("vocab_rows")))
        if tokenizer is not None:
            known.update(_new_tokens(setup, (row.ids for row in followed.rows if row.ids), followed.tokenizer))
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


def _compared_elsewhere(setup: Setup, progress: Callable[..., None], offline: bool) -> DataSeen:
    """Rows that compare answers, of a trainer that is not here."""
    every = [each for each in setup.named_data if each.role == "train"]
    known: dict[str, Any] = {"source": every[0].name, "rows_left_out": 0}
    tokenizer = None
    try:
        architecture = load_config(setup, offline=offline, with_files=True)
        known["vocab_rows"] = _vocabulary(architecture)
        progress("Loading the tokenizer")
        tokenizer = load_tokenizer(setup, architecture, offline=offline)
        known["chat_template"] = getattr(tokenizer, "chat_template", None) is not None
    except StageError:
        pass  # the model is not here; its rows are
    known["tokens_unseen"] = _NO_TOKENIZER if tokenizer is None else None
    progress("Reading and forming the pairs")
    rows: list[dict[str, Any]] = []
    columns, unread, dropped, total = [], [], Counter[str](), 0
    counted = True
    limit, drops, by, forms = None, False, None, []
    try:
        for each in every:
            read = read_named(setup, each, max(32, ROWS // len(every)), offline=offline)
            made = form_compared(setup, each, [row for _, row in read.rows], read.columns, tokenizer)
            rows += made.rows
            columns += read.columns
            unread += [name for name in read.columns if name in ANSWERS | CONTENT and name not in made.read]
            dropped.update(made.dropped)
            counted, total = counted and read.total is not None, total + (read.total or 0)
            limit, drops, by = made.limit, made.drops, made.by
            forms.append(made.form)
    except CannotForm as error:
        return DataSeen(DataFacts(**known, failure=str(error)))
    except StageError as error:
        return DataSeen(DataFacts(**known, failure=error.message))
    lengths = [max(_lengths(tokenizer, row)) for row in rows] if tokenizer is not None else []
    long = sum(limit is not None and length > limit for length in lengths)
    if drops and long:
        dropped["longer than the limit"] += long
    left = sum(dropped.values())
    known |= {
        "rendered_by": by,
        "format": ", ".join(dict.fromkeys(forms)),
        "columns": list(dict.fromkeys(columns)),
        "content_columns_unread": list(dict.fromkeys(unread)),
        "rows": total if counted else None,
        "rows_seen": len(rows) + left - (long if drops else 0),
        "rows_left_out": left,
        "left_out": dict(dropped),
        "left_out_reasons": [f"{count} {why}" for why, count in dropped.items()],
        "limit": limit,
        "duplicate_rows": len(rows) - len({repr(row) for row in rows}),
        **pair_facts(rows),
        **overlap_of(setup),
    }
    known |= _token_counts(lengths, 0 if drops else long)
    return DataSeen(DataFacts(**known))


def _others(setup: Setup) -> dict[str, Any]:
    """The data sets of a config that names several, of which the first is looked at; nothing where it names one."""
    named = [each for each in setup.named_data if each.role == "train"]
    if len(named) < 2 or setup.dialect == "python":
        return {}
    sets = [DataSetFacts(name=each.name, key=each.key, not_followed=each.not_followed) for each in named]
    return {"sets": sets, "sets_not_followed": sum(each.not_followed is not None for each in sets)}


def _new_tokens(setup: Setup, rows: Iterable[Sequence[int] | np.ndarray], tokenizer: Any) -> dict[str, Any]:
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


def _token_counts(lengths: Sequence[int], truncated: int) -> dict[str, Any]:
    """Facts of the rows' lengths in tokens; none where no row has any."""
    if not lengths:
        return {}
    return {
        "tokens_mean": statistics.fmean(lengths),
        "tokens_median": int(statistics.median(lengths)),
        "tokens_max": max(lengths),
        "truncated_ratio": truncated / len(lengths),
    }


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
    by_hand = _masked_by_hand(batches.dataset)
    if facts is None or by_hand is None:
        return facts
    discarded = by_hand > 0 and facts.trained_ratio is not None and facts.trained_ratio >= _ALL
    return facts.model_copy(update={"mask_by_hand_ratio": by_hand, "mask_discarded": discarded})


def _masked_by_hand(dataset: Any) -> float | None:
    """Share of labels that are -100 in the rows before the collator; None where they hold none beside their ids."""
    if "labels" not in (getattr(dataset, "column_names", None) or dataset[0]):
        return None
    return masked_by_hand(dataset[index] for index in range(min(len(dataset), ROWS)))


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


def _compared(setup: Setup, samples: Samples, architecture: Architecture, tokenizer: Any) -> dict[str, Any]:
    """Data of a method that compares answers: lengths and what can be said of pairs.

    Its trainers have no labels of tokens, and add the end token by themselves.
    """
    facts: dict[str, Any] = {
        "format": samples.format,
        "columns": samples.columns,
        "rows": len(samples.rows) if len(samples.rows) < ROWS else None,
        "rows_seen": len(samples.rows),
    }
    facts |= pair_facts(samples.rows)
    facts["content_columns_unread"] = _questions_unread(samples.columns, samples.rows)
    facts["duplicate_rows"] = len(samples.rows) - len({repr(row) for row in samples.rows})
    facts |= overlap_of(setup)
    facts |= _rewards(setup, samples.columns)
    if tokenizer is None:
        return facts
    whole = samples.format != "prompt-only"
    lengths = [max(_lengths(tokenizer, row if whole else {"prompt": row["prompt"]})) for row in samples.rows]
    limit = _limit(setup, architecture) if whole else None
    long = sum(limit is not None and length > limit for length in lengths)
    facts |= _token_counts(lengths, long)
    if not whole:
        facts |= _answers_beyond(setup, samples, tokenizer)
    if setup.training.method == "reward":  # RewardTrainer keeps no pair of which one is longer (its _prepare_dataset)
        why = "longer than the limit"
        reasons = [f"{long} {why}"] if long else []
        facts |= {"rows_left_out": long, "left_out": {why: long} if long else {}, "left_out_reasons": reasons}
        facts |= {"limit": limit, "truncated_ratio": 0.0}
    return facts


def _answers_beyond(setup: Setup, samples: Samples, tokenizer: Any) -> dict[str, Any]:
    """How many of the answers that the data knows are longer than what may be generated; nothing where none is known.

    The columns are those that reward functions compare with; the longest of a row counts.
    """
    limit = setup.training.extra.get("max_completion_length")
    names = [name for name in samples.columns if name in ANSWERS]
    rows = [[str(row[name]) for name in names if isinstance(row.get(name), str)] for row in samples.rows]
    if not isinstance(limit, int) or not any(rows):
        return {}
    lengths = [max((_length(tokenizer, None, text) for text in texts), default=0) for texts in rows]
    beyond = sum(length > limit for length in lengths) / len(lengths)
    return {"answers_beyond_ratio": beyond, "completion_limit": limit}


def _rewards(setup: Setup, columns: Sequence[str]) -> dict[str, Any]:
    """Arguments that a script's reward functions cannot do without, where no column brings them."""
    asked = {
        name: names for each in setup.named_data for name, names in each.settings.get("reward_columns", {}).items()
    }
    lacking = {name: [each for each in names if each not in columns] for name, names in asked.items()}
    told = [
        f"{name} asks for {', '.join(names)}, which is no column of the data and nothing that TRL hands over"
        for name, names in lacking.items()
        if names
    ]
    return {"reward_raises": "; ".join(told), "reward_functions": list(asked)} if told else {}


def _questions_unread(columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Columns with a question that no answer repeats, where TRL finds no ``prompt`` and takes what both answers begin
    with for it (``trl.data_utils.maybe_extract_prompt``)."""
    if "prompt" in columns or not {"chosen", "rejected"} <= set(columns):
        return []
    found = []
    for name in columns:
        texts = [(row.get(name), row.get("chosen")) for row in rows] if name in QUESTIONS else []
        plain = [
            (one, other) for one, other in texts if isinstance(one, str) and isinstance(other, str) and one.strip()
        ]
        if plain and all(one.strip() not in other for one, other in plain):
            found.append(name)
    return found


def _opened(tokenizer: Any, rows: Sequence[Mapping[str, Any]]) -> int | None:
    """Texts that end as a prompt does: in the head of an answer which is not there."""
    if getattr(tokenizer, "chat_template", None) is None:
        return None
    asked = [{"role": "user", "content": "a"}]
    try:
        closed = tokenizer.apply_chat_template(asked, tokenize=False)
        opened = tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
    except Exception:  # the template may want other turns
        return None
    head = opened.removeprefix(closed).strip() if opened.startswith(closed) else ""
    if not head:
        return None
    texts = [text for row in rows if isinstance(text := row.get("text"), str)]
    return sum(text.removesuffix(tokenizer.eos_token or "").rstrip().endswith(head) for text in texts)


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


def _uncut(setup: Setup) -> Setup:
    """The same setup without cutting or packing; TRL does so at a null that is written down."""
    by_trl = Taken(setup).trainer == "trl"
    most = None if by_trl else _UNCUT
    training = setup.training.model_copy(update={"max_length": most, "packing": False, "padding_free": False})
    origins = {**setup.origins, "training.max_length": Origin(source="explicit")}
    return setup.model_copy(update={"training": training, "origins": origins})


def _rows(setup: Setup, dataset: Any, collator: Any, look: BatchLook | None = None) -> list[Row]:
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


def _prepared(setup: Setup, batches: Batches, architecture: Architecture, *, streams: bool = False) -> tuple[Any, Any]:
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


def _refuse_unprepared(setup: Setup, batches: Batches) -> None:
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


def _is_changed(setup: Setup, in_full: Sequence[Row], limit: int | None) -> bool:
    """Whether the setup cuts, packs or joins what was prepared in full, or TRL leaves a row out that trains nothing."""
    training = setup.training
    return bool(training.packing or training.padding_free) or any(
        len(row.ids) > (limit or _UNCUT) or row.positions == row.masked for row in in_full
    )


def _cut(
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
    limit = _limit(setup, architecture)
    if way is not None or limit is None:
        return dataset, collator
    rows = [{name: part[:limit] if isinstance(part, list) else part for name, part in row.items()} for row in dataset]
    return rows, collator


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


def _of_samples(batches: Batches, tokenizer: Any = None) -> dict[str, Any]:
    samples = batches.samples
    if samples is None:
        return {}
    read = len(samples.rows)
    rows = [_parts(samples, row, tokenizer) for row in samples.rows[:ROWS]]
    lost = [found for row in samples.rows[:ROWS] if (found := _lost(tokenizer, row)) is not None]
    return {
        **facts_of_texts(rows),
        **talk_facts(rows),
        "empty_answers": sum(not row.answer.strip() for row in rows),
        "rows_ending_in_prompt": _opened(tokenizer, samples.rows[:ROWS]) if samples.format == "text" else None,
        "content_lost_rows": len(lost),
        "content_columns_unread": _unread(samples),
        "content_lost": lost[0] if lost else None,
        "format": samples.format,
        "columns": samples.columns,
        "rows": read if read < ROWS else None,  # as many as were asked for: there may be more
        "rows_seen": min(read, ROWS),
    }


def _not_in_evaluation(setup: Setup, batches: Batches) -> dict[str, Any]:
    """Columns that TRL reads of the training data and that the evaluation data, which it prepares alike, has not."""
    if Taken(setup).trainer != "trl" or batches.samples is None:
        return {}
    held_out = columns_of_evaluation(setup)
    if not held_out:
        return {}
    missing = [name for name in batches.samples.trained_columns if any(name not in each for each in held_out)]
    # Either form will do, also another one than that of the training data.
    forms = ({"messages"}, {"prompt", "completion"}, {Taken(setup)["training.dataset_text_field"]}, {"input_ids"},
             {"conversations"})  # fmt: skip
    formed = all(any(form <= set(each) for form in forms) for each in held_out)
    return {"evaluation_columns_missing": [] if formed else missing}


def _unread(samples: Samples) -> list[str]:
    """Columns with names of content whose text stands nowhere in what is trained."""
    read = {*samples.trained_columns, "tools", "chat_template_kwargs", "images", "image"}
    found = []
    for name in samples.columns:
        if name in read or name not in CONTENT | ANSWERS | QUESTIONS:
            continue
        pairs = [
            (row[name], row) for row in samples.rows[:ROWS] if isinstance(row.get(name), str) and row[name].strip()
        ]
        texts = [(value.strip(), list(leaves({key: row.get(key) for key in read}))) for value, row in pairs]
        # A text that was rendered from what is trained is read by way of it.
        if texts and not any(
            value in " ".join(parts) or all(part in value for part in parts) for value, parts in texts
        ):
            found.append(name)
    return found


def _parts(samples: Samples, row: Mapping[str, Any], tokenizer: Any) -> FormedRow:
    """What is asked and what is answered, as text, of a row of any format of TRL's."""
    messages: list[dict[str, Any]] | None = None
    if samples.format == "messages":
        turns = messages = [turn for turn in row.get("messages") or [] if isinstance(turn, dict)]
        asked = [str(turn.get("content")) for turn in turns if turn.get("role") != "assistant"]
        answered = [
            str(turn.get("content") or turn.get("tool_calls") or "")
            for turn in turns
            if turn.get("role") == "assistant"
        ]
        prompt, answer = "\n".join(asked), "\n".join(answered)
    elif samples.format == "prompt-completion":
        parts = [row.get("prompt"), row.get("completion")]
        if all(isinstance(part, list) for part in parts):
            messages = [turn for part in parts for turn in part or [] if isinstance(turn, dict)]
        prompt, answer = _as_text(row.get("prompt")), _as_text(row.get("completion"))
    elif samples.format == "tokens":
        text = "" if tokenizer is None else tokenizer.decode(row["input_ids"])
        prompt, answer = "", text.strip("\ufffd")  # a letter that is cut in two is no fault of the text
    else:
        prompt, answer = "", _as_text(row.get(samples.text_field, row))
    identity = f"{prompt}\0{answer}"
    return FormedRow(
        0, None, identity=identity, prompt=prompt, answer=answer, messages=messages, tools=row.get("tools")
    )


def _as_text(value: Any) -> str:
    if isinstance(value, list):
        return "\n".join(str(turn.get("content")) if isinstance(turn, dict) else str(turn) for turn in value)
    return "" if value is None else str(value)


def _lost(tokenizer: Any, row: Mapping[str, Any]) -> str | None:
    """What of a conversation the chat template leaves out; None where it writes all, or there is none."""
    messages = row.get("messages")
    if tokenizer is None or not isinstance(messages, list) or getattr(tokenizer, "chat_template", None) is None:
        return None
    try:
        return lost_content(chat_text(tokenizer, messages, None, row.get("tools")), messages)
    except CannotForm:
        return None  # the trainer's own attempt tells why


def _dropped(setup: Setup, batches: Batches, rows: Sequence[Row]) -> int:
    """Rows that SFTTrainer leaves out because cutting them took the last label that counts."""
    if Taken(setup).trainer != "trl" or setup.training.packing or batches.samples is None:
        return 0
    return max(0, min(len(batches.samples.rows), ROWS) - len(rows))


def _limit(setup: Setup, architecture: Architecture) -> int | None:
    """Tokens at which the setup's trainer cuts a sample; None where it does not."""
    values = Taken(setup)
    if values.trainer == "trl":
        return None if values.cuts_nothing else sequence_length(setup, architecture.config)
    return setup.training.max_length or context_length(architecture.config)


def _classifying(setup: Setup, architecture: Architecture, way: NamedData | None, tokenizer: Any) -> Any:
    """The config of a classifier at its first step; None where it is not known how many classes it has."""
    if setup.is_unknown("model.num_labels"):
        return None
    config = copy.deepcopy(architecture.config)
    if setup.model.num_labels:
        config.num_labels = setup.model.num_labels
    change_config(config, setup, tokenizer)
    if tokenizer is not None and (way is None or way.settings.get("has_tokenizer")):
        align_padding(config, tokenizer)
    return config


def _vocabulary(architecture: Architecture) -> int | None:
    """Rows of the embedding, as the architecture's config says."""
    config = architecture.config
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    rows = getattr(text, "vocab_size", None)
    return int(rows) if rows else None

"""Batches that a script's own loader made → facts of the data and of the batches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from ...core.labels import IGNORED
from ...facts import BatchFacts, DataFacts
from ...probes.batch import BatchLook
from ...probes.data.formed import facts_of_texts, without_repeats
from ...probes.data.pairs import pair_facts
from ...probes.data.rows import MOST_CUT, Row, by_mask, masked_by_hand, of_cut, of_ids, of_labels, of_texts, split_batch
from ...probes.data.showing import Shown, histogram, rows_shown
from .noting import Noted
from .request import ROWS
from .stand_ins import OLD_VOCABULARY

MOST_BATCHES = 64
_COMPARED_ROWS = 32
"""Rows of the tokenized data set whose labels are held against those of a batch."""
RENDERED_BY = "the script itself, run as far as its training"


@dataclass
class Drawn:
    """Batches as the model would be given them, and where they come from.

    Attributes:
        tokenizer, config: of the model; None where they are not known.
        dataset: what the loader reads, before its collator; None where that is not known.
        evaluated: the data set that is evaluated on.
        collator: makes a batch of rows.
        limit: at which the trainer itself cuts a row; None where it cuts none, or packs what is left over.
        shifts: False where the script computes its loss by itself, so that labels may stand anywhere.
    """

    batches: list[Mapping[str, Any]] = field(default_factory=list)
    tokenizer: Any = None
    config: Any = None
    model: Any = None
    dataset: Any = None
    evaluated: Any = None
    collator: Any = None
    limit: int | None = None
    shifts: bool = True

    @property
    def rows(self) -> int:
        """Rows that were drawn."""
        return sum(_size(batch) for batch in self.batches)

    @property
    def enough(self) -> bool:
        """Whether more would tell nothing new."""
        return self.rows >= ROWS or len(self.batches) >= MOST_BATCHES


def _size(batch: Any) -> int:
    ids = batch.get("input_ids") if isinstance(batch, Mapping) else None
    return len(ids) if isinstance(ids, torch.Tensor) and ids.dim() else 1


def draw(loader: Any, into: Drawn) -> None:
    """Take the first batches of a loader."""
    for batch in loader:
        into.batches.append(batch if isinstance(batch, Mapping) else {"rows": batch})
        if into.enough:
            return


def facts_of_drawn(drawn: Drawn, noted: Noted) -> tuple[DataFacts, BatchFacts | None]:
    """The facts of stage ``data``."""
    batches = [_with_labels(batch) for batch in drawn.batches]
    compared = any("completion_mask" in batch for batch in batches)
    rows_before = _first_rows(drawn.dataset)
    known: dict[str, Any] = {
        "source": Path(noted.script).name,
        "rendered_by": RENDERED_BY,
        "rendered_by_trainer": True,
        "columns": _columns(drawn.dataset),
        "rows": _length(drawn.dataset) if not noted.sampled else None,
        "chat_template": getattr(drawn.tokenizer, "chat_template", None) is not None if drawn.tokenizer else None,
        "vocab_rows": (vocabulary := _vocabulary(drawn.config)),
    }
    known.update(pair_facts(rows_before))
    tokens = [batch for batch in batches if _is_tokens(batch)]
    if not tokens:
        return DataFacts(**known, rows_seen=len(rows_before)), None
    look = BatchLook(drawn.tokenizer, drawn.config)
    rows: list[Row] = []
    classes = False
    for batch in tokens:
        look.look(batch)
        labels = batch.get("labels") if batch["input_ids"].dim() == 2 else None
        classes = classes or (isinstance(labels, torch.Tensor) and labels.dim() == 1)
        if isinstance(labels, torch.Tensor):
            rows += split_batch(batch)
    known["rows_seen"] = drawn.rows
    if any(batch["input_ids"].dim() == 3 for batch in tokens):
        return DataFacts(**known), _batch_facts(look, tokens, rows_before, drawn, noted)
    if classes:
        known.update(of_ids([row.ids for row in rows], vocabulary))
    elif rows:
        known.update(_of_rows(rows, drawn, vocabulary))
        limits = noted.limits | ({drawn.limit} if drawn.limit is not None else set())
        known.update(of_cut(rows, limits, drawn.tokenizer))
        if known.get("truncated_ratio", 0.0) > MOST_CUT:
            for name in ("duplicate_rows", "conflicting_rows"):
                known.pop(name, None)
    if compared:  # two answers to a prompt are what such a method compares
        for name in ("duplicate_rows", "conflicting_rows", "eos_supervised_ratio"):
            known.pop(name, None)
    known.update(_overlap(drawn))
    known.update(_new_tokens(rows, drawn))
    return DataFacts(**known), _batch_facts(look, tokens, rows_before, drawn, noted)


def _new_tokens(rows: Sequence[Row], drawn: Drawn) -> dict[str, Any]:
    """Tokens of the rows whose embeddings the script added, and whether anything trains these."""
    old = getattr(drawn.config, OLD_VOCABULARY, None)
    if old is None or drawn.model is None:
        return {}
    new = sum(token >= old for row in rows for token in row.ids)
    names = ("embed_tokens", "wte", "embed_in", "word_embeddings", "trainable_tokens")
    trained = any(
        parameter.requires_grad and any(part in name for part in names)
        for name, parameter in drawn.model.named_parameters()
    )
    return {"new_tokens": new, "new_tokens_trained": trained}


def _with_labels(batch: Mapping[str, Any]) -> dict[str, Any]:
    """TRL's preference trainers say what is learnt by a mask of the answers."""
    found = dict(batch)
    mask, ids = found.get("completion_mask"), found.get("input_ids")
    if found.get("labels") is None and isinstance(mask, torch.Tensor) and isinstance(ids, torch.Tensor):
        found["labels"] = torch.where(mask.bool(), ids, torch.full_like(ids, IGNORED))
    return found


def _is_tokens(batch: Mapping[str, Any]) -> bool:
    ids = batch.get("input_ids")
    return isinstance(ids, torch.Tensor) and ids.dim() in (2, 3) and not ids.is_floating_point()


def _of_rows(rows: Sequence[Row], drawn: Drawn, vocabulary: int | None) -> dict[str, Any]:
    known = of_labels(rows, vocabulary, 0) | of_texts(rows, None, drawn.tokenizer)
    known.pop("truncated_ratio", None)  # the script has cut what it cuts
    lengths, width = histogram([len(row.ids) for row in rows])
    counted = sum(label != IGNORED for row in rows for label in row.labels)
    tokens = sum(len(row.ids) for row in rows)
    known |= {"lengths": lengths, "lengths_bin": width, "trained_ratio": min(1.0, counted / tokens) if tokens else None}
    if drawn.tokenizer is None:
        return known
    known["shown"] = rows_shown(
        [Shown(row.ids, row.labels, len(row.ids), padding=row.padding) for row in rows], drawn.tokenizer
    )
    formed = [by_mask(row, drawn.tokenizer) for row in rows]
    known.update(facts_of_texts(formed))
    return known


def _batch_facts(
    look: BatchLook, batches: Sequence[Mapping[str, Any]], rows: Sequence[Mapping[str, Any]], drawn: Drawn, noted: Noted
) -> BatchFacts | None:
    facts = without_repeats(look.facts())
    if facts is None:
        return None
    changes: dict[str, Any] = {"collator": noted.named(drawn.collator)}
    if not drawn.shifts:
        changes |= {"labels_shifted": None, "labels_other_ratio": None}
    by_hand = masked_by_hand(rows)
    if facts.trained_tokens is not None and not any("completion_mask" in batch for batch in batches):
        changes["labels_by"], remade = _labels_by(rows, drawn, noted)
        if by_hand is not None and remade is not None:
            changes["mask_by_hand_ratio"] = by_hand
            changes["mask_discarded"] = remade and by_hand > 0 and (facts.trained_ratio or 0.0) >= 0.999
    return facts.model_copy(update=changes)


def _token_labels(row: Mapping[str, Any]) -> bool:
    labels, ids = row.get("labels"), row.get("input_ids")
    try:
        return labels is not None and ids is not None and len(labels) == len(ids)
    except TypeError:  # a class
        return False


def _labels_by(rows: Sequence[Mapping[str, Any]], drawn: Drawn, noted: Noted) -> tuple[str | None, bool | None]:
    """(whose the labels are, whether the collator made others than the data set's); None where that cannot be known.

    Held against each other are the first rows of the data set and what the collator makes of them.
    """
    own = next((row for row in rows if _token_labels(row)), None)
    mapped = noted.makers.get("labels")
    of_data = f"the mapped function {mapped}" if mapped is not None else "the data set's own column"
    if drawn.collator is None:
        return (of_data, None) if own is not None else (None, None)
    try:
        batch = drawn.collator([dict(row) for row in rows[:_COMPARED_ROWS]])
        labels = batch["labels"].tolist() if "labels" in batch else None
        ids = batch["input_ids"].tolist()
    except Exception:  # a collator that takes something else
        return None, None
    if labels is None:
        return "the training loop itself", own is not None
    if own is not None and all(_as_they_were(*each) for each in zip(rows, labels, ids, strict=False)):
        return of_data, False
    return f"the collator {noted.named(drawn.collator)}", own is not None


def _as_they_were(row: Mapping[str, Any], labels: Sequence[int], ids: Sequence[int]) -> bool:
    """Whether a collator left the labels of a row as they were, but for padding."""
    kept, size = [int(token) for token in row["input_ids"]], len(row["input_ids"])
    there = labels[:size] if ids[:size] == kept else labels[-size:] if ids[-size:] == kept else None
    return there is not None and list(there) == [int(label) for label in row["labels"]]


def _overlap(drawn: Drawn) -> dict[str, Any]:
    """Evaluation rows whose ids are those of a training row."""
    if drawn.evaluated is None or drawn.dataset is None or isinstance(drawn.evaluated, dict):
        return {}
    known = {_identity(row) for row in _first_rows(drawn.dataset, 20_000)}
    asked = [_identity(row) for row in _first_rows(drawn.evaluated, 256)]
    known.discard(None)
    asked = [each for each in asked if each is not None]
    if not known or not asked:
        return {}
    return {"evaluation_rows": len(asked), "evaluation_rows_in_training": sum(each in known for each in asked)}


def _identity(row: Mapping[str, Any]) -> str | None:
    ids = row.get("input_ids")
    if ids is not None:
        return str([int(each) for each in ids])
    parts = {
        name: row[name] for name in ("prompt", "chosen", "rejected", "completion", "text", "messages") if name in row
    }
    return str(parts) if parts else None


def _first_rows(dataset: Any, most: int = ROWS) -> list[Mapping[str, Any]]:
    """Rows as the collator is given them; none of a data set that cannot be read in that way."""
    if dataset is None:
        return []
    try:
        found = list(islice(_each(dataset), most))
    except Exception:  # the loader has said what is wrong
        return []
    return [row for row in found if isinstance(row, Mapping)]


def _each(dataset: Any) -> Iterator[Any]:
    if hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__"):
        return (dataset[index] for index in range(len(dataset)))
    return iter(dataset)


def _columns(dataset: Any) -> list[str] | None:
    columns = getattr(dataset, "column_names", None)
    return list(columns) if isinstance(columns, list) else None


def _length(dataset: Any) -> int | None:
    try:
        return len(dataset)
    except TypeError:
        return None


def _vocabulary(config: Any) -> int | None:
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    rows = getattr(text, "vocab_size", None)
    return int(rows) if rows else None

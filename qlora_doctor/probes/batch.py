"""What a batch teaches: one function over what the model is given, for every stage that has a batch."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from ..core.labels import IGNORED
from ..facts.batch import BatchFacts
from .classes import Classes
from .mask_edges import MaskEdges
from .media import Media

_RUN = 4
"""Padding tokens in a row beyond which they are no text, whatever the mask says."""
_TAIL = 4
"""Labels at the end of a row among which the mark of a template's end stands."""
_SHOWN = 160
"""Characters of a row's text that a report shows."""


@dataclass
class BatchLook:
    """Looks at batches one after the other; ``facts`` may be asked for at any time.

    Args:
        tokenizer: the one that made the ids, for its special tokens and to show a text; None where there is none.
        config: the model's config, for placeholders of media and a padding id; None where there is none.
        limit: tokens that rows are cut at; None where it is not known.
    """

    tokenizer: Any = None
    config: Any = None
    limit: int | None = None
    digests: list[str] = field(default_factory=list)
    """One of each batch, of its ids."""
    _count: dict[str, int] = field(default_factory=dict)
    _lengths: list[int] = field(default_factory=list)
    _sizes: list[int] = field(default_factory=list)
    """Tokens of text in each row."""
    _seen: set[bytes] = field(default_factory=set)
    _labels: bool | None = None
    _unlabelled: list[tuple[torch.Tensor, torch.Tensor]] = field(default_factory=list)
    """Ids and padding of the batches without labels."""
    _text: str | None = None
    _edges: MaskEdges = field(default_factory=MaskEdges)

    def __post_init__(self) -> None:
        self._media, self._classes = Media(self.config), Classes(self.config)

    def look(self, batch: Mapping[str, Any]) -> None:
        """Take in one batch: a mapping with ``input_ids`` of shape (rows, length). Anything else is passed over."""
        ids, labels = batch.get("input_ids"), batch.get("labels")
        if isinstance(ids, torch.Tensor) and ids.dim() == 3 and not ids.is_floating_point():
            self._add(batches=1, rows=len(ids), of_tensors=1)
        if not isinstance(ids, torch.Tensor) or ids.dim() != 2 or not ids.numel():
            return
        ids = ids.detach().cpu()
        mask = batch.get("attention_mask")
        whole = isinstance(mask, torch.Tensor) and mask.shape == ids.shape
        if whole:
            padding = mask.detach().cpu() == 0  # type: ignore[union-attr]
            padding = padding | self._let_through(ids, padding)
        else:
            padding = self._padded(ids)
            if mask is None:  # a model that is given none takes every token for text
                self._let_through(ids, torch.zeros_like(padding))
            self._add(unsure_ends=bool(self._pad_is_eos()))
        self.digests.append(hashlib.blake2b(ids.numpy().tobytes(), digest_size=8).hexdigest())
        self._lengths.append(int(ids.shape[1]))
        self._add(batches=1, rows=len(ids), positions=ids.numel(), padding=int(padding.sum()))
        self._rows(ids, padding)
        labels = labels.detach().cpu() if isinstance(labels, torch.Tensor) else None
        of_tokens = labels is not None and labels.shape == ids.shape
        self._media.look(batch, ids, labels if of_tokens else None)
        if labels is None:
            self._unlabelled.append((ids, padding))
            return
        if of_tokens:
            self._labels = True
            self._look_at_labels(ids, labels, padding)
        elif labels.shape[:1] == ids.shape[:1] and labels.numel() == len(ids) and not labels.is_floating_point():
            self._classes.look(ids, labels.reshape(-1), padding)

    def learn(self, ids: torch.Tensor, labels: torch.Tensor) -> None:
        """The labels of a batch that was given none, of the same shape as its ids."""
        for place, (seen, padding) in enumerate(self._unlabelled):
            if torch.equal(seen, ids):
                del self._unlabelled[place]
                self._labels = True
                self._look_at_labels(ids, labels, padding)
                return

    def facts(self) -> BatchFacts | None:
        """What all batches together show; None before the first."""
        count = self._count
        if not count.get("batches"):
            return None
        if count.get("of_tensors"):
            return BatchFacts(batches=count["batches"], rows=count["rows"], dimensions=3, unfit=True)
        tokens = count["positions"] - count["padding"]
        known: dict[str, Any] = {
            "batches": count["batches"],
            "rows": count["rows"],
            "length_min": min(self._lengths),
            "length_max": max(self._lengths),
            "dimensions": 2,
            "tokens": tokens,
            "padding_ratio": count["padding"] / count["positions"],
            "duplicate_rows": count.get("duplicates", 0),
            "pad_is_eos": self._pad_is_eos(),
            "text": self._text,
        }
        if count.get("masked"):
            known["padding_let_through"] = count.get("let_through", 0)
            known["padding_attended"] = count.get("attended", 0) > 0
        if self.limit is not None and self._special("eos_token_id") is not None:
            known.update(limit=self.limit, rows_cut=count.get("cut", 0))
        if self._special("bos_token_id") is not None:
            known["two_bos_rows"] = count.get("two_bos", 0)
        if self._labels:
            known.update(self._label_facts(tokens))
        media, classes = self._media.facts(), self._classes.facts()
        stops = media.get("media_given") and media.get("media_tokens", media["placeholders"]) != media["placeholders"]
        stops = stops or classes.get("class_labels_out_of_range", 0) > 0 or classes.get("classifier_pad") == "none"
        return BatchFacts(**known, **media, **classes, unfit=bool(stops))

    def _label_facts(self, tokens: int) -> dict[str, Any]:
        count = self._count
        counted = count.get("counted", 0)
        known: dict[str, Any] = {
            "trained_tokens": counted,
            "trained_ratio": min(1.0, count.get("counted_text", 0) / tokens) if tokens else None,
            "rows_untrained": count.get("untrained", 0),
            "rows_fully_trained": count.get("fully", 0),
            "rows_one_token": count.get("one", 0),
            "labels_on_padding": count.get("on_padding", 0),
            "ends_trained": count.get("ends_trained", 0),
            "ends_untrained": count.get("ends_untrained", 0),
            "mask_misplaced": self._edges.told(),
        }
        longest = max(self._sizes, default=0)
        if self._sizes and not count.get("unsure_ends") and 2 * self._sizes.count(longest) <= len(self._sizes):
            known["ends_missing"] = count.get("ends_missing", 0)
        if counted:
            known["labels_on_padding_ratio"] = count.get("on_padding", 0) / counted
            real = counted - count.get("on_padding", 0)
            known["labels_other_ratio"] = count.get("other", 0) / real if real else None
            # Repeated tokens are equal at both places; what tells the two apart are those that are equal at one.
            moved = count.get("next_only", 0)
            known["labels_shifted"] = moved > count.get("other", 0) and count.get("same_only", 0) <= 0.02 * moved
        return known

    # -- one batch

    def _rows(self, ids: torch.Tensor, padding: torch.Tensor) -> None:
        bos, eos = self._special("bos_token_id"), self._special("eos_token_id")
        duplicates = two_bos = cut = 0
        for row, text in zip(ids.numpy(), (~padding).numpy(), strict=True):
            tokens = row[text]
            digest = hashlib.blake2b(tokens.tobytes(), digest_size=16).digest()
            duplicates += digest in self._seen
            self._seen.add(digest)
            cut += len(tokens) == self.limit and int(tokens[-1]) != eos
            two_bos += bos is not None and tokens[:2].tolist() == [bos, bos]
        self._add(duplicates=duplicates, two_bos=two_bos, cut=cut)

    def _look_at_labels(self, ids: torch.Tensor, labels: torch.Tensor, padding: torch.Tensor) -> None:
        counted = labels != IGNORED
        self._add(
            counted=int(counted.sum()),
            counted_text=int((counted & ~padding).sum()),
            on_padding=int((counted & padding).sum()),
        )
        real = counted & ~padding
        here = labels == ids
        after = torch.zeros_like(here)
        after[:, :-1] = labels[:, :-1] == ids[:, 1:]
        last = torch.zeros_like(here)
        last[:, -1] = True  # the next token of the last position is not in the batch
        self._add(
            same_only=int((real & here & ~after & ~last).sum()),
            next_only=int((real & after & ~here & ~last).sum()),
            other=int((real & ~here & ~after & ~last).sum()),
        )
        self._label_rows(ids, counted, padding)

    def _label_rows(self, ids: torch.Tensor, counted: torch.Tensor, padding: torch.Tensor) -> None:
        eos = self._special("eos_token_id")
        text = ~padding
        sizes, numbers = text.sum(1), counted.sum(1)
        full = sizes > 0
        whole = (counted | padding).all(1)
        self._add(
            untrained=int((full & (numbers == 0)).sum()),
            fully=int((full & whole).sum()),
            one=int((full & (numbers == 1) & (sizes > 8)).sum()),
        )
        if eos is not None:
            end = (ids.shape[1] - 1 - text.flip(1).int().argmax(1)).unsqueeze(1)
            ends = full & (numbers > 0) & (ids.gather(1, end)[:, 0] == eos)
            kept = int((ends & counted.gather(1, end)[:, 0]).sum())
            self._add(ends_trained=kept, ends_untrained=int(ends.sum()) - kept)
        if self.tokenizer is not None:
            self._sizes += sizes.tolist()
            last = counted & (counted.flip(1).cumsum(1).flip(1) <= _TAIL)
            ended = (last & torch.isin(ids, self._marks.to(ids))).any(1)
            if eos is not None:
                ended |= (text & (ids == eos)).any(1)
            self._add(ends_missing=int((full & (numbers > 0) & ~ended).sum()))
            self._edges.look(ids, counted, padding, self.tokenizer)
        if self._text is None and self.tokenizer is not None:
            first = next((index for index, has_text in enumerate(full.tolist()) if has_text), None)
            if first is not None:
                self._text = self._shown(ids[first][text[first]], counted[first][text[first]])

    def _shown(self, ids: torch.Tensor, trained: torch.Tensor) -> str | None:
        """The text of a row with what is trained between ‹ and ›; None where the tokenizer cannot tell."""
        parts: list[str] = []
        position, size = 0, len(ids)
        try:
            while position < size and sum(map(len, parts)) < _SHOWN:
                end = position
                while end < size and bool(trained[end]) == bool(trained[position]):
                    end += 1
                text = self.tokenizer.decode(ids[position:end].tolist())
                text = text if len(text) <= _SHOWN else f"{text[: _SHOWN // 2]} … {text[-_SHOWN // 2 :]}"
                parts.append(f"‹{text}›" if bool(trained[position]) else text)
                position = end
        except Exception:  # a tokenizer of another model meets ids that it does not know
            return None
        return "".join(parts)

    # -- what the tokenizer and the config say

    def _padded(self, ids: torch.Tensor) -> torch.Tensor:
        """Padding without a mask: the run of padding tokens at an end; one of them may be the text's own end token."""
        pad = self._special("pad_token_id")
        found = torch.zeros_like(ids, dtype=torch.bool)
        if pad is None:
            return found
        is_pad = ids == pad
        trailing, leading = _runs(is_pad.flip(1)), _runs(is_pad)
        length = ids.shape[1]
        kept = 1 if self._pad_is_eos() else 0
        place = torch.arange(length)
        behind = torch.where(trailing > kept, length - trailing + kept, length)
        found |= place >= behind.unsqueeze(1)
        begins = (leading < length) & ((leading > 1) | (self._special("bos_token_id") != pad))
        found |= (place < leading.unsqueeze(1)) & begins.unsqueeze(1)
        return found

    def _let_through(self, ids: torch.Tensor, padding: torch.Tensor) -> torch.Tensor:
        """Padding that the mask calls text: a long run of padding tokens at an end of an unmasked row."""
        found = self._padded(ids)
        found[padding.any(dim=1)] = False
        long = found.sum(dim=1) >= _RUN
        found[~long | found.all(dim=1)] = False
        before = bool(found[:, 0].any())
        self._add(let_through=int(found.sum()), attended=int(before), masked=1)
        return found

    def _special(self, name: str) -> int | None:
        for source in (self.tokenizer, getattr(self.tokenizer, "tokenizer", None)):
            value = getattr(source, name, None) if source is not None else None
            if isinstance(value, int):
                return value
        value = getattr(self.config, name, None)
        return value if isinstance(value, int) else None

    @functools.cached_property
    def _marks(self) -> torch.Tensor:
        """The ids of special tokens, and of those that were added to the vocabulary."""
        inner = getattr(self.tokenizer, "tokenizer", self.tokenizer)
        known = {
            self._special("eos_token_id"),
            *getattr(inner, "all_special_ids", ()),
            *getattr(inner, "added_tokens_decoder", ()),
        }
        return torch.tensor(sorted(mark for mark in known if mark is not None), dtype=torch.long)

    def _pad_is_eos(self) -> bool | None:
        pad, eos = self._special("pad_token_id"), self._special("eos_token_id")
        return None if pad is None or eos is None else pad == eos

    def _add(self, **numbers: int) -> None:
        for name, number in numbers.items():
            self._count[name] = self._count.get(name, 0) + number


def look_at_batches(batches: Sequence[Mapping[str, Any]], tokenizer: Any = None, config: Any = None) -> BatchFacts:
    """The facts of batches as the model is given them.

    Args:
        batches: mappings of tensors with ``input_ids`` (rows, length), ``attention_mask`` and ``labels`` of that shape.
        tokenizer: the one that made the ids, or None.
        config: the model's config, or None.
    """
    look = BatchLook(tokenizer, config)
    for batch in batches:
        look.look(batch)
    return look.facts() or BatchFacts(batches=0)


def _runs(marks: torch.Tensor) -> torch.Tensor:
    """How many elements at the beginning of each row of marks are true."""
    return marks.int().cumprod(1).sum(1)

"""Where the masks of prompts end: behind the prompt, or at a place that was counted in something else than tokens."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import torch

_ROWS = 32
"""Rows that are decoded."""
_ENOUGH, _LENGTHS = 6, 2
"""Rows, and different lengths of their masks, below which nothing is said."""
_MARK = 3
"""Characters that the prompts end in alike, by which a prompt's end is known."""
_ENDS = re.compile(r"[^\w\s]\s*\Z|\n\s*\Z")
"""How a prompt ends: in a sign (``Answer: ``, ``[/INST]``) or a new line, and not within a sentence."""
_MOST = 0.9


@dataclass
class MaskEdges:
    """The texts before the end of each row's first masked part, under three readings of its length.

    Prompts of one form end alike (``Answer: ``). Where the texts before the mask's end do not, and those do that have
    as many *characters* as the mask has tokens, it was counted in characters; where those do that have as many tokens
    of the text as the mask has positions with the padding before it, it was put on a row padded on the left.
    """

    _before: dict[str, list[str]] = field(default_factory=lambda: {"none": [], "characters": [], "padding": []})
    _lengths: set[int] = field(default_factory=set)

    def look(self, ids: torch.Tensor, counted: torch.Tensor, padding: torch.Tensor, tokenizer: Any) -> None:
        """Take in a batch: ids, labels that count, padding, each of shape (rows, length)."""
        for row, trained, pads in zip(ids, counted, padding, strict=True):
            if len(self._before["none"]) >= _ROWS:
                return
            text = ~pads
            first = int(text.int().argmax())
            behind = trained.int().argmax()  # the first label that counts, padding before the text included
            masked = int(behind)
            if not bool(trained.any()) or masked == 0 or (masked == first and first > 0 and not _on(trained, pads)):
                continue
            tokens = row[text].tolist()
            self._take(tokens, masked, max(0, masked - first), tokenizer)

    def _take(self, tokens: list[int], masked: int, of_text: int, tokenizer: Any) -> None:
        begins = tokens[:1] == [getattr(tokenizer, "bos_token_id", None)]
        try:
            whole = tokenizer.decode(tokens[1:] if begins else tokens)
            self._before["none"].append(tokenizer.decode(tokens[:of_text]))
            self._before["characters"].append(whole[:masked])
            self._before["padding"].append(tokenizer.decode(tokens[:masked]))
        except Exception:  # a tokenizer of another model meets ids that it does not know
            return
        self._lengths.add(masked)

    def told(self) -> str | None:
        """What the rows show; see ``BatchFacts.mask_misplaced``."""
        texts = self._before["none"]
        if len(texts) < _ENOUGH:
            return None
        if sum(_ENDS.search(text) is not None for text in texts) >= _MOST * len(texts):
            return "none"
        if len(self._lengths) < _LENGTHS:
            return None
        found = (name for name in ("characters", "padding") if _end_alike(self._before[name]))
        return next(found, None)


def _on(trained: torch.Tensor, pads: torch.Tensor) -> bool:
    return bool((trained & pads).any())


def _end_alike(texts: list[str]) -> bool:
    """Whether texts end in the same few characters, and as a prompt does."""
    mark = texts[0][-_MARK:]
    return len(mark) == _MARK and all(text.endswith(mark) and _ENDS.search(text) for text in texts)

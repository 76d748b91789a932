"""Images, video and sound of a batch: their placeholders among the ids, and what is to be put in their place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from ..core.labels import IGNORED

_GIVEN = ("pixel_values", "pixel_values_videos", "input_features", "input_values", "images")
"""Arguments that bring what placeholders stand for."""
_PLACEHOLDERS = ("image_token_id", "image_token_index", "video_token_id", "video_token_index", "audio_token_id",
                 "audio_token_index")  # fmt: skip
_GRIDS_OF_THEIR_OWN = ("hunyuan_vl", "inkling2", "ernie4_5_vl_moe")
"""Model types whose grids stand for another number of tokens than patches over merged patches."""


class Media:
    """Counts over batches.

    Args:
        config: of the model; None where it is not known.
    """

    def __init__(self, config: Any) -> None:
        self._config = config
        values = [getattr(config, name, None) for name in _PLACEHOLDERS]
        self.placeholders = sorted({value for value in values if isinstance(value, int) and value >= 0})
        self._ids = torch.tensor(self.placeholders)
        self._count = self._trained = 0
        self._given = self._labelled = False
        self._images: list[int] = []
        self._told = True

    def look(self, batch: Mapping[str, Any], ids: torch.Tensor, labels: torch.Tensor | None) -> None:
        """Take in a batch with its ids, and its labels of their shape, on the CPU."""
        self._given = self._given or any(batch.get(name) is not None for name in _GIVEN)
        if not self.placeholders:
            return
        placed = torch.isin(ids, self._ids)
        self._count += int(placed.sum())
        if labels is not None:
            self._labelled = True
            self._trained += int((placed & (labels != IGNORED)).sum())
        sizes = self._sizes(batch)
        self._told = self._told and sizes is not None
        self._images += sizes or []

    def facts(self) -> dict[str, Any]:
        """Fields of ``BatchFacts``; nothing of a model without placeholders."""
        if not self.placeholders:
            return {}
        known: dict[str, Any] = {"placeholders": self._count, "media_given": self._given}
        if self._labelled:
            known["labels_on_placeholders"] = self._trained
        if self._told:
            known |= {"media_tokens": sum(self._images), "image_tokens_max": max(self._images, default=0)}
        return known

    def _sizes(self, batch: Mapping[str, Any]) -> list[int] | None:
        """Tokens of each image and video of a batch, after the vision tower and its merging; None where unknown."""
        if getattr(self._config, "model_type", None) in _GRIDS_OF_THEIR_OWN:
            return None
        sizes: list[int] = []
        vision = getattr(self._config, "vision_config", None)
        for name in _GIVEN:
            values = batch.get(name)
            grids = batch.get({"pixel_values": "image_grid_thw", "pixel_values_videos": "video_grid_thw"}.get(name, ""))
            if values is None:
                continue
            merge, fixed = getattr(vision, "spatial_merge_size", None), self._fixed()
            if isinstance(grids, torch.Tensor) and grids.dim() == 2 and isinstance(merge, int):
                sizes += [int(each) // merge**2 for each in grids.prod(dim=1).tolist()]
            elif name == "pixel_values" and fixed is not None and getattr(values, "ndim", 0) == 4:
                sizes += [fixed] * len(values)
            else:
                return None
        return sizes

    def _fixed(self) -> int | None:
        """Tokens of any one image, of a model that brings all to one size."""
        config, kind = self._config, getattr(self._config, "model_type", None)
        vision, text = (getattr(config, name, None) for name in ("vision_config", "text_config"))
        if kind in ("llava", "vipllava") and getattr(vision, "model_type", None) == "clip_vision_model":
            whole = getattr(config, "vision_feature_select_strategy", "default") == "full"
            return int((vision.image_size // vision.patch_size) ** 2) + whole  # type: ignore[union-attr]
        found = {"gemma3": (config, "mm_tokens_per_image"), "paligemma": (text, "num_image_tokens")}.get(str(kind))
        value = getattr(*found, None) if found is not None else None
        return value if isinstance(value, int) and value > 0 else None

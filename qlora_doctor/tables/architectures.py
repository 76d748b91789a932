"""A bundled table of well-known architectures, so that gated models and offline machines work.

The hub is not always there: a model may be gated, a machine may have no network. What the structure and
memory stages need of a model is only its configuration, and for the checkpoints people fine-tune most that is
known. The table (`architectures.json`) gives it by hub id: a config as in the checkpoint's config.json,
cut to what builds the model, with the published parameter count that shows it to be right.

Light: reads JSON with the standard library on first use, imports no torch and no transformers.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, overload

from ..core.closest import closest

__all__ = ["ARCHITECTURE_IDS", "Architecture", "all_ids", "closest_architectures", "find_architecture"]


@dataclass(frozen=True)
class Architecture:
    """What is known of one checkpoint.

    `config` is ready for `AutoConfig.for_model(config.pop("model_type"), **config)` or to be written as
    config.json; it belongs to the caller, who may change it. A checkpoint stored in 4 bits has its
    `quantization_config` in it.
    """

    id: str
    """The hub id that was asked for, in the spelling of the hub."""
    base_id: str
    """The id of the table's entry that it belongs to; the same as `id` unless `id` is an alias."""
    aliases: tuple[str, ...]
    """The other hub ids with this architecture: instruct versions, mirrors, 4-bit versions."""
    config: dict[str, Any] = field(repr=False)
    """As in the checkpoint's config.json, cut to what builds the model."""
    dtype: str
    """Of the checkpoint, for one stored in 4 bits of what is left: `bfloat16`, `float16` or `float32`."""
    published_parameters: int
    """Logical parameters: a tied weight counts once, a 4-bit weight counts its elements."""
    published_tolerance: int
    """Half a unit of the last published digit; 0 where the exact count was published."""
    published_source: str
    """Where the count was published."""
    published_note: str | None
    """How the published figure was read, where it is not the plain total."""
    prequantized: bool
    """The checkpoint itself is quantized: its own quantization_config wins over the user's."""

    @property
    def context_length(self) -> int | None:
        """Tokens that the position embeddings are made for, or None where the config sets no limit."""
        for config in (self.config, self.config.get("text_config", {})):
            for key in ("max_position_embeddings", "n_positions"):
                if isinstance(value := config.get(key), int):
                    return value
        return None


def find_architecture(model_id: str) -> Architecture | None:
    """The architecture of a hub id in any letter case, or None for an id that the table does not know."""
    found = _index().get(model_id.strip().casefold())
    if found is None:
        return None
    entry, spelling = found
    return _architecture(entry, spelling)


def closest_architectures(model_id: str, n: int = 3) -> list[str]:
    """At most `n` known hub ids like `model_id`, the closest first; for a message, never for a guess."""
    asked = model_id.strip().casefold()
    by_name: dict[str, str] = {}
    for key, (_, spelling) in _index().items():
        by_name.setdefault(key.rpartition("/")[2], spelling)
    whole = [_index()[key][1] for key in closest(asked, _index(), n=n)]
    # A wrong owner before a right name ("llama/Llama-2-7b-hf") spoils the whole: compare names alone as well.
    name = asked.rpartition("/")[2]
    named = [by_name[key] for key in closest(name, by_name, n=n, cutoff=0.8)]
    return list(dict.fromkeys(whole + named))[:n]


def all_ids() -> list[str]:
    """Every hub id of the table in the hub's spelling, aliases too."""
    return [spelling for _, spelling in _index().values()]


class _Ids(Sequence[str]):
    """The ids of the table's entries, read from the file on first use."""

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[str]: ...
    def __getitem__(self, index: int | slice) -> str | Sequence[str]:
        return _entry_ids()[index]

    def __len__(self) -> int:
        return len(_entry_ids())

    def __iter__(self) -> Iterator[str]:
        return iter(_entry_ids())

    def __repr__(self) -> str:
        return f"ARCHITECTURE_IDS({len(self)} ids)"


ARCHITECTURE_IDS: Sequence[str] = _Ids()
"""The hub id of each entry, without aliases, in the order of the table (by family)."""


def _architecture(entry: dict[str, Any], spelling: str) -> Architecture:
    variant = {"quantization": entry.get("quantization"), **entry.get("variants", {}).get(spelling, {})}
    quantization = variant.pop("quantization")
    dtype: str = variant.pop("torch_dtype", entry["dtype"])
    config = copy.deepcopy({**entry["config"], **variant, "torch_dtype": dtype})
    if quantization is not None:
        config["quantization_config"] = copy.deepcopy(_table()["quantizations"][quantization])
    return Architecture(
        id=spelling,
        base_id=entry["id"],
        aliases=tuple(other for other in (entry["id"], *entry["aliases"]) if other != spelling),
        config=config,
        dtype=dtype,
        published_parameters=entry["published_parameters"],
        published_tolerance=entry["published_tolerance"],
        published_source=entry["published_source"],
        published_note=entry.get("published_note"),
        prequantized=quantization is not None,
    )


@cache
def _table() -> dict[str, Any]:
    text = Path(__file__).with_name("architectures.json").read_text("utf-8")
    table: dict[str, Any] = json.loads(text)
    return table


@cache
def _entry_ids() -> tuple[str, ...]:
    return tuple(entry["id"] for entry in _table()["architectures"])


@cache
def _index() -> dict[str, tuple[dict[str, Any], str]]:
    """Case-folded hub id → (entry, the hub's spelling)."""
    return {
        spelling.casefold(): (entry, spelling)
        for entry in _table()["architectures"]
        for spelling in (entry["id"], *entry["aliases"])
    }

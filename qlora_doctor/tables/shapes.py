"""Of which kind a trainer's own schema takes the value of a key: committed tables, from the trainers' schemas.

``benchmarks/field/list_shapes.py`` writes them by trying values of each kind on each field, so that what the schema
converts (a number in a text, a truth value where a whole number stands) is known as well.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

_TRUTHS = {"true", "false", "yes", "no", "on", "off", "1", "0", "t", "f", "y", "n"}
"""Texts that pydantic takes as a truth value."""
_WORDS = {
    "bool": "true or false",
    "int": "a whole number",
    "share": "a number",
    "text": "a text",
    "list": "a list",
    "mapping": "a mapping",
}


@dataclass(frozen=True)
class Shape:
    """What one key takes.

    Attributes:
        kinds: of ``bool``, ``int``, ``share`` (a number with a fraction), ``text``, ``list``, ``mapping``.
        words: single texts that it takes as well.
        starts: beginnings of texts that it takes as well.
    """

    kinds: frozenset[str]
    words: tuple[str, ...] = ()
    starts: tuple[str, ...] = ()

    @classmethod
    def of(cls, written: str) -> Shape:
        """A shape as the table has it: kinds, ``=word``, ``~beginning``."""
        parts = written.split()
        return cls(
            frozenset(part for part in parts if part[0] not in "=~"),
            tuple(part[1:] for part in parts if part.startswith("=")),
            tuple(part[1:] for part in parts if part.startswith("~")),
        )

    def takes(self, value: Any) -> bool:
        """Whether the schema takes a value, as far as its kind decides."""
        if value is None:
            return True
        if isinstance(value, bool):
            return "bool" in self.kinds
        if isinstance(value, int | float):
            return self._takes_number(value)
        if isinstance(value, str):
            return self._takes_text(value)
        if isinstance(value, list | dict):
            return ("list" if isinstance(value, list) else "mapping") in self.kinds
        return True  # a date, and whatever else YAML makes of a text

    def _takes_number(self, value: float) -> bool:
        if "share" in self.kinds or ("bool" in self.kinds and value in (0, 1)):
            return True
        return "int" in self.kinds and value == value // 1

    def _takes_text(self, value: str) -> bool:
        if "text" in self.kinds or value in self.words or value.startswith(self.starts or ("\0",)):
            return True
        if "bool" in self.kinds and value.lower() in _TRUTHS:
            return True
        try:
            return self._takes_number(float(value)) if self.kinds & {"int", "share"} else False
        except (ValueError, OverflowError):
            return False

    def sentence(self) -> str:
        """What it takes, in words."""
        number = "share" if "share" in self.kinds else "int"
        kinds = [kind for kind in _WORDS if kind in self.kinds and (kind not in ("int", "share") or kind == number)]
        if number in self.kinds and "bool" in kinds:
            kinds.remove("bool")  # a number in all but name
        words = [f"one of {', '.join(self.words)}"] if self.words else []
        return " or ".join([_WORDS[kind] for kind in kinds] + words)


@dataclass(frozen=True)
class Shapes:
    """A trainer's schema.

    Attributes:
        version: of the trainer.
        keys: by name; what is missing takes anything, or is judged by more than its kind.
        dataset: keys of an item of ``datasets``.
        dataset_items: by kind of training, what those keys take.
        dataset_type: keys of its ``type`` where that is a mapping.
        strategies: by kind of training, module → functions that a ``type`` may name.
        older_strategies: further types, each with a style after a colon.
    """

    version: str
    keys: dict[str, Shape]
    dataset: frozenset[str]
    dataset_items: dict[str, dict[str, Shape]]
    dataset_type: frozenset[str]
    strategies: dict[str, dict[str, frozenset[str]]]
    older_strategies: frozenset[str]


@lru_cache(maxsize=4)
def shapes(name: str) -> Shapes:
    """The schema of this trainer."""
    content = json.loads((Path(__file__).parent / "shapes" / f"{name}.json").read_text("utf-8"))
    return Shapes(
        version=content["version"],
        keys=_shapes(content["keys"]),
        dataset=frozenset(content["dataset"]),
        dataset_items={kind: _shapes(keys) for kind, keys in content["dataset_items"].items()},
        dataset_type=frozenset(content["dataset_type"]),
        strategies={
            kind: {module: frozenset(functions.split()) for module, functions in modules.items()}
            for kind, modules in content["strategies"].items()
        },
        older_strategies=frozenset(content["older_strategies"]),
    )


def _shapes(keys: dict[str, str]) -> dict[str, Shape]:
    return {key: Shape.of(written) for key, written in keys.items()}

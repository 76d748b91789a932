"""Which keys a trainer reads: committed lists of names, taken from the trainers' own sources.

``benchmarks/field/list_keys.py`` writes the lists; only facts are in them: names, and the version without a name.
"""

from __future__ import annotations

import difflib
import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

MOST_STRANGERS = 1000
"""Keys that mean nothing, as many as are told of one file."""
MOST_LIKENED = 100
"""Of these, how many are compared with the known ones: it takes a millisecond each."""


@dataclass(frozen=True)
class Removed:
    """A key that the trainer once read.

    Attributes:
        since: the first version without it.
        now: its new name, where there is one.
    """

    since: str | None
    now: str | None
    note: str | None

    def sentence(self, reader: str) -> str:
        """What became of it."""
        return self.note or f"{reader} does not know it since {self.since}."


@dataclass(frozen=True)
class KeyList:
    """What one trainer reads.

    Attributes:
        reader: the trainer.
        version: the version whose keys these are.
        refuses: it stops at a key that it does not know; otherwise such a key is ignored.
    """

    reader: str
    version: str
    refuses: bool
    names: frozenset[str]
    removed: dict[str, Removed]

    def closest(self, key: str) -> str | None:
        """The known key that looks most like this one."""
        return closest_of(key, self.names)

    def verdict(self, key: str) -> str:
        """What the trainer does with a key that it does not know."""
        does = "stops with an error at it" if self.refuses else "ignores it without a word"
        return f"{self.reader} {self.version} does not know {key} and {does}."


@lru_cache(maxsize=8192)  # a file that is edited is read again after each step
def closest_of(key: str, names: frozenset[str]) -> str | None:
    """The name that looks most like this one; None where none does."""
    found = difflib.get_close_matches(key, sorted(names), n=1, cutoff=0.75)
    return found[0] if found else None


@lru_cache(maxsize=32)
def key_list(name: str) -> KeyList:
    """The list of this name."""
    content = json.loads((Path(__file__).parent / "keys" / f"{name}.json").read_text("utf-8"))
    removed = {
        key: Removed(fate.get("since"), fate.get("now"), fate.get("note")) for key, fate in content["removed"].items()
    }
    return KeyList(content["reader"], content["version"], content["refuses"], frozenset(content["keys"]), removed)

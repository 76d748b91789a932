"""Which keys a trainer reads: committed lists of names, taken from the trainers' own sources.

``benchmarks/field/list_keys.py`` writes the lists; only facts are in them: names, and the version without a name.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from ..core.closest import closest, likeness

MOST_UNKNOWN_KEYS = 1000
"""Keys that mean nothing, as many as are reported of one file."""
MOST_SUGGESTIONS = 100
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
        does = "stops with an error at it" if self.refuses else "ignores it without a warning"
        return f"{self.reader} {self.version} does not know {key} and {does}."


@lru_cache(maxsize=8192)  # a file that is edited is read again after each step
def closest_of(key: str, names: frozenset[str]) -> str | None:
    """The name that looks most like this one; None where none does."""
    found = closest(key, sorted(names), n=4, cutoff=0.75)
    return next((name for name in found if _is_slip(key, name)), None)


_FILLERS = {"train", "training", "num", "per", "device", "max", "use", "enable", "is", "run", "the", "in", "n", "name"}
"""Words that say little: a name with one more or less of them is the same name."""


def _is_slip(key: str, name: str) -> bool:
    """True where one is the other with a slip of the pen; one more word that says something makes it another."""
    one, other = (re.split(r"[_\-.]", word.lower()) for word in (key, name))
    if len(one) == len(other):
        pairs = [(a, b) for a, b in zip(one, other, strict=True) if a != b]
        shortened = len(pairs) == 1 and (pairs[0][0].startswith(pairs[0][1]) or pairs[0][1].startswith(pairs[0][0]))
        return shortened or all(_same_word(a, b) for a, b in pairs)
    joined = "".join(one), "".join(other)
    if abs(len(joined[0]) - len(joined[1])) <= 2 and likeness(*joined) > 0.9:
        return True  # a separator more or less
    short, long = sorted((one, other), key=len)
    rest = [word for word in long if word not in short]
    return len(rest) == len(long) - len(short) and set(rest) <= _FILLERS


def _same_word(one: str, other: str) -> bool:
    """True for two spellings of one word: few letters differ, or one is a short form of the other."""
    if min(len(one), len(other)) >= 3 and (one.startswith(other) or other.startswith(one)):
        return True
    return likeness(one, other) >= (0.75 if min(len(one), len(other)) > 4 else 0.8)


@lru_cache(maxsize=32)
def key_list(name: str) -> KeyList:
    """The list of this name."""
    content = json.loads((Path(__file__).parent / "keys" / f"{name}.json").read_text("utf-8"))
    removed = {
        key: Removed(fate.get("since"), fate.get("now"), fate.get("note")) for key, fate in content["removed"].items()
    }
    return KeyList(content["reader"], content["version"], content["refuses"], frozenset(content["keys"]), removed)

"""Numbers and names as a reader wants them: one spelling for every format.

All functions are pure; ``None`` is never a number and becomes "unknown".
"""

from __future__ import annotations

import json
import math
import re
import textwrap
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

from ..core.numbers import UNKNOWN as UNKNOWN
from ..core.numbers import amount as amount
from ..core.numbers import exact as exact
from ..core.numbers import gib as gib
from ..core.numbers import number as number
from ..core.numbers import percent as percent
from ..core.numbers import seconds as seconds
from ..core.numbers import size as size

# Controls that reorder or break a line: shown as escapes, so that a name cannot disguise itself (UAX #9, section 2)
# or steer a terminal.
_BIDI = {*range(0x202A, 0x202F), *range(0x2066, 0x206A), 0x200E, 0x200F, 0x061C}
_BREAKS = {0x2028, 0x2029, 0x0085, 0xFEFF}
_NUMBER = re.compile(r"(?<=\.)\d+(?=\.|$)")


class _Shown(dict[int, int | str]):
    """Code point → itself, or how it is written out; worked out when a text has it."""

    def __missing__(self, code: int) -> int | str:
        control = code < 0x20 or 0x7F <= code < 0xA0
        hidden = control or 0xD800 <= code < 0xE000 or code in _BIDI or code in _BREAKS
        escape = f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
        self[code] = escape if hidden and code not in (0x09, 0x0A) else code
        return self[code]


_SHOWN = _Shown()


def visible(text: object) -> str:
    """The text with control characters and bidirectional overrides written out; tabs and newlines stay."""
    return str(text).translate(_SHOWN)


def wrapped(text: str, width: int) -> str:
    """The text in lines of at most ``width`` columns, and of no fewer than 40; no word is broken."""
    return "\n".join(textwrap.wrap(text, max(40, width), break_long_words=False, break_on_hyphens=False))


def clipped(text: str, most: int) -> str:
    """At most ``most`` characters of the text, the last one … where more was there."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def one_line(text: object) -> str:
    """The same on a single line."""
    return " ".join(visible(text).split())


def plural(count: int, noun: str) -> str:
    """``1 error``, ``2 errors``."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def layers(numbers: Iterable[int]) -> str:
    """Layer numbers as ranges: ``0–15, 20``; a regular step is written as such: ``0–78 in steps of 2``."""
    every = sorted(set(numbers))
    steps = {b - a for a, b in pairwise(every)}
    if len(every) > 2 and len(steps) == 1 and (step := steps.pop()) > 1:
        return f"{every[0]}–{every[-1]} in steps of {step}"
    runs: list[list[int]] = []
    for layer in every:
        if runs and layer == runs[-1][-1] + 1:
            runs[-1].append(layer)
        else:
            runs.append([layer])
    return ", ".join(f"{run[0]}–{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)


def kinds(names: Sequence[str], *, most: int = 4) -> str:
    """Module names with the layer's number as ``*`` and how many of each: ``model.layers.*.self_attn.q_proj (32)``."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(_NUMBER.sub("*", name), []).append(name)
    shown = [
        f"{one_line(kind)} ({len(members):,})" if len(members) > 1 else one_line(members[0])
        for kind, members in list(groups.items())[:most]
    ]
    rest = len(groups) - len(shown)
    return ", ".join(shown) + (f" and {plural(rest, 'other kind')}" if rest else "")


def fact(name: str, value: Any, *, most: int = 8) -> str:
    """A fact's value with the unit that its name tells; of a long list the first ``most`` and how many more."""
    leaf = name.rsplit(".", 1)[-1]
    plain_number = isinstance(value, int | float) and not isinstance(value, bool)
    if plain_number and leaf.endswith("bytes"):
        return f"{size(value)} ({value:,} bytes)"
    if plain_number and leaf.endswith("ratio"):
        return percent(value)
    return literal(value, most=most)


def literal(value: Any, *, most: int = 8) -> str:
    """A value as a config would write it, on one line."""
    if value is None:
        return UNKNOWN
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return number(value) if value != int_or(value) else f"{value:g}"
    if isinstance(value, int):
        return exact(value)
    if isinstance(value, str):
        return one_line(value)
    if isinstance(value, dict):
        return ", ".join(f"{one_line(key)}: {_member(str(key), each, most)}" for key, each in value.items())
    if isinstance(value, Sequence):
        return _listed(value, most)
    return one_line(json.dumps(value, default=str, ensure_ascii=False))


def _member(key: str, value: Any, most: int) -> str:
    """A member of a group: bytes as a size, for a list of groups is read and not computed with."""
    plain_number = isinstance(value, int | float) and not isinstance(value, bool)
    return size(value) if plain_number and key.endswith("_bytes") else literal(value, most=most)


def int_or(value: float) -> float:
    """The number itself where it is whole, else NaN, which equals nothing."""
    return value if math.isfinite(value) and value == int(value) else math.nan


def _listed(values: Sequence[Any], most: int) -> str:
    if not values:
        return "none"
    shown = [literal(value, most=most) for value in values[:most]]
    separator = "; " if any(isinstance(value, dict) for value in values[:most]) else ", "
    rest = len(values) - len(shown)
    return separator.join(shown) + (f" and {rest:,} more" if rest else "")

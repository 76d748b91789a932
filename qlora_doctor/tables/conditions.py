"""Conditions on the machine, for what a library refuses on some machines alone: ``torch < 2.7``, ``torch_npu``."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any, NewType

from ..core.versions import version_tuple

if TYPE_CHECKING:
    from ..facts.environment import EnvironmentFacts

Condition = NewType("Condition", str)
"""A package's name (it is installed), ``NAME < VERSION`` (it is installed and older; so ``<=`` and ``>=``),
``capability < NUMBER`` (the compute capability of the card that the run is meant for), ``gpus < NUMBER`` (of this
machine); or several of them, joined by ``and``."""
_CONDITION = re.compile(r"(\w+)(?: (<|<=|>=) (\d+(?:\.\d+)*))?\Z")
_COMPARED: dict[str, Callable[[Any, Any], bool]] = {"<": operator.lt, "<=": operator.le, ">=": operator.ge}
_UNRELEASED = re.compile(r"\d(?:a|b|rc|\.?dev)\d*")
_ALL = " and "
NO_TF32 = Condition("capability < 8")
TF32_REFUSED = (
    "tf32-on-older-card",
    "transformers stops: tf32 needs a card of compute capability 8.0 (Ampere) or later, and this one is older.",
)
"""Kind and note of a switch that TrainingArguments refuse on the cards of ``NO_TF32``."""


def is_so(condition: Condition, environment: EnvironmentFacts | None, card: Mapping[str, Any]) -> bool | None:
    """Whether a condition holds.

    Args:
        environment: this machine; None where nothing may be assumed about it.
        card: the facts of that card, ``gpu_capability``.

    Returns:
        None where it cannot be known.
    """
    each = [_is_so(part, environment, card) for part in condition.split(_ALL)]
    return False if False in each else None if None in each else True


def both(*conditions: str | None) -> Condition | None:
    """The condition that all of these hold; None is no condition."""
    return Condition(_ALL.join(condition for condition in conditions if condition)) or None


def under_pins(
    condition: Condition | None, pinned: Mapping[str, str], ranged: Collection[str] = ()
) -> Condition | None:
    """What is left of a condition where a project brings versions of its own, whatever is installed here.

    Args:
        condition: None is no condition.
        pinned: versions by package.
        ranged: packages of which the project keeps newer versions out, without naming one.

    Raises:
        Excluded: it does not hold of these versions, or cannot be known to.
    """
    left: list[str] = []
    for part in condition.split(_ALL) if condition else ():
        found = _CONDITION.match(part)
        assert found is not None, part
        name, comparison, limit = found.groups()
        if name in ranged and limit is not None:
            raise Excluded
        if name not in pinned:
            left.append(part)
        elif limit is not None and _compared(pinned[name], comparison, limit) is not True:
            raise Excluded
    return both(*left)


class Excluded(Exception):
    """A condition does not hold of the versions that a project pins."""


def _is_so(condition: str, environment: EnvironmentFacts | None, card: Mapping[str, Any]) -> bool | None:
    found = _CONDITION.match(condition)
    assert found is not None, condition
    name, comparison, limit = found.groups()
    if name == "capability":
        capability = card.get("gpu_capability")
        return None if capability is None else _COMPARED[comparison](capability, float(limit))
    if environment is None:
        return None
    if name == "gpus":
        return None if not environment.gpus else _COMPARED[comparison](len(environment.gpus), int(limit))
    installed = getattr(environment.packages, name)
    if limit is None:
        return installed is not None
    return _compared(installed, comparison, limit)


def _compared(installed: str | None, comparison: str, limit: str) -> bool | None:
    version, other = version_tuple(installed), version_tuple(limit)
    if installed is None or version is None or other is None:
        return None
    one, two = _plain(version), _plain(other)
    if one == two and comparison != "<" and _UNRELEASED.search(installed) is not None:
        return None  # on the way to this very version: what it has already is not known
    return _COMPARED[comparison](one, two)


def _plain(version: tuple[int, ...]) -> tuple[int, ...]:
    """Without the zeros at its end: 0.20 is 0.20.0."""
    kept = list(version)
    while kept and kept[-1] == 0:
        kept.pop()
    return tuple(kept)

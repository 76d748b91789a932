"""Budgets: the largest or least value that a team allows a fact, as Lighthouse CI's assertions.

A fact is named by its dotted path, ``memory.predicted.peak_allocated_bytes``. A list of numbers, such as the times of
steps, counts by its median; any other list by its length. What is held is reported by the rules QD520 and QD521.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ..core.errors import UsageError
from ..core.numbers import percent, size
from ..facts import Facts, subject_types
from ..facts.config import HeldBudget
from ..language.expression import Unknown
from ..language.fields import LanguageError, field_type
from ..language.values import lookup

Number = int | float


@dataclass(frozen=True)
class Budget:
    """A limit of one fact, in the fact's own unit: bytes, a ratio of 0…1, seconds, or a count."""

    fact: str
    max: Number | None = None
    min: Number | None = None
    level: Literal["error", "warning"] = "error"


def check_budget(budget: Budget) -> None:
    """Look whether there is such a fact.

    Raises:
        UsageError: there is not, or it is no number and no list.
    """
    try:
        kind = str(field_type(subject_types(), budget.fact))
    except LanguageError as error:
        raise UsageError(f"The budget of {budget.fact!r} is of no fact: {error}", remedy=_WHERE) from error
    if not any(word in kind for word in ("int", "float", "list")):
        raise UsageError(f"The budget of {budget.fact!r} is of a fact that is no number.", remedy=_WHERE)


_WHERE = "qlora-doctor schema facts lists the facts"


def hold(facts: Facts, budgets: Sequence[Budget]) -> dict[str, Any]:
    """The budgets with the facts' values, as fields of ``facts.config``.

    A list of broken budgets is None, unknown, where none is known to be broken and the value of one is unknown.
    """
    held = [_held(budget, facts) for budget in budgets]
    return {
        "budgets": held,
        "broken_budgets": _broken(held, "error"),
        "broken_budget_warnings": _broken(held, "warning"),
    }


def _broken(held: Sequence[HeldBudget], level: str) -> list[str] | None:
    mine = [each for each in held if each.level == level]
    broken = [each.sentence for each in mine if each.status == "broken"]
    return None if not broken and any(each.status == "unknown" for each in mine) else broken


def _held(budget: Budget, facts: Facts) -> HeldBudget:
    subjects: Mapping[str, Any] = {name: getattr(facts, name) for name in Facts.model_fields}
    value, said = lookup(subjects, budget.fact), f"{budget.fact} is unknown"
    number: Number | None = None
    status = "unknown"
    if value is not None and not isinstance(value, Unknown):
        number, note = _number(value)
        side, limit = _broken_side(budget, number)
        status = "broken" if side else "kept"
        against = f"{side} {_told(budget.fact, limit)}" if side else "within its budget"
        said = f"{budget.fact} is {_told(budget.fact, number)}{note}, {against}"
    return HeldBudget(
        fact=budget.fact,
        max=budget.max,
        min=budget.min,
        level=budget.level,
        value=number,
        status=status,
        sentence=said,
    )


def _broken_side(budget: Budget, number: Number) -> tuple[str, Number]:
    if budget.max is not None and not number <= budget.max:  # NaN is within no limit
        return "above", budget.max
    if budget.min is not None and not number >= budget.min:
        return "below", budget.min
    return "", 0


def _number(value: Any) -> tuple[Number, str]:
    """A fact as one number, and how it came about."""
    if isinstance(value, list):
        if value and all(isinstance(each, int | float) for each in value):
            note = f" (median of {len(value)}, from {min(value):.4g} to {max(value):.4g})"
            return statistics.median(value), note
        return len(value), " in number"
    if isinstance(value, Mapping):
        return len(value), " in number"
    return value, ""


def _told(fact: str, number: Number) -> str:
    leaf = fact.rsplit(".", 1)[-1]
    if leaf.endswith("bytes"):
        return f"{size(number)} ({number:,} bytes)"
    return percent(number) if leaf.endswith("ratio") else f"{number:,}"

"""Budgets of facts: limits, lists, units, and what is unknown."""

from __future__ import annotations

import math

import pytest

from qlora_doctor.core.errors import UsageError
from qlora_doctor.engine import judge, load_rules
from qlora_doctor.engine.budgets import Budget, check_budget, hold
from qlora_doctor.facts import Facts
from tests.reporters import fixtures

PEAK = "memory.predicted.peak_allocated_bytes"


def facts() -> Facts:
    return fixtures.healthy().facts


def peak() -> int:
    memory = facts().memory
    assert memory is not None and memory.predicted is not None and memory.predicted.peak_allocated_bytes is not None
    return memory.predicted.peak_allocated_bytes


@pytest.mark.parametrize(
    ("budget", "status"),
    [
        (Budget(PEAK, max=peak()), "kept"),
        (Budget(PEAK, max=peak() - 1), "broken"),
        (Budget(PEAK, min=peak()), "kept"),
        (Budget(PEAK, min=peak() + 1), "broken"),
        (Budget("adapter.unmatched_targets", max=0), "kept"),
        (Budget("adapter.matched_modules", max=1), "broken"),
        (Budget("memory.certain_bytes", max=1), "unknown"),
        (Budget("memory.predicted.breakdown.adapter", min=1), "kept"),
        (Budget("memory.predicted.breakdown.nothing", max=1), "unknown"),
    ],
)
def test_how_a_fact_stands_to_its_budget(budget: Budget, status: str) -> None:
    (held,) = hold(facts(), [budget])["budgets"]
    assert held.status == status, held


def test_times_count_by_their_median_and_tell_their_spread() -> None:
    step = facts().step
    assert step is not None
    seen = facts().model_copy(update={"step": step.model_copy(update={"seconds": [9.0, 1.0, 2.0]})})
    (held,) = hold(seen, [Budget("step.seconds", max=1.5)])["budgets"]
    assert held.value == 2.0 and held.status == "broken"
    assert held.sentence == "step.seconds is 2.0 (median of 3, from 1 to 9), above 1.5"


def test_nan_is_within_no_limit() -> None:
    step = facts().step
    assert step is not None
    seen = facts().model_copy(update={"step": step.model_copy(update={"loss_before": math.nan})})
    assert hold(seen, [Budget("step.loss_before", max=3)])["broken_budgets"]


@pytest.mark.parametrize(("level", "rule"), [("error", "QD520"), ("warning", "QD521")])
def test_a_broken_budget_is_a_finding(level: str, rule: str) -> None:
    def judged(budget: Budget) -> dict[str, str]:
        config = facts().config
        assert config is not None
        seen = facts().model_copy(update={"config": config.model_copy(update=hold(facts(), [budget]))})
        return {o.rule: o.status for o in judge(seen, load_rules()).outcomes if o.rule in ("QD520", "QD521")}

    other = {"QD520": "QD521", "QD521": "QD520"}[rule]
    assert judged(Budget(PEAK, max=1, level=level)) == {rule: "fail", other: "pass"}  # type: ignore[arg-type]
    assert judged(Budget(PEAK, max=2**60, level=level)) == {rule: "pass", other: "pass"}  # type: ignore[arg-type]
    unknown = judged(Budget("memory.certain_bytes", max=1, level=level))  # type: ignore[arg-type]
    assert unknown == {rule: "skipped", other: "pass"}


@pytest.mark.parametrize("fact", ["memory.peak", "config.model", "nothing", "memory.predicted.device"])
def test_a_budget_of_no_number(fact: str) -> None:
    with pytest.raises(UsageError, match="budget of"):
        check_budget(Budget(fact, max=1))

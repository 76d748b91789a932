"""What follows from a misspelt key is one finding with it."""

from __future__ import annotations

from typing import Any

from qlora_doctor.engine import load_rules
from qlora_doctor.engine.joining import joined
from qlora_doctor.engine.judge import judge
from qlora_doctor.engine.lint import healthy_facts
from qlora_doctor.engine.selection import Selection
from qlora_doctor.facts import Facts

RULES = load_rules()


def judged(selection: Selection | None = None, **config: Any) -> tuple[dict[str, Any], dict[str, str]]:
    healthy = healthy_facts(RULES[0].path.parent)
    facts = Facts.model_validate({**healthy, "config": {**healthy["config"], "dialect": "native", **config}})
    judgement = judge(facts, RULES, selection=selection)
    findings, outcomes = joined(judgement.findings, judgement.outcomes, facts, {rule.id: rule for rule in RULES})
    return {each.rule: each for each in findings}, {each.rule: each.status for each in outcomes}


def misspelt(meant: str | None = "training.learning_rate") -> list[dict[str, Any]]:
    return [{"key": "training.learning_rates", "closest": "training.learning_rate", "meant": meant}]


def test_the_default_of_the_key_that_was_meant_is_told_with_it() -> None:
    findings, outcomes = judged(learning_rate=2e-5, unknown_keys=misspelt())
    assert "QD120" not in findings and outcomes["QD120"] == "skipped"
    assert "What follows: learning_rate is 2e-05" in findings["QD101"].message
    assert {each.fact for each in findings["QD101"].evidence} >= {"config.unknown_keys", "config.learning_rate"}


def test_a_value_that_is_written_elsewhere_stands_alone() -> None:
    findings, outcomes = judged(learning_rate=2e-5, unknown_keys=misspelt(None))
    assert findings.keys() >= {"QD101", "QD120"} and outcomes["QD120"] == "fail"
    assert "What follows" not in findings["QD101"].message


def test_nothing_is_joined_to_a_finding_that_is_ignored() -> None:
    findings, _ = judged(Selection(ignore=("QD101",)), learning_rate=2e-5, unknown_keys=misspelt())
    assert "QD120" in findings


def test_a_trainer_that_stops_at_the_absence_is_the_worse_finding() -> None:
    findings, _ = judged(
        dialect="axolotl",
        unknown_keys=[{"key": "learning_rte", "closest": "learning_rate", "meant": "training.learning_rate"}],
        refused=[
            {
                "id": "AX109",
                "about": "trainer",
                "kind": "no-rate",
                "key": "adapter",
                "note": "learning_rate has no default",
            }
        ],
    )
    assert "QD125" not in findings
    assert findings["QD102"].severity == "error" and "learning_rate has no default" in findings["QD102"].message

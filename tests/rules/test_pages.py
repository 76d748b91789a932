"""Every page is what a page must be, and its examples are its tests."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path

import pytest

from qlora_doctor.engine import Rule, Selection, judge, load_rules
from qlora_doctor.engine.lint import HEALTHY, healthy_facts, lint_pages, lint_rule, merge_patch
from qlora_doctor.engine.load import pages_of
from qlora_doctor.facts import Facts
from qlora_doctor.setup.setup import Setup

ROOT = Path(__file__).resolve().parents[2]
RULES = ROOT / "rules"
CATALOGUE = ROOT.parent / "shared" / "catalogue" / "failures.json"
FAILURES = frozenset((Path(__file__).parent / "failures.txt").read_text(encoding="utf-8").split())
"""The ids of the catalogue of failures, which pages name under ``failures``."""
PAGES = pages_of(RULES)


@cache
def rules() -> list[Rule]:
    return load_rules(RULES)


def rule_of(page: Path) -> Rule:
    return next(rule for rule in rules() if rule.path == page)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_page_is_sound_and_its_examples_hold(page: Path) -> None:
    problems = lint_rule(rule_of(page), healthy_facts(RULES), rules(), FAILURES)
    assert not problems, "\n".join(str(problem) for problem in problems)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_page_points_at_keys_that_a_config_has(page: Path) -> None:
    rule = rule_of(page)
    pointers = [operation.path for operation in rule.fix.patch] if rule.fix else []
    pointers += [rule.locate] if rule.locate and "{" not in rule.locate else []
    for pointer in pointers:
        section, *field = pointer.strip("/").split("/")
        assert section in Setup.model_fields, pointer
        if field:
            model = Setup.model_fields[section].annotation
            assert field[0] in model.model_fields, pointer  # type: ignore[union-attr]


@pytest.mark.skipif(not CATALOGUE.is_file(), reason="the catalogue of failures is not here")
def test_ids_of_failures_are_those_of_the_catalogue() -> None:
    assert {entry["id"] for entry in json.loads(CATALOGUE.read_text(encoding="utf-8"))} == FAILURES


def test_thresholds_are_those_that_were_decided() -> None:
    """Examples stand well on either side of a threshold; where exactly it lies is written down once more here."""
    decided = (Path(__file__).parent / "thresholds.txt").read_text(encoding="utf-8").split("\n")[:-1]
    assert [f"{rule.id} {name} {param.default}" for rule in rules() for name, param in rule.params.items()] == decided


def test_folder_holds_pages_and_healthy_facts_alone() -> None:
    assert {path.name for path in RULES.iterdir()} == {path.name for path in PAGES} | {HEALTHY}
    assert not [problem for problem in lint_pages(RULES) if "Two pages" in problem.message]


def test_ids_are_written_in_the_order_of_their_hundreds() -> None:
    assert [rule.id for rule in rules()] == sorted(rule.id for rule in rules())
    assert all(re.fullmatch(r"QD[1-9]\d\d", rule.id) for rule in rules())


STAGE_FACTS = {
    "structure": ("model", "adapter", "quantization"),
    "memory": ("memory",),
    "data": ("data",),
    "load": ("load", "step"),
    "step": ("step",),
}
TRUE_EITHER_WAY = {("QD909", "structure"), ("QD421", "data"), ("QD422", "memory"), ("QD432", "structure")}
"""The stage that is taken away would tell the same fault in its own words; without it this rule is the one to speak."""


@pytest.mark.parametrize("stage", STAGE_FACTS)
def test_what_is_right_is_no_finding_because_a_stage_did_not_run(stage: str) -> None:
    """A default that answers for facts that nobody looked at must not make a finding of a healthy setup."""
    healthy = healthy_facts(RULES)
    selection = Selection(profile="strict")
    wrong = []
    for rule in rules():
        for example in rule.examples:
            if example.kind == "pass" and (rule.id, stage) not in TRUE_EITHER_WAY:
                facts = Facts.model_validate(merge_patch(healthy, example.patch))
                facts = facts.model_copy(update=dict.fromkeys(STAGE_FACTS[stage]))
                outcome = judge(facts, [rule], selection=selection).outcomes
                wrong += [rule.id for each in outcome if each.status == "fail"]
    assert wrong == []

"""Facts and rules in, findings and outcomes out."""

from __future__ import annotations

import json
from typing import Any

import pytest

from qlora_doctor.core.place import Place
from qlora_doctor.core.report import PatchOperation, Remediation, StageRecord
from qlora_doctor.engine import Rule, Selection, judge
from qlora_doctor.facts import Facts

from .pages import front, page


def facts(**subjects: Any) -> Facts:
    return Facts.model_validate(subjects)


def outcome(rule: Rule, found: Facts, *stages: StageRecord) -> Any:
    return judge(found, [rule], stages=stages).outcomes[0]


def test_rule_passes_fails_or_is_skipped() -> None:
    rule = page()
    assert outcome(rule, facts(config={"lora_r": 8})).status == "pass"
    assert outcome(rule, facts(config={"lora_r": 512})).status == "fail"
    assert outcome(rule, facts(config={})).status == "skipped"
    assert outcome(rule, facts()).status == "skipped"


def test_skipped_rule_names_the_facts_and_what_would_supply_them() -> None:
    rule = page(front(when="config.four_bit and load.seconds > step.steps"))
    records = (
        StageRecord(
            name="load", status="skipped", reason="It needs torch, which is not installed.", remedy="pip install x"
        ),
    )
    reason = outcome(rule, facts(config={"four_bit": True}), *records).reason
    assert "load.seconds" in reason and "step.steps" in reason
    assert "The stage load was skipped: It needs torch, which is not installed." in reason
    assert "pip install x" in reason
    assert "The stage step has not run." in reason


def test_failed_stage_is_told_as_failed() -> None:
    rule = page(front(when="load.seconds > 1"))
    record = StageRecord(name="load", status="failed", reason="The file is truncated.")
    assert "The stage load failed: The file is truncated." in outcome(rule, facts(), record).reason


def test_expression_that_cannot_be_evaluated_is_skipped_and_says_so() -> None:
    rule = page(front(when="config.lora_alpha / config.lora_r > 1"))
    result = outcome(rule, facts(config={"lora_alpha": 1.0, "lora_r": 0}))
    assert result.status == "skipped" and "division by zero" in result.reason


@pytest.mark.parametrize(
    ("when", "stage"),
    [
        ("config.four_bit", "config"),
        ("environment.cpu_count > 1", "config"),
        ("config.four_bit and adapter.attached", "structure"),
        ("quantization.enabled and memory.card_bytes > 1", "memory"),
        ("data.rows > 1 and model.layers > 1", "data"),
        ("load.seconds > 1 and memory.card_bytes > 1", "load"),
        ("memory.measured.peak_allocated_bytes > 1", "step"),
        ("step.steps > 1 and load.seconds > 1", "step"),
    ],
)
def test_stage_is_the_latest_of_the_facts(when: str, stage: str) -> None:
    assert page(front(when=json.dumps(when))).stage == stage


def test_finding_says_what_where_and_what_to_do() -> None:
    fix = """
  text: "Use rank {{ params.good }} for {{ config.model }}."
  safety: safe
  patch: [{op: add, path: /lora/r, value: "{{ params.good }}"}]
  commands: ["echo {{ config.lora_r }}"]"""
    params = "{good: {default: 16, unit: rank, why: Because., source: 'https://arxiv.org/abs/2106.09685'}}"
    rule = page(front(evidence="[config.lora_r, config.model, config.bias]") + f"params: {params}\nfix:{fix}\n")
    seen: list[tuple[list[PatchOperation], str | None]] = []

    def in_file(remediation: Remediation, repair: str | None) -> Remediation:
        seen.append((remediation.patch, repair))
        return remediation.model_copy(update={"diff": "-512\n+16"})

    def locate(pointer: str) -> Place:
        return Place(file="config.json", pointer=pointer, line=3)

    judgement = judge(facts(config={"lora_r": 512, "model": "m"}), [rule], locate=locate, in_file=in_file)
    (finding,) = judgement.findings
    assert finding.message == "Rank 512 is large."
    assert finding.location == Place(file="config.json", pointer="/lora/r", line=3)
    assert [(e.fact, e.value) for e in finding.evidence] == [("config.lora_r", 512), ("config.model", "m")]
    assert finding.remediation is not None
    assert finding.remediation.text == "Use rank 16 for m."
    assert finding.remediation.commands == ["echo 512"]
    assert seen == [([PatchOperation(op="add", path="/lora/r", value=16)], None)]
    assert finding.remediation.patch == seen[0][0]
    assert finding.remediation.diff == "-512\n+16"


def test_patch_that_needs_an_unknown_fact_is_left_out() -> None:
    fix = '{text: "x.", patch: [{op: add, path: /lora/target_modules, value: "{{ model.module_kinds }}"}]}'
    rule = page(front(fix=fix))
    without = judge(facts(config={"lora_r": 512}), [rule]).findings[0].remediation
    assert without is not None and without.patch == []
    known = judge(facts(config={"lora_r": 512}, model={"module_kinds": ["a", "b"]}), [rule]).findings[0].remediation
    assert known is not None and known.patch[0].value == ["a", "b"]


def test_a_patch_may_ask_whether_a_fact_is_known() -> None:
    fix = """{text: "x.", patch: [{op: add, path: /lora/r, value: "{{ 8 if config.bias is known else 16 }}"}]}"""
    (finding,) = judge(facts(config={"lora_r": 512}), [page(front(fix=fix))]).findings
    assert finding.remediation is not None
    assert [operation.value for operation in finding.remediation.patch] == [16]


def test_long_evidence_is_cut_and_says_so() -> None:
    rule = page(front(evidence="[adapter.matched_modules]"))
    names = [f"layer.{i}" for i in range(300)]
    finding = judge(facts(config={"lora_r": 512}, adapter={"matched_modules": names}), [rule]).findings[0]
    assert len(finding.evidence[0].value) == 21 and finding.evidence[0].value[-1] == "… and 280 more"


def test_worst_findings_come_first_and_severity_can_be_overridden() -> None:
    low = page(front(id="QD198", name="a", severity="info"))
    high = page()
    found = facts(config={"lora_r": 512})
    assert [f.rule for f in judge(found, [low, high]).findings] == ["QD199", "QD198"]
    selection = Selection(severity={"QD198": "error"})
    assert [f.severity for f in judge(found, [low, high], selection=selection).findings] == ["error", "warning"]


def test_judging_again_with_more_facts_gives_the_same_fingerprint() -> None:
    rule = page()
    first = judge(facts(config={"lora_r": 512}), [rule]).findings[0]
    again = judge(facts(config={"lora_r": 300}, model={"layers": 2}), [rule]).findings[0]
    assert first.message != again.message and first.fingerprint == again.fingerprint


def test_hostile_text_in_a_fact_is_text() -> None:
    rule = page(front(message='"Model {{ config.model }}."'))
    name = "{{ config.__class__ }}{% for x in y %}<script>"
    assert judge(facts(config={"lora_r": 512, "model": name}), [rule]).findings[0].message == f"Model {name}."

"""Suppressions and baselines: what they meet, what they outlive, and what the file says."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pytest

from qlora_doctor.core.errors import UsageError
from qlora_doctor.core.place import Place
from qlora_doctor.core.report import Report, RuleOutcome
from qlora_doctor.engine.baseline import Baseline, baseline_of, pruned, read_baseline, stale_entries, text_of
from qlora_doctor.engine.suppression import Suppression, suppress, unused
from tests.reporters import fixtures

TODAY = dt.date(2026, 6, 1)


def suppression(rule: str = "QD301", **more: object) -> Suppression:
    return Suppression(rule=rule, reason="on purpose", origin="here", **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("given", "fits"),
    [
        ({}, True),
        ({"rule": "QD3"}, True),
        ({"rule": "target-modules-match-nothing"}, True),
        ({"rule": "QD302"}, False),
        ({"file": "runs/*.yaml"}, True),
        ({"file": "*.json"}, False),
        ({"pointer": "/lora"}, True),
        ({"pointer": "/lora/target_modules"}, True),
        ({"pointer": "/lo"}, False),
        ({"line": 12}, True),
        ({"line": 13}, False),
        ({"fingerprint": "other"}, False),
        ({"until": TODAY}, True),
        ({"until": TODAY - dt.timedelta(days=1)}, False),
    ],
)
def test_what_a_suppression_meets(given: dict[str, object], fits: bool) -> None:
    found = next(each for each in fixtures.broken().findings if each.rule == "QD301")
    (after,) = suppress([found], [suppression(**given)], TODAY)  # type: ignore[arg-type]
    assert (after.suppressed == "on purpose (here)") is fits


def test_an_unused_suppression_is_told_only_where_its_rules_were_evaluated() -> None:
    def outcome(status: str) -> RuleOutcome:
        return RuleOutcome(rule="QD301", name="n", status=status, stage="structure")  # type: ignore[arg-type]

    mine = suppression()
    assert unused([], [outcome("pass")], [mine], TODAY) == [mine]
    assert unused([], [outcome("skipped")], [mine], TODAY) == []
    assert unused([], [], [mine], TODAY) == []
    found = [each for each in fixtures.broken().findings if each.rule == "QD301"]
    assert unused(found, [outcome("fail")], [mine], TODAY) == []
    over = suppression(until=dt.date(2020, 1, 1))
    assert unused(found, [outcome("fail")], [over], TODAY) == [over]


def report(*rules: str, skipped: str | None = None, line: int = 3) -> Report:
    full = fixtures.broken()
    kept = [f.model_copy(update={"location": Place(file="runs/falcon-7b.yaml", pointer="/lora", line=line)})
            for f in full.findings if f.rule in rules]  # fmt: skip
    outcomes = [o.model_copy(update={"status": "skipped"}) if o.rule == skipped else o for o in full.rules]
    return full.model_copy(update={"findings": kept, "rules": outcomes})


def test_a_baseline_comes_back_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "baseline.json"
    baseline = baseline_of([report("QD301", "QD202")])
    path.write_text(text_of(baseline))
    assert read_baseline(path) == baseline
    assert len(baseline.findings) == 2 and '"line"' not in text_of(baseline)
    assert text_of(Baseline()) and Baseline.model_validate_json(text_of(Baseline())) == Baseline()


def test_stale_entries_are_those_that_a_report_speaks_for() -> None:
    baseline = baseline_of([report("QD301", "QD202")])
    now = report("QD202", line=99)
    assert [entry.rule for entry in stale_entries(baseline, [now])] == ["QD301"]
    assert [entry.rule for entry in pruned(baseline, [now]).findings] == ["QD202"]
    assert stale_entries(baseline, [report("QD202", skipped="QD301")]) == []
    elsewhere = now.model_copy(update={"setup": {"file": "runs/other.yaml"}})
    assert stale_entries(baseline, [elsewhere]) == []
    assert baseline_of([elsewhere.model_copy(update={"findings": []})], baseline) == baseline


@pytest.mark.parametrize("text", ["", "[]", '{"findings": [{"rule": 1}]}', '{"baseline_version": 2}', "\x00"])
def test_a_file_that_is_no_baseline(tmp_path: Path, text: str) -> None:
    path = tmp_path / "b.json"
    path.write_text(text)
    with pytest.raises(UsageError, match="is no baseline"):
        read_baseline(path)
    with pytest.raises(UsageError, match="cannot be read"):
        read_baseline(tmp_path / "gone.json")

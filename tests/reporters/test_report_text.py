"""The report in a terminal."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from qlora_doctor.core.place import Place
from qlora_doctor.core.report import Report
from qlora_doctor.reporters import plan, render, text
from tests.reporters import fixtures


def test_findings_stand_under_their_stage_in_the_order_of_the_stages() -> None:
    lines = render(fixtures.broken(), "text").splitlines()
    heads = [line.split()[1] for line in lines if line.startswith("── ")]
    assert heads == ["config", "structure", "memory", "load", "step"]
    assert lines.index("error[QD301] target-modules-match-nothing") > lines.index(
        next(line for line in lines if line.startswith("── structure"))
    )


def test_carets_stand_below_the_key() -> None:
    found = next(f for f in fixtures.broken_findings() if f.rule == "QD301")
    lines = text.render_finding(found).splitlines()
    at = lines.index("12 |   target_modules: [q_proj, v_proj]")
    assert lines[at - 2] == "   --> runs/falcon-7b.yaml:12:3 /lora/target_modules"
    assert lines[at + 1] == "   |   " + "^" * len("target_modules: [q_proj, v_proj]")


@pytest.mark.parametrize(
    ("excerpt", "column", "end", "below"),
    [
        ("\tr: 8", 2, 3, "    ^"),  # a tab is four columns wide in both lines
        ("模型: r", 5, 6, "      ^"),  # wide characters take two columns each
        ("r: 8", 1, 99, "^^^^"),  # an end beyond the line stops with it
        ("r: 8", 99, None, "    ^"),  # so does a start
    ],
)
def test_carets_follow_what_is_seen(excerpt: str, column: int, end: int | None, below: str) -> None:
    place = Place(file="a.yaml", line=7, column=column, end_line=7, end_column=end, excerpt=excerpt)
    found = fixtures.finding("QD301", "x", "error", "config", "It is wrong.", location=place)
    assert f"  | {below}" in text.render_finding(found).splitlines()


def test_of_a_long_line_the_part_around_the_mark_is_shown() -> None:
    line = '{"model": "' + "x" * 300 + '", "lora": {"r": 8}, ' + '"y": 1, ' * 50 + "}"
    at = line.index('"r"') + 1
    place = Place(file="a.json", line=1, column=at, end_line=1, end_column=at + 3, excerpt=line)
    shown = text.render_finding(
        fixtures.finding("QD301", "x", "error", "config", "Wrong.", location=place)
    ).splitlines()
    row = next(row for row in shown if row.startswith("1 | "))
    below = shown[shown.index(row) + 1]
    assert row.startswith("1 | …") and row.endswith("…") and len(row) < 200
    assert row[below.index("^") : below.rindex("^") + 1] == '"r"'


def test_a_place_without_its_line_is_named_without_a_frame() -> None:
    found = fixtures.finding("QD301", "x", "error", "config", "Wrong.", location=Place(file="a.yaml", line=7))
    shown = text.render_finding(found)
    assert "--> a.yaml:7" in shown and "^" not in shown


def test_a_fix_shows_its_sentence_its_command_and_its_diff() -> None:
    shown = render(fixtures.broken(), "text")
    assert "  help: Use names that this model has: query_key_value" in shown
    assert "    $ qlora-doctor check runs/falcon-7b.yaml --stage structure" in shown
    assert "    +  target_modules: all-linear" in shown
    assert "docs: qlora-doctor explain QD301" in shown


def test_the_last_line_is_the_verdict_with_all_counts() -> None:
    last = render(fixtures.broken(), "text").splitlines()[-1]
    assert last == (
        "verdict: 3 errors, 3 warnings, 1 note · 10 passed · 1 not evaluated · 4 of 6 stages done · failed: load"
    )
    assert render(fixtures.healthy(), "text").splitlines()[-1].startswith("verdict: nothing found · 15 passed")
    assert "nothing was checked" in render(fixtures.not_understood(), "text").splitlines()[-1]


def test_what_did_not_run_says_why_and_what_would_supply_it_once() -> None:
    shown = render(fixtures.config_only(), "text")
    assert "structure, memory, data, load, step skipped: It needs torch" in shown
    assert shown.count("pip install 'qlora-doctor[probe]'") == 1
    unasked = {n: {"status": "skipped", "reason": "Not asked for.", "remedy": f"--stage {n}"} for n in ("data", "load")}
    report = fixtures.healthy().model_copy(update={"stages": fixtures.stages(**unasked)})
    assert "data, load skipped: Not asked for.\n    to have it: --stage data, --stage load\n" in text.render(report)
    assert "10 checks could not be evaluated: QD202" in shown
    report = fixtures.config_only()
    many = text.render(report.model_copy(update={"rules": [*report.rules, *report.rules]}))
    assert "20 checks could not be evaluated: 8 of structure, 8 of step, 2 of memory, 2 of data" in many


def test_a_suppressed_finding_is_named_with_its_reason_and_not_told_as_a_finding() -> None:
    shown = render(fixtures.broken(), "text")
    assert "QD101 misspelt-keys: ignored in pyproject.toml: read by our own launcher" in shown
    assert "warning[QD101]" not in shown


def test_colour_changes_nothing_but_colour() -> None:
    report = fixtures.broken()
    colored = text.render(report, color=True)
    assert "\x1b[1;31merror[QD301]\x1b[0m" in colored
    assert re.sub(r"\x1b\[[0-9;]*m", "", colored) == text.render(report)


def test_nothing_from_outside_steers_the_terminal() -> None:
    shown = render(fixtures.hostile(), "text")
    assert "\\x1b[31mred" in shown and "\\u202egnp.exe" in shown
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]", shown)


def test_sentences_are_wrapped_and_code_is_not() -> None:
    shown = text.render(fixtures.broken(), width=60)
    assert all(len(line) <= 60 for line in shown.splitlines() if line.startswith("  help") or " = " in line)
    assert "    $ qlora-doctor check runs/falcon-7b.yaml --stage structure" in shown


@pytest.mark.parametrize("name", fixtures.ALL)
def test_findings_told_one_by_one_and_the_rest_make_the_whole(name: str) -> None:
    report = fixtures.ALL[name]()
    whole = text.render(report)
    for finding in report.findings:
        if finding.suppressed is None:
            assert text.render_finding(finding) in whole
    assert text.render_rest(report).splitlines()[-1] == whole.splitlines()[-1]


@pytest.mark.parametrize("name", ["llama-3.1-8b", "out-of-memory", "masked-data"])
def test_sixty_columns_hold_every_line_and_break_no_word(name: str) -> None:
    example = Path(__file__).parents[2] / "reports" / "examples" / "facts" / f"{name}.json"
    report = Report.model_validate_json(example.read_text(encoding="utf-8"))
    for told in (text.render, plan.render):
        narrow, wide = told(report, width=60), told(report, width=400)
        lines = [
            line for line in narrow.split("\n") if not line.startswith("verdict: ")
        ]  # one line, whatever the width
        assert [line for line in lines if len(line) > 60] == []
        assert set(narrow.split()) <= set(wide.split())


def test_data_sets_that_were_not_looked_at_beside_others_are_named() -> None:
    from qlora_doctor.facts.data import DataSetFacts
    from qlora_doctor.reporters.verdict import verdict

    report = fixtures.healthy()
    assert report.facts.data is not None
    sets = [DataSetFacts(name="faq"), DataSetFacts(name="acme/tickets", not_followed="It is not on this machine.")]
    data = report.facts.data.model_copy(update={"sets": sets})
    report = report.model_copy(update={"facts": report.facts.model_copy(update={"data": data})})
    shown = render(report, "text")
    assert "data set acme/tickets not looked at: It is not on this machine." in " ".join(shown.split())
    assert "1 data set not looked at" in shown.splitlines()[-1]
    assert verdict(report).level == "partial" and "1 data set not looked at" in verdict(report).headline


def test_a_script_that_kept_the_stages_from_its_model_does_not_pass() -> None:
    from qlora_doctor.reporters.overview import outcome, told_outcome

    report = fixtures.healthy()
    skipped = [
        stage.model_copy(update={"status": "skipped", "reason": "line 3 is not followed"})
        if stage.name in ("structure", "memory", "load", "step")
        else stage
        for stage in report.stages
    ]
    assert outcome(report) == "passes"
    seen = report.model_copy(update={"stages": skipped})
    assert outcome(seen) == "partly seen" and told_outcome(seen) == "seen 2 of 6"

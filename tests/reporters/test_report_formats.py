"""SARIF, annotations, code quality, JUnit and Markdown: held against their schemas and what their readers document."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as Xml

import jsonschema
import pytest
import xmlschema
from markdown_it import MarkdownIt

from qlora_doctor.core.place import Place
from qlora_doctor.core.report import Report, RuleOutcome
from qlora_doctor.reporters import FORMATS, TOGETHER, render
from qlora_doctor.reporters._places import repository_path, utf16_columns
from qlora_doctor.reporters.markdown import MARK
from tests.reporters import fixtures
from tests.reporters.stored_schemas import stored_schema

MACHINE = ("sarif", "github", "gitlab", "junit", "markdown")
JUNIT = Path(__file__).parent / "schemas" / "junit.xsd"


def sarif(*reports: Report) -> dict[str, Any]:
    document = json.loads(render(list(reports), "sarif"))
    schema = stored_schema("https://json.schemastore.org/sarif-2.1.0.json")
    jsonschema.validators.validator_for(schema)(schema).validate(document)
    run: dict[str, Any] = document["runs"][0]
    return run


def junit(*reports: Report) -> Xml.Element:
    document = render(list(reports), "junit")
    xmlschema.validate(document, JUNIT)
    return Xml.fromstring(document.encode())


def counting(report: Report) -> set[str]:
    return {found.rule for found in report.findings if found.suppressed is None}


@pytest.mark.parametrize("name", fixtures.ALL)
@pytest.mark.parametrize("format", MACHINE)
def test_every_format_is_a_function_of_the_report(name: str, format: str) -> None:
    report = fixtures.ALL[name]()
    document = render(report, format)
    assert document == render(report, format) == FORMATS[format](report) == render([report], format)
    assert document == "" or document.endswith("\n")


@pytest.mark.parametrize("name", fixtures.ALL)
def test_sarif_is_valid_and_holds_what_counts(name: str) -> None:
    report = fixtures.ALL[name]()
    run = sarif(report)
    rules = run["tool"]["driver"]["rules"]
    assert [rule["id"] for rule in rules] == sorted(rule["id"] for rule in rules)
    assert {result["ruleId"] for result in run["results"]} == counting(report)
    for result in run["results"]:
        assert rules[result["ruleIndex"]]["id"] == result["ruleId"]
    for rule in rules:
        assert rule["help"]["text"] and len(rule["fullDescription"]["text"]) <= 1024 and len(rule["name"]) <= 255


def test_sarif_tells_what_code_scanning_shows() -> None:
    report = fixtures.broken()
    run = sarif(report)
    found = next(each for each in report.findings if each.rule == "QD301")
    (result,) = [each for each in run["results"] if each["ruleId"] == "QD301"]
    assert result["level"] == "error"
    assert result["message"]["text"].startswith(found.message)
    assert result["partialFingerprints"]["primaryLocationLineHash"] == f"{found.fingerprint}:1"
    place = result["locations"][0]["physicalLocation"]
    assert place["artifactLocation"]["uri"] == "runs/falcon-7b.yaml"
    assert place["region"] == {"startLine": 12, "endLine": 12, "startColumn": 3, "endColumn": 35}
    rule = next(each for each in run["tool"]["driver"]["rules"] if each["id"] == "QD301")
    assert rule["help"]["markdown"].startswith("## What it checks") and "## Examples" not in rule["help"]["markdown"]
    assert rule["properties"]["precision"] == "high" and rule["properties"]["problem.severity"] == "error"
    assert "security-severity" not in rule["properties"]  # it would turn findings into security alerts
    assert run["automationDetails"]["id"] == "qlora-doctor/runs/falcon-7b.yaml/"
    assert run["columnKind"] == "utf16CodeUnits"
    assert not {each.rule for each in report.findings if each.suppressed} & {r["ruleId"] for r in run["results"]}
    notes = run["invocations"][0]["toolExecutionNotifications"]
    assert any("ran out of GPU memory" in note["message"]["text"] and note["level"] == "error" for note in notes)


def test_columns_count_utf16_units() -> None:
    text = '{"😀": "é", "r": 8}'
    place = Place(line=1, column=text.index('"r"') + 1, end_line=1, end_column=text.index('"r"') + 4, excerpt=text)
    start, end = utf16_columns(place)
    units = text.encode("utf-16-le")
    assert start is not None and end is not None
    assert units[2 * (start - 1) : 2 * (end - 1)].decode("utf-16-le") == '"r"'
    assert utf16_columns(place.model_copy(update={"end_line": 3}))[1] is None


def test_paths_start_at_the_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "repo" / ".git").mkdir(parents=True)
    (tmp_path / "repo" / "runs").mkdir()
    config = tmp_path / "repo" / "runs" / "a b.yaml"
    config.touch()
    (tmp_path / "repo" / "link").symlink_to(tmp_path / "repo" / "runs")
    monkeypatch.chdir(tmp_path / "repo" / "runs")
    for written in ("a b.yaml", str(config), "../link/a b.yaml"):
        assert repository_path(written) == "runs/a b.yaml"
    report = fixtures.broken()
    found = report.findings[0].model_copy(update={"location": Place(file="a b.yaml", line=2)})
    run = sarif(report.model_copy(update={"findings": [found]}))
    place = run["results"][0]["locations"][0]["physicalLocation"]
    assert place["artifactLocation"]["uri"] == "runs/a%20b.yaml"


def test_a_rule_of_a_foreign_pack_has_its_title() -> None:
    outcome = RuleOutcome(rule="QD888", name="our-rank", title="The rank is at most 64", status="pass", stage="config")
    run = sarif(fixtures.healthy().model_copy(update={"rules": [outcome]}))
    assert (
        run["tool"]["driver"]["rules"][0]["shortDescription"]["text"]
        == "Our rank. Passes where: The rank is at most 64"
    )
    assert "The rank is at most 64" in render(fixtures.healthy().model_copy(update={"rules": [outcome]}), "html")


@pytest.mark.parametrize("name", fixtures.ALL)
def test_annotations_are_one_line_each_and_escaped(name: str) -> None:
    report = fixtures.ALL[name]()
    lines = render(report, "github").splitlines()
    failed = [record for record in report.stages if record.status == "failed"]
    assert len(lines) == len([f for f in report.findings if f.suppressed is None]) + bool(failed)
    # The runner's own reading: command, properties up to the first "::", data.
    for line in lines:
        match = re.fullmatch(r"::(error|warning|notice) ([^:]*)::(.+)", line)
        assert match, line
        for pair in match[2].split(","):
            key, _, value = pair.partition("=")
            assert key in {"file", "line", "endLine", "col", "endColumn", "title"} and value


def test_an_annotation_stands_on_its_line() -> None:
    first = render(fixtures.broken(), "github").splitlines()[0]
    assert "file=runs/falcon-7b.yaml,line=" in first and first.startswith("::error ")
    weights = [line.split()[0] for line in render(fixtures.broken(), "github").splitlines()[:-1]]
    assert weights == sorted(weights, key=["::error", "::warning", "::notice"].index)


@pytest.mark.parametrize("name", fixtures.ALL)
def test_code_quality_has_the_documented_fields(name: str) -> None:
    report = fixtures.ALL[name]()
    issues = json.loads(render([report, report], "gitlab"))
    assert len({issue["fingerprint"] for issue in issues}) == len(issues)
    for issue in issues:
        assert set(issue) == {"description", "check_name", "fingerprint", "severity", "location"}
        assert issue["severity"] in {"info", "minor", "major", "critical", "blocker"}
        assert issue["description"].startswith(issue["check_name"])  # check_name alone is not shown
        path = issue["location"]["path"]
        assert path and not path.startswith("./") and issue["location"]["lines"]["begin"] >= 1


@pytest.mark.parametrize("name", fixtures.ALL)
def test_junit_has_a_case_per_rule(name: str) -> None:
    report = fixtures.ALL[name]()
    root = junit(report)
    names = [case.get("name", "") for case in root.iter("testcase")]
    assert len(set(names)) == len(names)
    rules = {outcome.rule for outcome in report.rules} | counting(report)
    assert len([each for each in names if not each.startswith("stage ")]) == len(rules)
    suite = root[0]
    assert suite.get("tests") == str(len(names))
    assert suite.get("failures") == str(len(suite.findall("testcase/failure")))
    assert suite.get("skipped") == str(len(suite.findall("testcase/skipped")))


def test_junit_fails_where_the_exit_code_does() -> None:
    report = fixtures.broken()
    for level, ranks in {"error": {"error"}, "warning": {"error", "warning"}, "never": set()}.items():
        root = junit(report.model_copy(update={"fail_on": level}))
        failures = [f.get("type") for case in root.iter("testcase") for f in case.findall("failure")]
        assert {kind for kind in failures if kind != "failed"} == ranks
        assert "failed" in failures  # the load was asked for and failed, whatever the findings
    waiting = [case for case in root.iter("testcase") if "QD609" in case.get("name", "")]
    assert "data.truncated_ratio is unknown" in waiting[0].find("skipped").get("message")  # type: ignore[union-attr,operator]


def test_junit_drops_what_xml_cannot_hold() -> None:
    report = fixtures.broken()
    found = report.findings[0].model_copy(update={"message": 'a\x00b\x1bc\ufffe\ud800d <&>" ]]> é😀'})
    assert 'abcd <&>" ]]> é😀' in Xml.tostring(
        junit(report.model_copy(update={"findings": [found]})), "unicode"
    ).replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&").replace("&quot;", '"')


@pytest.mark.parametrize("name", fixtures.ALL)
def test_markdown_lets_nothing_from_outside_act(name: str) -> None:
    document = render(fixtures.ALL[name](), "markdown")
    assert document.startswith(f"{MARK}\n")
    tokens = MarkdownIt("commonmark", {"html": True}).enable("table").parse(document)
    children = [child for token in tokens for child in token.children or []]
    ours = {"<!-- qlora-doctor -->", "<details><summary>Not checked</summary>", "</details>"}
    ours |= {"<details><summary>Suppressed</summary>"}
    raw = [t.content.strip() for t in [*tokens, *children] if t.type in ("html_block", "html_inline")]
    assert set(raw) <= ours
    assert not [child for child in children if child.type in ("link_open", "image")]


def test_markdown_tells_message_fix_and_gaps() -> None:
    report = fixtures.broken()
    document = render(report, "markdown")
    for found in report.findings:
        assert found.rule in document
    assert "```diff" in document and "runs/falcon-7b.yaml:12" in document and "Not checked" in document
    assert len(render([report] * 40, "markdown")) < 65_536


@pytest.mark.parametrize("format", [name for name in TOGETHER if name != "json"])
def test_several_reports_are_one_document(format: str) -> None:
    document = render([fixtures.healthy(), fixtures.broken()], format)
    assert "falcon" in document
    if format == "junit":
        assert len(junit(fixtures.healthy(), fixtures.broken())) == 2
    if format == "sarif":
        assert sarif(fixtures.healthy(), fixtures.broken())["automationDetails"]["id"] == "qlora-doctor/"
        assert len(json.loads(document)["runs"]) == 1

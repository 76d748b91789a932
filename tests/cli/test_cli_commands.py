"""The other commands."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from qlora_doctor import __version__
from qlora_doctor.cli import main
from qlora_doctor.core.assets import asset_folder

COMMANDS = ("check", "plan", "explain", "rules", "env", "init", "demo", "report", "schema")


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str) -> None:
    result = run(command, "--help")
    assert result.exit_code == 0 and result.stdout.startswith(f"Usage: qlora-doctor {command}")
    assert command in run("--help").stdout


def test_the_version_and_a_command_that_is_nearly_known() -> None:
    assert run("--version").stdout.strip() == f"qlora-doctor, version {__version__}"
    result = run("chek")
    assert result.exit_code == 2 and "Did you mean check?" in result.stderr


def test_rules_lists_every_page() -> None:
    listed = json.loads(run("rules", "--format", "json").stdout)
    pages = {path.stem for path in asset_folder("rules").glob("QD*.md")}
    assert {f"{rule['id']}-{rule['name']}" for rule in listed} == pages
    assert {"id", "name", "severity", "stage", "failures", "title", "profile", "tags"} <= listed[0].keys()
    table = run("rules").stdout
    assert all(rule["id"] in table for rule in listed)
    assert f"| {listed[0]['id']} |" in run("rules", "--format", "md").stdout


def test_rules_checks_pages(tmp_path: Path) -> None:
    page = sorted(asset_folder("rules").glob("QD*.md"))[0]
    (tmp_path / page.name).write_text(page.read_text())
    good = run("rules", "--check", tmp_path)
    assert good.exit_code == 0, good.output
    (tmp_path / page.name).write_text(page.read_text().replace("## Why it matters", "## Whatever"))
    bad = run("rules", "--check", tmp_path)
    assert bad.exit_code == 1 and page.name in bad.stdout
    assert run("rules", "--check", tmp_path / "none").exit_code == 2


def test_explain_by_id_name_and_in_every_format() -> None:
    rule = json.loads(run("rules", "--format", "json").stdout)[0]
    by_id, by_name = run("explain", rule["id"]), run("explain", rule["name"].upper())
    assert by_id.exit_code == by_name.exit_code == 0 and by_id.stdout == by_name.stdout
    assert rule["title"] in by_id.stdout and "## How to fix" in by_id.stdout
    found = json.loads(run("explain", rule["id"], "--format", "json").stdout)
    assert found["id"] == rule["id"] and found["stage"] == rule["stage"] and found["sections"]["Why it matters"]


def test_explain_is_rendered_for_a_person(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("FORCE_COLOR", "1")
    rule = json.loads(run("rules", "--format", "json").stdout)[0]
    shown = run("explain", rule["id"]).stdout
    assert "\x1b[" in shown and "## How to fix" not in shown and "How to fix" in shown
    assert "\x1b[" not in run("explain", rule["id"], "--no-color").stdout


def test_explain_a_symptom() -> None:
    result = run("explain", "--symptom", "Target modules not found in the base model")
    assert result.exit_code == 0 and "QD30" in result.stdout
    found = json.loads(run("explain", "--symptom", "loss does not go down", "--format", "json").stdout)
    assert found and {"id", "name", "symptom"} <= found[0].keys()
    assert "No rule's page" in run("explain", "--symptom", "zzzz qqqq").stdout


def test_symptom_and_page_tell_the_same_causes() -> None:
    """One table: symptom, cause, what to look at first; the fact's name where a run would give its value."""
    page = run("explain", "QD701").stdout
    searched = run("explain", "--symptom", "loss is flat from the first step").stdout
    for text in (" ".join(page.split()), " ".join(searched.split())):
        assert "Nothing of the adapter trains" in text and "Look at first: `qlora-doctor check CONFIG" in text
        assert "{{" not in text and "`course.rate_peak`" in text
    found = json.loads(run("explain", "--symptom", "loss is flat from the first step", "--format", "json").stdout)
    told = next(each for each in found if each["id"] == "QD701")["likely_causes"]
    assert told == json.loads(run("explain", "QD701", "--format", "json").stdout)["likely_causes"]
    assert all(cause["look"] for cause in told)


def test_each_rule_has_a_cause_to_tell() -> None:
    from qlora_doctor.engine import load_rules
    from qlora_doctor.engine.causes import likely_causes

    for rule in load_rules():
        causes = likely_causes(rule)
        assert causes and all(cause.text and "{%" not in cause.text + str(cause.look) for cause in causes), rule.id


@pytest.mark.parametrize("arguments", [[], ["QD101", "--symptom", "x"], ["QD000"], ["no-such-rule"]])
def test_explain_what_there_is_not(arguments: list[str]) -> None:
    result = run("explain", *arguments)
    assert result.exit_code == 2 and result.stderr.startswith("error: ") and "Traceback" not in result.output


def test_env_can_be_pasted() -> None:
    text = run("env").stdout
    assert text.startswith("```text\n") and text.rstrip().endswith("```")
    assert __version__ in text and "python" in text and "gpu" in text
    facts = json.loads(run("env", "--format", "json").stdout)
    assert facts["tool_version"] == __version__ and "transformers" in facts["packages"]


def test_init(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    made = run("init", "--model", "meta-llama/Llama-3.1-8B", "--gpu", "t4", "-o", path)
    assert made.exit_code == 0 and made.stdout == ""
    assert yaml.safe_load(path.read_text())["training"]["fp16"] is True
    again = run("init", "--model", "x/y", "-o", path)
    assert again.exit_code == 2 and "exists already" in again.stderr and "--force" in again.stderr
    assert run("init", "--model", "x/y", "-o", path, "--force").exit_code == 0
    assert yaml.safe_load(path.read_text())["model"] == "x/y"
    assert yaml.safe_load(run("init", "--model", "x/y").stdout)["model"] == "x/y"
    assert run("init", "--model", "x/y", "--gpu", "rtx 9090").exit_code == 2
    assert run("init").exit_code == 2


@pytest.mark.parametrize("what", ["config", "report", "facts"])
def test_schema(what: str) -> None:
    printed = json.loads(run("schema", what).stdout)
    assert printed["$schema"].startswith(("http://json-schema.org/draft-07", "https://json-schema.org/draft/2020-12"))
    published = asset_folder("reports") / "schema" / f"{what}-v1.schema.json"
    assert printed == json.loads(published.read_text()), "run `make schema`"


def test_report_renders_a_result_again(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(run("init", "--model", "meta-llama/Llama-3.1-8B").stdout)
    result, page = tmp_path / "r.json", tmp_path / "r.html"
    first = run("check", "--stage", "config", tmp_path / "c.yaml", "-o", f"json={result}")
    again = run("report", result, "-o", f"html={page}")
    assert again.exit_code == 0 and again.stdout == "" and "<html" in page.read_text()
    assert run("report", result).stdout.splitlines()[-1] == first.stdout.splitlines()[-1]
    assert json.loads(run("report", result, "--format", "json").stdout) == json.loads(result.read_text())


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "cannot be read"),
        ("{", "is not a JSON report"),
        ('{"a": 1}', "is not a report"),
        ("[]", "holds no report"),
        ("[" * 100_000, "is not a JSON report"),
    ],
)
def test_report_of_something_else(tmp_path: Path, content: str | None, sentence: str) -> None:
    path = tmp_path / "r.json"
    if content is not None:
        path.write_text(content)
    result = run("report", path)
    assert result.exit_code == 2 and sentence in result.stderr and "Traceback" not in result.output

"""``check`` as a gate: settings, suppressions, baselines, budgets, several documents."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from qlora_doctor.cli import main
from qlora_doctor.reporters import TOGETHER

Check = Callable[..., Result]


@pytest.fixture
def repo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with a config that has one error: two keys that are misspelt."""
    from qlora_doctor.writing.starter import starter_config

    (tmp_path / ".git").mkdir()
    (tmp_path / "runs").mkdir()
    text = starter_config("meta-llama/Llama-3.1-8B", "rtx-4090").replace("lora_alpha", "lora_aplha")
    (tmp_path / "runs" / "a.yaml").write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    return tmp_path


@pytest.fixture
def check() -> Check:
    def run(*arguments: object, config: str = "runs/a.yaml") -> Result:
        command = ["check", "--stage", "config", "--severity", "QD101=error", "--quiet", config]
        return CliRunner().invoke(main, [*command, *map(str, arguments)])

    return run


def report(result: Result) -> Any:
    return json.loads(result.stdout)


def test_one_run_writes_every_format(repo: Path, check: Check) -> None:
    outputs = [argument for format in (*TOGETHER, "html") for argument in ("-o", f"{format}=out.{format}")]
    assert check(*outputs).exit_code == 1
    for format in (*TOGETHER, "html"):
        assert "QD101" in (repo / f"out.{format}").read_text(), format
    place = json.loads((repo / "out.sarif").read_text())["runs"][0]["results"][0]["locations"][0]
    assert place["physicalLocation"]["artifactLocation"]["uri"] == "runs/a.yaml"


def test_the_summary_of_a_job_is_added_to(repo: Path, check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    summary = repo / "summary.md"
    summary.write_text("before\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    result = check("--format", "github")
    assert result.stdout.startswith("::error file=runs/a.yaml,line=")
    assert summary.read_text().startswith("before\n<!-- qlora-doctor -->") and "QD101" in summary.read_text()
    check("--format", "json")
    assert summary.read_text().count("<!-- qlora-doctor -->") == 1


def test_only_new_findings_count(repo: Path, check: Check) -> None:
    baseline = repo / "baseline.json"
    assert check("--baseline", baseline).exit_code == 2  # it has not been written yet
    assert check("--prune-baseline").exit_code == 2
    assert check("--baseline", baseline, "--write-baseline").exit_code == 0
    known = json.loads(baseline.read_text())["findings"]
    assert "QD101" in {entry["rule"] for entry in known}
    config = repo / "runs" / "a.yaml"
    config.write_text("# moves every line\n" + config.read_text())
    after = check("--baseline", baseline, "--format", "json")
    assert after.exit_code == 0 and report(after)["summary"]["error"] == 0
    assert {f["suppressed"] for f in report(after)["findings"]} == {"known before (baseline.json)"}
    config.write_text(config.read_text().replace("lora_dropout", "lora_dropuot"))
    worse = check("--baseline", baseline, "--format", "json")  # the same rule at the same place, and another key
    assert worse.exit_code == 1 and report(worse)["summary"]["error"] == 1


def test_stale_entries_are_told_and_removed(repo: Path) -> None:
    command = ["check", "--stage", "config", "--severity", "QD101=error", "runs/a.yaml", "--baseline", "b.json"]
    CliRunner().invoke(main, [*command, "--write-baseline"])
    config = repo / "runs" / "a.yaml"
    config.write_text(config.read_text().replace("lora_aplha", "lora_alpha"))
    told = CliRunner().invoke(main, command)
    assert told.exit_code == 0 and "QD101 misspelt-keys in runs/a.yaml is no longer found: stale" in told.stderr
    assert "QD101" in (repo / "b.json").read_text()
    assert "removed" in CliRunner().invoke(main, [*command, "--prune-baseline"]).stderr
    assert "QD101" not in (repo / "b.json").read_text()
    assert "stale" not in CliRunner().invoke(main, command).stderr


def test_a_comment_in_the_config(repo: Path, check: Check) -> None:
    config = repo / "runs" / "a.yaml"
    config.write_text(
        config.read_text().replace(
            "lora_aplha: 32", "lora_aplha: 32  # qlora-doctor: ignore[QD101] our launcher reads it"
        )
    )
    result = check("--format", "json")
    (found,) = [f for f in report(result)["findings"] if f["rule"] == "QD101"]
    assert found["suppressed"].startswith("our launcher reads it (runs/a.yaml:") and result.exit_code == 0
    assert "our launcher reads it" in check().stdout
    sarif = json.loads(check("--format", "sarif").stdout)
    assert "QD101" not in {r["ruleId"] for r in sarif["runs"][0]["results"]}
    config.write_text(config.read_text().replace("lora_aplha", "lora_alpha"))
    (idle,) = report(check("--format", "json"))["unused_suppressions"]
    assert "ignore[QD101] suppresses nothing" in idle and idle in " ".join(check().stdout.split())


def test_settings_of_the_repository(repo: Path, check: Check) -> None:
    settings = repo / "pyproject.toml"
    settings.write_text('[tool.qlora-doctor]\nselect = ["QD1"]\nignore = ["QD101"]\n')
    result = report(check("--format", "json"))
    rules = {outcome["rule"] for outcome in result["rules"]}
    assert "QD102" in rules and "QD101" not in rules and not [rule for rule in rules if not rule.startswith("QD1")]
    assert "QD301" in {o["rule"] for o in report(check("--select", "QD3", "--format", "json"))["rules"]}
    settings.write_text('[[tool.qlora-doctor.ignore]]\nrule = "QD101"\npath = "runs/*.yaml"\nreason = "known"\n')
    assert check().exit_code == 0
    settings.write_text("[tool.qlora-doctor]\nselekt = []\n")
    assert check().exit_code == 2
    (repo / "mine.toml").write_text('fail-on = "never"\n')
    assert check("--settings", "mine.toml").exit_code == 0


def test_a_budget_of_a_fact(repo: Path, check: Check) -> None:
    settings = repo / "qlora-doctor.toml"
    text = '[budgets]\n"config.lora_r" = {max = %s, level = "%s"}\n'
    quiet = ("--ignore", "QD101", "--format", "json")
    for most, level, code in ((16, "error", 0), (8, "error", 1), (8, "warn", 0)):
        settings.write_text(text % (most, level))
        result = check(*quiet)
        assert result.exit_code == code, result.output
        told = [f["message"] for f in report(result)["findings"] if f["rule"] in ("QD520", "QD521")]
        assert told == ([] if most == 16 else ["1 budget is broken: config.lora_r is 16, above 8."])
    settings.write_text('[budgets]\n"adapter.trainable_ratio" = {max = "1%"}\n')
    (outcome,) = [o for o in report(check(*quiet))["rules"] if o["rule"] == "QD520"]
    assert outcome["status"] == "skipped"  # a check that did not run is never green
    settings.write_text('[budgets]\n"adapter.trainable_share" = {max = 1}\n')
    assert "no fact" in check(*quiet).stderr


def test_the_selection_is_explained(repo: Path, check: Check) -> None:
    (repo / "qlora-doctor.toml").write_text('ignore = ["QD208"]\nprofile = "strict"\nseverity = {QD507 = "error"}\n')
    lines = check("--explain-selection").stdout.splitlines()
    assert lines[0].endswith("qlora-doctor.toml · profile strict")
    by_rule = {line[:5]: line for line in lines[1:]}
    assert "off" in by_rule["QD208"] and by_rule["QD208"].endswith("ignored by QD208")
    assert "error" in by_rule["QD507"] and "(page: " in by_rule["QD507"]
    assert by_rule["QD301"].endswith("in profile min")
    assert "not among the selected" in check("--explain-selection", "--select", "QD3").stdout


def test_profiles_contain_each_other(repo: Path, check: Check) -> None:
    taken = [
        {line[:5] for line in check("--explain-selection", "--profile", profile).stdout.splitlines() if "  on " in line}
        for profile in ("min", "recommended", "strict")
    ]
    assert taken[0] < taken[1] <= taken[2]

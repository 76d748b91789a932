"""Comparisons: changes, regressions, and every format of them."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner

from qlora_doctor.cli import main
from qlora_doctor.core.report import Report
from qlora_doctor.engine.budgets import Budget, hold
from qlora_doctor.reporters.comparing import Comparison, compare
from qlora_doctor.reporters.comparison import FORMATS, in_full, in_short, render
from tests.reporters import fixtures

PEAK = "memory.predicted.peak_allocated_bytes"


def with_budget(report: Report, most: int, level: str = "error") -> Report:
    config = report.facts.config
    assert config is not None
    budget = Budget(PEAK, max=most, level=level)  # type: ignore[arg-type]
    held = config.model_copy(update=hold(report.facts, [budget]))
    return report.model_copy(update={"facts": report.facts.model_copy(update={"config": held})})


def with_peak(report: Report, peak: int) -> Report:
    memory = report.facts.memory
    assert memory is not None and memory.predicted is not None
    picture = memory.predicted.model_copy(update={"peak_allocated_bytes": peak})
    memory = memory.model_copy(update={"predicted": picture, "measured": None})
    return report.model_copy(update={"facts": report.facts.model_copy(update={"memory": memory})})


@pytest.mark.parametrize("name", [name for name in fixtures.ALL if name != "hostile"])
def test_a_report_against_itself(name: str) -> None:
    same = compare(fixtures.ALL[name](), fixtures.ALL[name]())
    assert bool(same.not_seen) is (name == "broken")
    assert not (same.setup or same.facts or same.new or same.gone or same.regressions or same.versions)
    verdict = "no regression in what was seen; not every stage was." if same.not_seen else "nothing changed."
    assert render(same, "text").endswith(f"verdict: {verdict}\n")


def test_what_changed_is_told() -> None:
    changed = compare(fixtures.healthy(), fixtures.broken())
    assert "QD301" in {found.rule for found in changed.new} and not changed.gone
    assert {each.kind for each in changed.regressions} == {"error"}
    back = compare(fixtures.broken(), fixtures.healthy())
    assert {f.rule for f in back.gone} == {f.rule for f in changed.new} and not back.regressions
    assert any(change.path.startswith("adapter.") for change in changed.facts)
    assert not [change for change in changed.facts if change.path.endswith("seconds")]
    assert changed.memory[0].part == "peak_allocated"


def test_suppressed_findings_do_not_take_part() -> None:
    report = fixtures.broken()
    quiet = report.model_copy(update={"findings": [f.model_copy(update={"suppressed": "x"}) for f in report.findings]})
    assert not compare(fixtures.healthy(), quiet).new


@pytest.mark.parametrize(
    ("before", "after", "most", "level", "worse"),
    [
        (10, 12, 11, "error", True),
        (12, 13, 11, "error", True),
        (13, 12, 11, "error", False),  # broken, and better than it was
        (12, 12, 11, "error", False),
        (10, 11, 11, "error", False),
        (10, 12, 11, "warning", False),
    ],
)
def test_regressions_of_a_budget(before: int, after: int, most: int, level: str, worse: bool) -> None:
    sides = [with_budget(with_peak(fixtures.healthy(), peak), most, level) for peak in (before, after)]
    regressions = compare(*sides).regressions
    assert bool(regressions) is worse
    assert all(each.kind == "budget" and PEAK in each.sentence for each in regressions)


@pytest.mark.parametrize("format", FORMATS)
def test_every_format_tells_the_same(format: str) -> None:
    comparison = compare(fixtures.healthy(), fixtures.broken())
    document = render(comparison, format)
    for found in comparison.new:
        assert found.rule in document
    assert "regression" in document or format == "json"
    render(compare(fixtures.not_understood(), fixtures.hostile()), format)


@pytest.mark.parametrize("width", [60, 100])
@pytest.mark.parametrize("before", list(fixtures.ALL))
@pytest.mark.parametrize("after", list(fixtures.ALL))
def test_in_short_is_20_lines_at_most(before: str, after: str, width: int) -> None:
    lines = in_short(compare(fixtures.ALL[before](), fixtures.ALL[after]()), width).splitlines()
    assert len(lines) <= 20 and lines[-1].startswith("verdict: ")
    assert max(map(len, lines[:-1])) <= width


def test_findings_that_stay_are_named() -> None:
    same = compare(fixtures.broken(), fixtures.broken())
    assert {each.rule for each in same.unchanged} == {f.rule for f in fixtures.broken().findings if not f.suppressed}
    assert "unchanged: " in in_short(same) and "QD301" in in_short(same)
    assert "Findings that stay" in in_full(same)


def test_nothing_from_outside_acts_in_html() -> None:
    document = render(compare(fixtures.healthy(), fixtures.hostile()), "html")
    assert "<script" not in document and "<img" not in document
    assert "default-src &#39;none&#39;" in document


def test_two_files(tmp_path: Path) -> None:
    paths = [tmp_path / "a.json", tmp_path / "b.json"]
    for path, report in zip(paths, (fixtures.healthy(), fixtures.broken()), strict=True):
        path.write_text(report.model_dump_json())
    result = CliRunner().invoke(main, ["compare", *map(str, paths), "-o", f"json={tmp_path}/c.json"])
    assert result.exit_code == 1 and "new: error QD301" in result.stdout
    assert Comparison.model_validate_json((tmp_path / "c.json").read_text()).new
    assert CliRunner().invoke(main, ["compare", str(paths[1]), str(paths[0])]).exit_code == 0
    assert CliRunner().invoke(main, ["compare", str(paths[0])]).exit_code == 2
    assert CliRunner().invoke(main, ["compare", *map(str, paths), "--format", "sarif"]).exit_code == 2


def test_a_config_against_a_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from qlora_doctor.writing.starter import starter_config

    monkeypatch.chdir(tmp_path)
    config = tmp_path / "runs" / "a.yaml"
    config.parent.mkdir()
    config.write_text(starter_config("meta-llama/Llama-3.1-8B", "rtx-4090"))
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@example.org"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"]):
        subprocess.run([*git, *command], check=True)
    (tmp_path / "qlora-doctor.toml").write_text('[budgets]\n"config.lora_r" = {max = 32}\n')
    config.write_text(config.read_text().replace("r: 16", "r: 64", 1))
    command = ["compare", "--against", "HEAD", "--stage", "config", "runs/a.yaml"]
    result = CliRunner().invoke(main, [*command, "--format", "json"])
    assert result.exit_code == 1, result.output
    comparison = json.loads(result.stdout)
    assert {"path": "lora.r", "before": 16, "after": 64} in comparison["setup"]
    assert comparison["regressions"] == [{"kind": "budget", "sentence": "config.lora_r is 64, above 32; it was 16."}]
    subprocess.run(["git", "checkout", "-q", "runs/a.yaml"], check=True)
    assert CliRunner().invoke(main, command).exit_code == 0
    for wrong in ("no-such-branch", "--output=x"):
        assert CliRunner().invoke(main, ["compare", f"--against={wrong}", "runs/a.yaml"]).exit_code == 2

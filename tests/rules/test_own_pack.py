"""The worked example of docs/rules/own-rules.md, end to end."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from qlora_doctor.cli import main
from qlora_doctor.run.settings import Settings

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib
from qlora_doctor.writing.starter import starter_config

ROOT = Path(__file__).resolve().parents[2]
PACK = ROOT / "examples" / "team-rules"
PAGE = (ROOT / "docs" / "rules" / "own-rules.md").read_text(encoding="utf-8")


@pytest.fixture
def repo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with the pack and a config that breaks both of its rules."""
    shutil.copytree(PACK, tmp_path / "examples" / "team-rules")
    text = starter_config("meta-llama/Llama-3.1-8B", "rtx-4090")
    (tmp_path / "good.yaml").write_text(text)
    bad = text.replace("r: 16", "r: 128", 1).replace("bf16: true", "bf16: false", 1)
    (tmp_path / "config.yaml").write_text(bad)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments))


def team_findings(*arguments: str) -> dict[str, tuple[str, int | None]]:
    result = run("check", "--stage", "config", "--quiet", "--format", "json", *arguments)
    found = json.loads(result.stdout)["findings"]
    return {each["rule"]: (each["message"], each["location"]["line"]) for each in found if each["rule"][:4] == "TEAM"}


def test_the_pages_pass_their_own_check(repo: Path) -> None:
    result = run("rules", "--check", "examples/team-rules")
    assert result.exit_code == 0 and "2 pages checked, nothing found." in result.stderr


def test_findings_on_the_line(repo: Path) -> None:
    found = team_findings("config.yaml", "--rules", "examples/team-rules")
    lines = (repo / "config.yaml").read_text().splitlines()
    assert found["TEAM001"][0] == "r is 128; our team trains with at most 64."
    assert found["TEAM001"][1] == lines.index("  r: 128") + 1
    assert found["TEAM002"][1] == lines.index("  bf16: false") + 1
    assert team_findings("good.yaml", "--rules", "examples/team-rules") == {}
    assert team_findings("config.yaml") == {}


def test_settings_name_the_pack_for_the_whole_repository(repo: Path) -> None:
    (block,) = re.findall(r"^```toml\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert Settings.model_validate(tomllib.loads(block)).rules
    (repo / "qlora-doctor.toml").write_text(block)
    assert set(team_findings("config.yaml")) == {"TEAM001", "TEAM002"}
    assert set(team_findings("config.yaml", "--select", "TEAM001")) == {"TEAM001"}
    assert set(team_findings("config.yaml", "--select", "TEAM", "--rules", "examples/team-rules")) == {
        "TEAM001",
        "TEAM002",
    }
    assert "What it checks" in run("explain", "bf16-only", "--no-color").stdout
    assert "TEAM001" in run("rules", "--rules", "examples/team-rules").stdout


def test_every_format_tells_of_a_rule_that_is_not_ours(repo: Path) -> None:
    for format in ("text", "html", "sarif", "github", "gitlab", "junit", "markdown"):
        options = ["--stage", "config", "--quiet", "--format", format, "--rules", "examples/team-rules"]
        assert "TEAM001" in run("check", "config.yaml", *options).stdout, format


def test_the_fixes_leave_nothing_to_find(repo: Path) -> None:
    run("check", "config.yaml", "--stage", "config", "--rules", "examples/team-rules", "--fix", "--unsafe-fixes")
    assert "  r: 64\n" in (repo / "config.yaml").read_text()
    assert team_findings("config.yaml", "--rules", "examples/team-rules") == {}


@pytest.mark.parametrize(
    ("name", "old", "new", "told"),
    [
        ("TEAM001-rank-within-team-limit.md", "config.lora_r > params.most", "config.rank > params.most", "rank"),
        ("TEAM001-rank-within-team-limit.md", "r is 128; our", "r is 129; our", "128"),
        ("TEAM002-bf16-only.md", "## When to ignore", "## When to look away", "When to ignore"),
    ],
)
def test_a_broken_page_is_told(repo: Path, name: str, old: str, new: str, told: str) -> None:
    page = repo / "examples" / "team-rules" / name
    text = page.read_text(encoding="utf-8")
    assert old in text
    page.write_text(text.replace(old, new), encoding="utf-8")
    result = run("rules", "--check", "examples/team-rules")
    assert result.exit_code != 0 and told in result.output


def test_pages_that_nobody_would_read_are_told(repo: Path) -> None:
    folder = repo / "examples" / "team-rules"
    (folder / "TEAM002-bf16-only.md").rename(folder / "bf16-only.md")
    result = run("rules", "--check", "examples/team-rules")
    assert result.exit_code == 1 and "bf16-only.md: A page is called ID-name.md" in result.stdout
    (repo / "empty").mkdir()
    assert run("rules", "--check", "empty").exit_code == 1


def test_the_document_shows_the_page_as_it_is() -> None:
    page = (PACK / "TEAM001-rank-within-team-limit.md").read_text(encoding="utf-8")
    (head,) = re.findall(r"^```yaml\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert page.startswith(head)
    assert page[page.index("```json fail") :] in PAGE

"""action.yml, step by step, in an environment that has nothing but a Python and an empty home."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.ci.composite import Run, evaluate, run_action
from tests.ci.recipes import ROOT, read_yaml

ACTION = read_yaml((ROOT / "action.yml").read_text(encoding="utf-8"))
SARIF = "github/codeql-action/upload-sarif@v4"
ARTIFACT = "actions/upload-artifact@v5"
PATTERNS = "configs/**/*.yaml\n!configs/base.yaml\n"
Act = Callable[..., Run]


@pytest.fixture(scope="module")
def installed(clone: Path, pypi: None, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The outputs of the step that installs, run once: actions/setup-python is played by this Python."""
    temp = tmp_path_factory.mktemp("job")
    action = {**ACTION, "runs": {"steps": [step for step in ACTION["runs"]["steps"] if step.get("id") == "install"]}}
    run = run_action(
        action,
        {"configs": ""},
        checkout=temp,
        temp=temp,
        path="/usr/bin:/bin",
        action_path=clone,
        done={"python": {"python-path": sys.executable}},
    )
    assert not run.failed, run.log
    assert run.outputs["install"]["python"].startswith(str(temp))  # an environment of its own
    return run.outputs["install"]


@pytest.fixture
def act(installed: dict[str, str], clone: Path, repo: Path, tmp_path: Path) -> Act:
    def run(event: dict[str, Any] | None = None, **inputs: str) -> Run:
        temp = Path(tempfile.mkdtemp(dir=tmp_path))
        return run_action(
            ACTION,
            {"python-version": "", "configs": PATTERNS, **{key.replace("_", "-"): inputs[key] for key in inputs}},
            checkout=repo,
            temp=temp,
            path="/usr/bin:/bin",
            action_path=clone,
            event=event,
            done={"install": installed},
        )

    return run


@pytest.mark.slow
def test_a_broken_config_fails_the_job_after_the_uploads(act: Act, repo: Path) -> None:
    run = act()
    assert run.failed, run.log
    check = run.outputs["check"]
    assert check["exit-code"] == "1"
    (annotation,) = [line for line in run.log["Check"].splitlines() if line.startswith("::error")]
    assert annotation.startswith("::error file=configs/bad.yaml,line=3,")
    assert run.summary.startswith("<!-- qlora-doctor -->") and "QD" in run.summary
    reports = Path(check["reports"])
    pages = {page.name for page in (reports / "html").iterdir()}
    assert pages == {"index.html", "good one.html", "good.html", "bad.html"}
    assert len(json.loads((reports / "report.json").read_text())) == 3
    assert "<testsuite" in (reports / "junit.xml").read_text() and (reports / "report.md").stat().st_size
    assert run.used[SARIF] == {"sarif_file": check["sarif"], "category": "qlora-doctor"}
    uri = json.loads(Path(check["sarif"]).read_text())["runs"][0]["results"][0]["locations"][0]["physicalLocation"]
    assert uri["artifactLocation"]["uri"] == "configs/bad.yaml"
    assert run.used[ARTIFACT]["path"] == check["reports"]
    assert "findings that count" in run.log["Verdict"]


@pytest.mark.slow
def test_healthy_configs_pass(act: Act) -> None:
    run = act(configs=f"{PATTERNS}!configs/bad.yaml", upload_sarif="false", artifact="")
    assert not run.failed and run.outputs["check"]["exit-code"] == "0", run.log
    assert not run.used


@pytest.mark.slow
def test_inputs_reach_the_command(act: Act, repo: Path) -> None:
    assert not act(fail_on="never").failed
    (repo / "settings.toml").write_text('fail-on = "never"\n')
    assert not act(settings="settings.toml").failed
    first = act(baseline="known.json", args="--write-baseline\n--jobs=1")
    assert not first.failed and (repo / "known.json").exists()
    assert not act(baseline="known.json").failed
    below = act(configs="*.yaml\n!base.yaml", working_directory="configs")
    assert (
        below.failed and "file=configs/bad.yaml" in below.log["Check"]
    )  # from the root of the repository all the same
    assert act(profile="unheard").outputs["check"]["exit-code"] == "2"
    assert act(configs="configs/base.yaml").outputs["check"]["exit-code"] == "2"


@pytest.mark.slow
def test_a_stage_that_cannot_run_is_no_pass(act: Act) -> None:
    run = act(configs="configs/more/good.yaml", stages="config,structure")
    assert run.failed and run.outputs["check"]["exit-code"] == "3"
    assert "could not be completed" in run.log["Verdict"]


@pytest.mark.slow
def test_no_config_is_no_pass(act: Act) -> None:
    run = act(configs="runs/*.yaml")
    assert run.failed and "No file matches the input configs: runs/*.yaml" in run.log["Check"]
    assert SARIF not in run.used


@pytest.mark.slow
def test_a_file_name_is_not_a_command(act: Act, repo: Path) -> None:
    name = "configs/$(touch pwned); echo `id`.yaml"
    (repo / name).write_text((repo / "configs" / "more" / "good.yaml").read_text())
    assert not act(configs=name).failed
    assert not (repo / "pwned").exists()


@pytest.mark.slow
def test_a_fork_uploads_nothing(act: Act) -> None:
    run = act({"pull_request": {"head": {"repo": {"fork": True}}}})
    assert run.failed and SARIF not in run.used and ARTIFACT in run.used


def test_expressions() -> None:
    context = {"inputs": {"a": "x"}, "github": {"event": {"pull_request": {"head": {"repo": {"fork": True}}}}}}
    assert evaluate("inputs.a == 'x' && !cancelled()", context)
    assert not evaluate("!github.event.pull_request.head.repo.fork", context)
    assert evaluate("!github.event.issue.number && inputs.b == ''", context)
    with pytest.raises(ValueError):
        evaluate("hashFiles('**')", context)

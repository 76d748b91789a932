"""The recipe for a runner with a GPU, on a tiny model and the CPU: everything but the card is as it will be."""

from __future__ import annotations

import json
import os
import subprocess
import sysconfig
from pathlib import Path

import pytest

from tests.ci.composite import run_action
from tests.ci.recipes import ROOT, read_yaml, recipe
from tests.ci.test_recipes import uses
from tests.faults.planting import healthy_config

WORKFLOW = recipe("gpu-runner.md", ".github/workflows/qlora-gpu.yml").data()
JOB = WORKFLOW["jobs"]["all-stages"]


def test_nobody_else_is_on_the_card_and_no_fork_runs_on_the_machine() -> None:
    assert WORKFLOW["concurrency"]["group"] and "self-hosted" in JOB["runs-on"]
    assert "!github.event.pull_request.head.repo.fork" in JOB["if"]
    assert "pull_request_target" not in WORKFLOW["on"]


@pytest.mark.slow
def test_all_stages_run_in_the_environment_of_the_training(
    clone: Path, pypi: None, tmp_path: Path, tiny_llama: Path
) -> None:
    pytest.importorskip("torch")
    repo, temp, github_path = tmp_path / "repo", tmp_path / "temp", tmp_path / "path"
    (repo / "configs").mkdir(parents=True)
    temp.mkdir()
    (repo / "requirements.txt").write_text(
        ""
    )  # what a training needs is this environment's, and comes by the next line
    samples = [{"text": f"sample {number} of a data set that is small"} for number in range(64)]
    (repo / "train.jsonl").write_text("".join(json.dumps(sample) + "\n" for sample in samples))
    config = healthy_config(tiny_llama, data={"train": str(repo / "train.jsonl"), "format": "text"})
    (repo / "configs" / "llama.yaml").write_text(json.dumps(config))
    (script,) = [step["run"] for step in JOB["steps"] if "run" in step]
    base = {name: os.environ[name] for name in os.environ if name.startswith(("PIP_", "SSL_")) or name == "PATH"}
    environment = {**base, "HOME": str(tmp_path), "RUNNER_TEMP": str(temp), "GITHUB_PATH": str(github_path)}
    command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", script]
    subprocess.run(command, cwd=repo, env=environment, check=True, capture_output=True)
    training = Path(github_path.read_text().strip())
    (packages,) = training.parent.glob("lib/python*/site-packages")
    (packages / "training.pth").write_text(sysconfig.get_path("purelib") + "\n")

    (step,) = uses(JOB)
    run = run_action(
        read_yaml((ROOT / "action.yml").read_text(encoding="utf-8")),
        {**step["with"], "args": "--device=cpu\n--offline"},
        checkout=repo,
        temp=temp,
        path=os.pathsep.join([str(training), "/usr/bin", "/bin"]),
        action_path=clone,
    )
    assert not run.failed, run.log
    assert run.outputs["install"]["python"] == str(training / "python")
    report = json.loads((Path(run.outputs["check"]["reports"]) / "report.json").read_text())
    assert {stage["name"]: stage["status"] for stage in report["stages"]} == dict.fromkeys(
        step["with"]["stages"].split(","), "done"
    )
    assert report["facts"]["step"]["loss_before"] > 0

"""The job of docs/ci/gitlab.md, line by line, in an environment that has nothing but a Python."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.ci.recipes import recipe

JOB: dict[str, Any] = recipe("gitlab.md", ".gitlab-ci.yml").data()["qlora-doctor"]


def run_lines(lines: list[str], repo: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run a job's lines as a runner does: one shell that ends at the first line that fails."""
    command = ["sh", "-e", "-c", "\n".join(lines)]
    return subprocess.run(command, cwd=repo, env=environment, capture_output=True, text=True, timeout=600)


@pytest.mark.slow
def test_the_job_fails_and_leaves_what_the_merge_request_shows(
    repo: Path, clone: Path, pypi: None, tmp_path: Path
) -> None:
    python = tmp_path / "image"
    subprocess.run([sys.executable, "-m", "venv", str(python)], check=True)
    (repo / "configs" / "base.yaml").unlink()
    pinned = re.fullmatch(r"qlora-doctor==\d+\.\d+\.\d+", JOB["variables"]["QLORA_DOCTOR"])
    assert pinned  # the package is not on an index yet: the clone stands for it
    environment = {
        "PATH": os.pathsep.join([str(python / "bin"), "/usr/bin", "/bin"]),
        "HOME": str(tmp_path),
        "CI": "true",
        "GITLAB_CI": "true",
        "CI_PROJECT_DIR": str(repo),
        "PIP_CACHE_DIR": str(Path("~/.cache/pip").expanduser()),
        **{name: os.environ[name] for name in os.environ if name.startswith(("PIP_", "SSL_"))},
        "QLORA_DOCTOR": str(clone),
    }
    before = run_lines(JOB["before_script"], repo, environment)
    assert before.returncode == 0, before.stderr
    done = run_lines(JOB["script"], repo, environment)
    assert done.returncode == 1 and "QD101" in done.stdout, done.stderr
    assert "\r" not in done.stdout + done.stderr and "\x1b" not in done.stdout + done.stderr
    kept = JOB["artifacts"]
    assert kept["when"] == "always"
    issues = json.loads((repo / kept["reports"]["codequality"]).read_text())
    (worst,) = [issue for issue in issues if issue["check_name"] == "QD101"]
    assert worst["location"] == {"path": "configs/bad.yaml", "lines": {"begin": 3}}
    assert (repo / kept["reports"]["junit"]).read_text().count("<failure") == 1
    pages = {page.name for folder in kept["paths"] for page in (repo / folder).iterdir()}
    assert pages == {"index.html", "bad.html", "good one.html"}

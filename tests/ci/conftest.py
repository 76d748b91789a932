"""What the tests of recipes share: a repository to check, and this project as a clone that others install from."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.ci.recipes import ROOT

HEALTHY = """\
model: meta-llama/Llama-3.1-8B
quantization: {load_in_4bit: true, bnb_4bit_quant_type: nf4, bnb_4bit_compute_dtype: bfloat16}
lora: {r: 16, lora_alpha: 32, target_modules: all-linear, task_type: CAUSAL_LM}
training: {per_device_train_batch_size: 1, learning_rate: 2.0e-4, bf16: true, max_length: 512}
"""
BROKEN = HEALTHY.replace("lora_alpha", "lora_aplha")


def git(folder: Path, *arguments: str) -> str:
    """Run git as somebody; returns what it prints."""
    who = ["-c", "user.name=somebody", "-c", "user.email=somebody@example.org", "-c", "commit.gpgsign=false"]
    command = ["git", *who, *arguments]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout


@pytest.fixture(scope="session")
def pypi() -> None:
    """Skip where no package index answers: the recipes install as a user would."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "index", "versions", "hatchling"]
    asked = subprocess.run(command, capture_output=True, text=True)
    if asked.returncode:
        pytest.skip(f"no package index answers: {asked.stderr.strip().splitlines()[-1]}")


@pytest.fixture(scope="session")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The work tree as it is now, in a repository of one commit."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a checkout")
    folder = tmp_path_factory.mktemp("clone") / "qlora-doctor"
    listed = git(ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard").split("\0")
    for name in filter(None, listed):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes((ROOT / name).read_bytes())
    git(folder, "init", "-q")
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "As it is now")
    git(folder, "tag", "v0.1.0")
    return folder


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    """Somebody's repository: two healthy configs, one that is not, and one that others are made from."""
    folder = tmp_path / "repo"
    (folder / "configs" / "more").mkdir(parents=True)
    (folder / "configs" / "good one.yaml").write_text(HEALTHY)
    (folder / "configs" / "more" / "good.yaml").write_text(HEALTHY)
    (folder / "configs" / "bad.yaml").write_text(BROKEN)
    (folder / "configs" / "base.yaml").write_text("this is no config\n")
    (folder / "yaml.py").write_text("raise SystemExit('the wrong yaml')\n")
    git(folder, "init", "-q")
    return folder

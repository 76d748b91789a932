"""The hook, run by pre-commit itself from a clone of this project."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.ci.conftest import BROKEN, HEALTHY, git
from tests.ci.recipes import ROOT, read_yaml, recipe

(HOOK,) = read_yaml((ROOT / ".pre-commit-hooks.yaml").read_text(encoding="utf-8"))
PRE_COMMIT = [sys.executable, "-m", "pre_commit"]


def test_the_manifest_is_one() -> None:
    command = [*PRE_COMMIT, "validate-manifest", str(ROOT / ".pre-commit-hooks.yaml")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("name", "taken"),
    [
        ("recipes/llama3/sft/config_qlora.yaml", True),
        ("qlora.yml", True),
        ("examples/llama-3/QLoRA-fsdp-70b.yaml", True),
        ("7B_qlora_single_device.toml", True),
        ("qlora-doctor.toml", False),
        ("qlora/README.md", False),
        ("train_qlora.py", False),
        ("qlora/docker-compose.yml", False),
        ("config.json", False),
    ],
)
def test_files_that_are_taken_for_configs(name: str, taken: bool) -> None:
    assert bool(re.search(HOOK["files"], name)) is taken


@pytest.fixture(scope="module")
def environment(clone: Path, pypi: None, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A home in which the hook's environment is built once."""
    home = tmp_path_factory.mktemp("home")
    kept = {name: os.environ[name] for name in os.environ if name.startswith(("PIP_", "SSL_")) or name == "PATH"}
    who = {f"GIT_{role}_{what}": f"somebody@{what}" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    pip = {"PIP_CACHE_DIR": str(Path("~/.cache/pip").expanduser())}
    return {**pip, **kept, **who, "HOME": str(home), "PRE_COMMIT_HOME": str(home / "pre-commit")}


@pytest.fixture
def committed(repo: Path, clone: Path, environment: dict[str, str]) -> Path:
    """Somebody's repository with the documented hook, installed."""
    text = recipe("pre-commit.md", ".pre-commit-config.yaml").text
    (repo / ".pre-commit-config.yaml").write_text(text.replace("https://github.com/OWNER/qlora-doctor", str(clone)))
    for path in ("yaml.py", "configs/base.yaml", "configs/bad.yaml", "configs/good one.yaml"):
        (repo / path).unlink()
    done = subprocess.run([*PRE_COMMIT, "install", "--install-hooks"], cwd=repo, env=environment, capture_output=True)
    assert done.returncode == 0, done.stdout
    git(repo, "add", ".pre-commit-config.yaml")
    return repo


def commit(repo: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    git(repo, "add", "-A")
    command = ["git", "commit", "-m", "Change a config"]
    return subprocess.run(command, cwd=repo, env=environment, capture_output=True, text=True)


@pytest.mark.slow
def test_a_commit_of_a_broken_config_is_stopped(committed: Path, environment: dict[str, str]) -> None:
    config = committed / "configs" / "llama.yaml"
    config.write_text(BROKEN)
    stopped = commit(committed, environment)
    assert stopped.returncode == 1, stopped.stderr
    assert "QD101" in stopped.stderr and "configs/llama.yaml:3:15" in stopped.stderr
    assert "\x1b" not in stopped.stderr and "\r" not in stopped.stderr
    config.write_text(HEALTHY)
    made = commit(committed, environment)
    assert made.returncode == 0 and "Passed" in made.stderr, made.stderr
    (committed / "README.md").write_text("No config.\n")
    assert "no files to check" in commit(committed, environment).stderr


@pytest.mark.slow
def test_the_environment_is_light(committed: Path, environment: dict[str, str]) -> None:
    commit(committed, environment)
    home = Path(environment["PRE_COMMIT_HOME"])
    packages = {path.name for path in home.glob("*/py_env-*/lib/python*/site-packages/*")}
    assert "qlora_doctor" in packages and not packages & {"torch", "transformers", "peft", "bitsandbytes", "numpy"}


@pytest.mark.slow
def test_arguments_of_a_repository(committed: Path, environment: dict[str, str]) -> None:
    ours = recipe("pre-commit.md", ".pre-commit-config.yaml, the hook").data()[0]
    path = committed / ".pre-commit-config.yaml"
    path.write_text(path.read_text() + f"        args: {ours['args']}\n")
    half = HEALTHY.replace("bnb_4bit_compute_dtype: bfloat16", "bnb_4bit_compute_dtype: float16")
    (committed / "configs" / "llama.yaml").write_text(half)
    result = commit(committed, environment)
    assert result.returncode == 1 and "warning[QD113]" in result.stderr, result.stderr


def processor_seconds() -> float:
    """Of the processes that were started here and have ended, and of theirs."""
    spent = os.times()
    return spent.children_user + spent.children_system


@pytest.mark.slow
def test_a_file_costs_little_after_the_installation(committed: Path, environment: dict[str, str]) -> None:
    """A second is the promise; the bound here is of processor time, since the machine of a test is busy."""
    (committed / "configs" / "llama.yaml").write_text(HEALTHY)
    git(committed, "add", "-A")
    took = []
    for _ in range(3):
        began = processor_seconds()
        done = subprocess.run([*PRE_COMMIT, "run"], cwd=committed, env=environment, capture_output=True)
        took.append(processor_seconds() - began)
        assert done.returncode == 0, done.stdout
    assert min(took) < 5

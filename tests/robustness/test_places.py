"""Where a report cannot be written, and what a check leaves behind: nothing but what it was asked to write."""

from __future__ import annotations

import errno
import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.models import make_data
from tests.robustness.conftest import Ran, contents

COMMAND = [sys.executable, "-m", "qlora_doctor", "check", "--stage", "config"]
CONFIG = "model: meta-llama/Llama-3.1-8B\nquantization: {bnb_4bit_compute_dtype: bfloat16}\n"
needs_full = pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "c.yaml"
    path.write_text(CONFIG)
    return path


def command(*arguments: Any, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *map(str, arguments)], capture_output=True, text=True, timeout=60, **options)


@needs_full
def test_full_disk_keeps_the_other_reports(config: Path, tmp_path: Path) -> None:
    done = command(config, "-o", "html=/dev/full", "-o", f"json={tmp_path / 'r.json'}")
    assert done.returncode == 2 and "error: /dev/full cannot be written: No space left on device." in done.stderr
    assert "verdict:" in done.stdout and "Traceback" not in done.stderr
    assert json.loads((tmp_path / "r.json").read_text())["exit_code"] == 0


def test_disk_that_fills_up_while_writing(config: Path, tmp_path: Path) -> None:
    """A report is there whole or not at all; an older one stays."""
    target = tmp_path / "r.json"
    target.write_text("older")

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))

    done = command(
        config, "-o", f"json={target}", preexec_fn=limit, env={**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    )
    assert done.returncode == 2 and f"error: {target} cannot be written: File too large." in done.stderr
    assert "verdict:" in done.stdout and "Traceback" not in done.stderr
    assert target.read_text() == "older"
    assert not [f for f in tmp_path.rglob("*") if f.is_file() and f not in (target, config)], "nothing half-written"


@needs_full
def test_full_stdout(config: Path) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([*COMMAND, config], stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
    assert done.returncode != 0 and "Traceback" not in done.stderr
    assert "No space left" in done.stderr


def test_read_only_folder_is_told_before_anything_is_paid_for(
    doctor: Callable[..., Ran], config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o555)
    if os.geteuid() == 0:  # permissions do not bind: the file system refuses
        genuine = tempfile.TemporaryFile

        def refuse(*arguments: Any, **options: Any) -> Any:
            if Path(options.get("dir", "")) == folder:
                raise OSError(errno.EROFS, "Read-only file system")
            return genuine(*arguments, **options)

        monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    monkeypatch.setattr("qlora_doctor.run.checking.run_check", lambda *a: pytest.fail("a probe was paid for"))
    ran = doctor(config, "-o", f"html={folder}/r.html")
    assert ran.code == 2 and f"{folder}/r.html cannot be written" in ran.error
    assert list(folder.iterdir()) == []


def test_no_home_and_no_cache(config: Path, tmp_path: Path) -> None:
    """A container's user often has neither."""
    for home in (str(tmp_path / "nowhere"), "/dev/null"):
        done = command(config, env={**os.environ, "HOME": home, "XDG_CACHE_HOME": home})
        assert done.returncode == 0, done.stderr
    script = "import os; os.environ.pop('HOME', 0); os.environ.pop('XDG_CACHE_HOME', 0); import pwd\n"
    script += "def nobody(*a): raise KeyError\npwd.getpwuid = nobody\nfrom qlora_doctor.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", script, "check", "--stage", "config", config], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ["a" * 5000, "~nobody-of-this-name/model", "a/b/c/d", "org/mod el:@!", "\u202e/x"])
def test_names_that_no_file_can_have(
    name: str, doctor: Callable[..., Ran], config_for: Callable[..., Path], tmp_path: Path
) -> None:
    pytest.importorskip("torch")
    ran = doctor(config_for(name, data={"train": name}))
    assert ran.code == 1 and ran.rules == {"QD106"}, ran.stdout
    assert "Traceback" not in ran.stderr and ran.stages["structure"]["status"] == "failed"
    adapter = {"name_or_path": "meta-llama/Llama-3.1-8B", "adapter": name}
    ran = doctor(config_for(name, model=adapter), "--stage", "structure")
    assert ran.code == 3 and "Traceback" not in ran.stderr


@pytest.mark.parametrize("trainer", ["transformers", "trl"])
def test_a_full_check_leaves_everything_as_it_was(
    trainer: str, copied: Path, tmp_path: Path, doctor: Callable[..., Ran], config_for: Callable[..., Path]
) -> None:
    """Model, config, data and working directory keep bytes, times and modes; reading needs no right to write."""
    pytest.importorskip("bitsandbytes")
    pytest.importorskip(trainer)
    make_data(tmp_path / "train.jsonl")
    config = config_for(
        copied,
        data={"train": "train.jsonl", "format": "messages"},
        training={"trainer": trainer, "max_length": 64, "output_dir": str(tmp_path / "out"), "report_to": "all",
                  "save_strategy": "steps", "logging_dir": str(tmp_path / "logs"), "push_to_hub": True},
    )  # fmt: skip
    for file in copied.iterdir():
        file.chmod(0o444)
    copied.chmod(0o555)
    before = contents(tmp_path)
    ran = doctor(config)
    (tmp_path / "written.json").unlink()
    assert ran.code == 0, ran.stdout
    assert {n: ran.stages[n]["status"] for n in ("structure", "data", "load", "step")} == dict.fromkeys(
        ("structure", "data", "load", "step"), "done"
    )
    assert contents(tmp_path) == before


def test_full_temporary_folder(
    copied: Path, doctor: Callable[..., Ran], config_for: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("bitsandbytes")

    def full(*arguments: Any, **options: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("qlora_doctor.pipeline.trainer.tempfile.TemporaryDirectory", full)
    ran = doctor(config_for(copied), "--stage", "step")
    assert ran.code == 3 and "No space left on device" in ran.stages["step"]["reason"]
    assert ran.rules == {"QD904"} and ran.stages["step"]["remedy"] == "Free disk space."
    assert ran.stages["load"]["status"] == "done"

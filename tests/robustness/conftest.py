"""The command as a user runs it, and setups with one thing wrong."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from qlora_doctor.cli import main
from tests.faults.planting import healthy_config, run_stages_here, write


@dataclass(frozen=True)
class Ran:
    """What a user gets from one ``check``: the exit code, both streams, and the JSON report, if one was written."""

    code: int
    stdout: str
    stderr: str
    report: Any

    @property
    def stages(self) -> dict[str, Any]:
        return {stage["name"]: stage for stage in self.report["stages"]}

    @property
    def rules(self) -> set[str]:
        """Rules with a warning or an error."""
        return {f["rule"] for f in self.report["findings"] if f["severity"] != "info"}

    def message(self, rule: str) -> str:
        return next(f["message"] for f in self.report["findings"] if f["rule"] == rule)

    @property
    def error(self) -> str:
        """The sentence of the error on stderr."""
        lines = [line for line in self.stderr.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1, self.stderr
        return lines[0].removeprefix("error: ")


@pytest.fixture
def doctor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Ran]:
    """``doctor(config, "--stage", "load")``: the command, its real stages in this process to import torch once.

    Whatever goes wrong, no traceback may reach the user, and the report has to be a whole document.
    """
    monkeypatch.setattr("qlora_doctor.worker.runner.run_stages", run_stages_here)
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.chdir(tmp_path)

    def run(*arguments: Any, device: str = "cpu") -> Ran:
        written = tmp_path / "written.json"
        written.unlink(missing_ok=True)
        options = ["--offline", "--device", device, "-o", f"json={written}"]
        result = CliRunner().invoke(main, ["check", *map(str, arguments), *options])
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        assert "Traceback" not in result.stdout
        report = json.loads(written.read_text()) if written.is_file() else None
        return Ran(result.exit_code, result.stdout, result.stderr, report)

    return run


@pytest.fixture
def copied(tiny_llama: Path, tmp_path: Path) -> Path:
    """A copy of the tiny Llama, to be damaged."""
    return Path(shutil.copytree(tiny_llama, tmp_path / "model"))


@pytest.fixture
def config_for(tmp_path: Path) -> Callable[..., Path]:
    """``config_for(folder, lora={…})``: the config file of a setup that is healthy but for what the test does to it."""

    def make(model: Path | str, /, name: str = "config.json", **sections: Any) -> Path:
        return write(tmp_path / name, healthy_config(Path(model), **sections))

    return make


def contents(*folders: Path) -> dict[str, Any]:
    """Every file below the folders: bytes and times."""
    files = [f for folder in folders for f in sorted(folder.rglob("*"))]
    return {str(f): (f.stat().st_mtime_ns, f.stat().st_mode, f.is_file() and f.read_bytes()) for f in files}

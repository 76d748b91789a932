"""The wheel: holds what it should, and works where there is no torch and no checkout."""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True, text=True)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The command in a fresh environment with the light dependencies alone."""
    folder = tmp_path_factory.mktemp("clean") / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    bin_folder = folder / ("Scripts" if sys.platform == "win32" else "bin")
    pip = [str(bin_folder / "python"), "-m", "pip", "--disable-pip-version-check", "install", "-q"]
    subprocess.run([*pip, "-c", str(ROOT / "constraints.txt"), str(wheel)], check=True, capture_output=True, text=True)
    return bin_folder / "qlora-doctor"


def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0].split("-")[0] for name in names} == {"qlora_doctor"}
    pages = [name for name in names if name.startswith("qlora_doctor/_rules/QD")]
    assert len(pages) == len(list((ROOT / "rules").glob("QD*.md")))
    assert "qlora_doctor/py.typed" in names and "qlora_doctor/_rules/healthy.json" in names
    assert any(name.startswith("qlora_doctor/_reports/html/") for name in names)
    assert {"qlora_doctor/tables/meanings.yaml", "qlora_doctor/_reports/schema/config-v1.schema.json"} <= set(names)
    assert not [name for name in names if name.endswith((".pyc", ".tmp", ".orig"))]


def test_the_source_distribution_builds_the_same_wheel(wheel: Path, tmp_path: Path) -> None:
    """What an index serves beside the wheel: complete without the checkout, and without what only a checkout needs."""
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True, text=True)  # the wheel is built from the sdist
    with tarfile.open(next(tmp_path.glob("*.tar.gz"))) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"LICENSE", "README.md", "CHANGELOG.md", "rules/healthy.json", "qlora_doctor/py.typed"} <= names
    assert not [name for name in names if name.startswith(("tests/", "benchmarks/", "reports/examples/", ".venv"))]
    again = zipfile.ZipFile(next(tmp_path.glob("*.whl")))
    assert sorted(again.namelist()) == sorted(zipfile.ZipFile(wheel).namelist())


def run(command: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(command), *arguments], cwd=folder, capture_output=True, text=True, timeout=120)


def test_light_commands_from_another_folder(installed: Path, tmp_path: Path) -> None:
    rules = json.loads(run(installed, tmp_path, "rules", "--format", "json").stdout)
    assert len(rules) == len(list((ROOT / "rules").glob("QD*.md")))
    assert "QD301" in run(installed, tmp_path, "explain", "QD301").stdout
    init = run(installed, tmp_path, "init", "--model", "Qwen/Qwen3-8B", "--gpu", "rtx-4090", "-o", "config.yaml")
    assert init.returncode == 0, init.stderr
    done = run(installed, tmp_path, "check", "config.yaml", "-o", "json=report.json", "-o", "html=report.html")
    assert done.returncode == 0, done.stdout + done.stderr
    again = run(installed, tmp_path, "report", "report.json", "-o", "html=again.html")
    assert again.returncode == 0 and (tmp_path / "again.html").stat().st_size > 10_000


def test_a_stage_without_its_packages_names_the_command_that_supplies_them(installed: Path, tmp_path: Path) -> None:
    run(installed, tmp_path, "init", "--model", "Qwen/Qwen3-8B", "--gpu", "rtx-4090", "-o", "config.yaml")
    run(installed, tmp_path, "check", "config.yaml", "-o", "json=report.json")
    stages = {stage["name"]: stage for stage in json.loads((tmp_path / "report.json").read_text())["stages"]}
    assert stages["config"]["status"] == "done"
    assert stages["structure"]["status"] == "skipped"
    assert "qlora-doctor[probe]" in stages["structure"]["remedy"]


def test_a_stage_asked_for_that_cannot_run_is_exit_code_3(installed: Path, tmp_path: Path) -> None:
    run(installed, tmp_path, "init", "--model", "Qwen/Qwen3-8B", "--gpu", "rtx-4090", "-o", "config.yaml")
    assert run(installed, tmp_path, "check", "--stage", "structure", "config.yaml").returncode == 3

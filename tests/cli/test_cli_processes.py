"""The command as a process: what it imports, pipes that close, signals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

HEAVY = {"torch", "transformers", "peft", "bitsandbytes", "accelerate", "datasets", "trl", "numpy", "rich"}
COMMAND = [sys.executable, "-m", "qlora_doctor"]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text("model: meta-llama/Llama-3.1-8B\nlora: {r: 16, lora_aplha: 32}\n")
    return path


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["check", "--help"], ["rules"], ["explain", "QD207"], ["env"], ["schema", "config"],
     ["explain", "--symptom", "loss is nan"], ["check", "--stage", "config", "CONFIG"],
     ["init", "--model", "x/y", "--gpu", "t4"]],
    ids=" ".join,
)  # fmt: skip
def test_nothing_heavy_is_imported(config: Path, arguments: list[str]) -> None:
    arguments = [str(config) if argument == "CONFIG" else argument for argument in arguments]
    script = (
        "import json, sys\nfrom qlora_doctor.cli import main\n"
        f"try:\n    main({arguments!r})\nexcept SystemExit:\n    pass\n"
        "print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    loaded = set(json.loads(done.stderr.splitlines()[-1]))
    assert not loaded & HEAVY


def test_a_pipe_that_closes_early() -> None:
    with subprocess.Popen([*COMMAND, "rules"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        errors = process.stderr.read()
    assert "Traceback" not in errors


def test_a_working_directory_that_shadows_libraries(config: Path) -> None:
    (config.parent / "yaml.py").write_text("raise SystemExit('the wrong yaml')")
    command = [str(Path(sys.executable).with_name("qlora-doctor"))]
    if not Path(command[0]).exists():
        pytest.skip("the command is not installed")
    done = subprocess.run([*command, "check", "--stage", "config", config], cwd=config.parent, capture_output=True)
    assert done.returncode in (0, 1), done.stderr


@pytest.mark.slow
def test_ctrl_c_ends_the_child_and_keeps_the_report(config: Path) -> None:
    pytest.importorskip("torch")
    report = config.parent / "r.json"
    process = subprocess.Popen(
        [*COMMAND, "check", config, "--stage", "structure", "-o", f"json={report}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("structure"):
            break
    time.sleep(1.0)  # within the import of torch, in the child
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 3 and "Traceback" not in errors
    stages = {stage["name"]: stage for stage in json.loads(report.read_text())["stages"]}
    assert stages["config"]["status"] == "done" and stages["structure"]["status"] != "done"

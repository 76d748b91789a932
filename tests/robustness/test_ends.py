"""Every way in which a check ends early: what was known by then is told, and the exit code says that it is not all."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qlora_doctor.worker.runner import run_stages
from tests.robustness.conftest import Ran

COMMAND = [sys.executable, "-m", "qlora_doctor", "check"]


@pytest.fixture
def child(monkeypatch: pytest.MonkeyPatch, doctor: Callable[..., Ran]) -> Callable[[str], None]:
    """``child(code)``: a real child process, which does this in the place of stage ``load``."""
    monkeypatch.setattr("qlora_doctor.worker.runner.run_stages", run_stages)

    def plant(code: str) -> None:
        lines = [
            "import sys; sys.path[:] = [p for p in sys.path if p] + [PARENT]",
            "from qlora_doctor.facts import LoadFacts",
            "from qlora_doctor.worker import worker",
            "def planted(run):",
            '    run.learn("load", LoadFacts(device="cpu", bytes_read=7))',
            '    run.progress("Loading the base")',
            textwrap.indent(textwrap.dedent(code).strip(), "    "),
            "worker.STAGES['load'] = planted",
            "worker.main()",
        ]
        entry = "\n".join(lines).replace("{", "{{").replace("}", "}}").replace("PARENT", "{parent!r}")
        monkeypatch.setattr("qlora_doctor.worker.process._ENTRY", entry)

    return plant


EARLY: dict[str, tuple[str, str, str]] = {
    # id: (what the child does, a part of the reason, the rule)
    "killed": ("import os; os.kill(os.getpid(), 9)", "killed (SIGKILL)", "QD902"),
    "crashed": ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "ended by signal SIGSEGV", "QD902"),
    "hangs": ("import time; time.sleep(600)", "It took longer than 3 s.", "QD901"),
}


@pytest.mark.parametrize("case", EARLY.values(), ids=EARLY)
def test_child_that_ends_early(
    case: tuple[str, str, str], child: Any, doctor: Callable[..., Ran], config_for: Callable[..., Path], tmp_path: Path
) -> None:
    pytest.importorskip("torch")
    code, reason, rule = case
    child(code)
    ran = doctor(config_for(tmp_path), "--stage", "load", *(["--timeout", "3"] if rule == "QD901" else []))
    assert ran.code == 3 and "Traceback" not in ran.stderr
    load = ran.stages["load"]
    assert load["status"] == "failed" and reason in load["reason"] and "loading the base" in load["reason"]
    assert load["remedy"]
    assert rule in ran.rules
    # What the child had told is kept.
    assert ran.report["facts"]["load"]["bytes_read"] == 7 and ran.stages["config"]["status"] == "done"


def test_child_that_runs_out_of_host_memory(
    child: Any, doctor: Callable[..., Ran], config_for: Callable[..., Path], tmp_path: Path
) -> None:
    """Its address space is limited, as a container or `ulimit -v` may do; torch is imported before."""
    pytest.importorskip("torch")
    child(
        """
        import re, resource, torch
        from qlora_doctor.probes import failures
        used = int(re.search(r"VmSize:\\s+(\\d+)", open("/proc/self/status").read())[1]) * 1024
        resource.setrlimit(resource.RLIMIT_AS, (used + (256 << 20),) * 2)
        torch.empty(1 << 30)
        """
    )
    ran = doctor(config_for(tmp_path), "--stage", "load")
    assert ran.code == 3 and "Traceback" not in ran.stderr
    assert ran.stages["load"]["status"] == "failed" and ran.stages["load"]["remedy"]
    assert "memory" in ran.stages["load"]["reason"]
    assert ran.report["facts"]["load"]["bytes_read"] == 7


OUT_OF_MEMORY = {
    "gpu": ("QD422", "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 15.77 GiB."),
    "host": ("QD423", "[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory"),
}


@pytest.mark.parametrize("where", OUT_OF_MEMORY)
def test_step_that_runs_out_of_memory(
    where: str, tiny_llama: Path, doctor: Callable[..., Ran], config_for: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """The second step does not fit any more; the first was seen."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    rule, message = OUT_OF_MEMORY[where]
    genuine, steps = transformers.Trainer.training_step, []

    def training_step(*arguments: Any, **options: Any) -> Any:
        steps.append(1)
        if len(steps) > 1:
            raise (torch.cuda.OutOfMemoryError if where == "gpu" else RuntimeError)(message)
        return genuine(*arguments, **options)

    monkeypatch.setattr(transformers.Trainer, "training_step", training_step)
    ran = doctor(config_for(tiny_llama), "--stage", "step")
    assert ran.code == 3 and ran.rules == {rule}, ran.stdout
    step = ran.stages["step"]
    assert step["status"] == "failed" and message[-20:-1] in step["reason"]
    assert step["remedy"] and "Traceback" not in ran.stderr
    seen = ran.report["facts"]["step"]
    assert seen["loss_before"] is not None and seen["optimizer"]["parameters"], "what the first step showed is kept"
    assert ran.stages["load"]["status"] == "done"


def test_load_that_runs_out_of_memory(
    tiny_llama: Path, doctor: Callable[..., Ran], config_for: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch = pytest.importorskip("torch")

    def full(*arguments: Any, **options: Any) -> Any:
        raise torch.cuda.OutOfMemoryError(OUT_OF_MEMORY["gpu"][1])

    monkeypatch.setattr("transformers.LlamaForCausalLM.from_pretrained", full)
    ran = doctor(config_for(tiny_llama), "--stage", "step")
    assert ran.code == 3 and ran.rules == {"QD225"}, ran.stdout
    assert ran.stages["load"]["status"] == "failed" and ran.stages["load"]["remedy"]
    assert ran.stages["step"]["status"] == "skipped"


@pytest.mark.parametrize(("device", "reason"), [("cuda", "no CUDA device"), ("abacus", "no device called 'abacus'")])
def test_device_that_is_not_there(
    device: str, reason: str, tiny_llama: Path, doctor: Callable[..., Ran], config_for: Callable[..., Path]
) -> None:
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available() and device == "cuda":
        pytest.skip("there is one")
    ran = doctor(config_for(tiny_llama), device=device)
    assert ran.code == 3 and reason in ran.stages["load"]["reason"] and ran.stages["load"]["remedy"]
    assert ran.stages["structure"]["status"] == "done"


@pytest.fixture(scope="module")
def long_step(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A healthy setup whose step takes minutes."""
    from tests.faults.planting import healthy_config, write

    training = {"gradient_accumulation_steps": 5000}
    return write(tmp_path_factory.mktemp("long") / "c.json", healthy_config(tiny_llama, training=training))


@pytest.mark.slow
@pytest.mark.parametrize("how", ["ctrl-c", "killed"])
def test_real_step_that_is_cut_short(how: str, long_step: Path, tmp_path: Path) -> None:
    """The command as a process, its real child in the midst of a step."""
    pytest.importorskip("bitsandbytes")
    report = tmp_path / "r.json"
    options = ["--stage", "structure,load,step", "--offline", "--device", "cpu", "-o", f"json={report}"]
    process = subprocess.Popen(
        [*COMMAND, str(long_step), *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("step"):
            break
    time.sleep(0.5)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert len(children) == 1
    if how == "ctrl-c":
        process.send_signal(signal.SIGINT)
    else:
        os.kill(int(children[0]), signal.SIGKILL)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 3 and "Traceback" not in errors + output
    document = json.loads(report.read_text())
    stages = {stage["name"]: stage for stage in document["stages"]}
    assert stages["structure"]["status"] == stages["load"]["status"] == "done"
    assert document["facts"]["load"]["failure"]["kind"] == "none" and document["facts"]["adapter"]["attached"]
    if how == "ctrl-c":
        assert stages["step"]["reason"] == "The check was interrupted."
    else:
        assert stages["step"]["status"] == "failed" and "SIGKILL" in stages["step"]["reason"]
        assert "QD902" in {finding["rule"] for finding in document["findings"]}
    assert not Path(f"/proc/{children[0]}").exists(), "the child is gone"
    assert "verdict:" in output

"""``qlora-doctor run``: real commands in processes of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
LOOP = """
import sys
sys.path.insert(0, {root!r})
import torch
from tests.watching.loops import adamw, adapted, batches, trainable, train
model = adapted({model!r}, lora_dropout=0.1)
optimizer = adamw(model)
torch.manual_seed(3)
"""
BODY = """
print([repr(loss) for loss in train(model, optimizer, accumulate=2)])
print(float(sum(p.double().sum() for p in trainable(model))), torch.rand(1).item())
print(torch.nn.Module.__call__.__module__, sum(len(m._forward_hooks) for m in model.modules()))
"""


def environment(tmp_path: Path) -> dict[str, str]:
    keep = {name: value for name, value in os.environ.items() if not name.startswith("QLORA_DOCTOR")}
    # As where the package is installed: the tests' own checkout in front, and nothing else of it.
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return keep | {"PYTHONPATH": path, "QLORA_DOCTOR_RUNS": str(tmp_path / "runs"), "OMP_NUM_THREADS": "1"}


def run(tmp_path: Path, *command: str, options: tuple[str, ...] = (), **more: Any) -> subprocess.CompletedProcess[str]:
    doctor = [sys.executable, "-m", "qlora_doctor", "run", *options, "--", *command]
    return subprocess.run(
        doctor, capture_output=True, text=True, timeout=300, env=environment(tmp_path), cwd=tmp_path, **more
    )


def script(tmp_path: Path, model: Path, body: str = BODY) -> str:
    path = tmp_path / "train.py"
    path.write_text(LOOP.format(root=str(ROOT), model=str(model)) + body, encoding="utf-8")
    return str(path)


def report_of(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def rules_of(report: dict[str, Any]) -> set[str]:
    return {f["rule"] for f in report["findings"] if f["severity"] != "info"}


def test_a_loop_is_watched_and_left_alone(tiny_llama: Path, tmp_path: Path) -> None:
    path = script(tmp_path, tiny_llama)
    alone = subprocess.run(
        [sys.executable, path], capture_output=True, text=True, timeout=300, env=environment(tmp_path), check=True
    )
    done = run(tmp_path, sys.executable, path, options=("-o", "json=report.json", "-o", "html=report.html"))
    assert done.returncode == 0, done.stderr
    assert done.stdout == alone.stdout  # losses, weights and random state to the last bit; and nothing of ours stays
    report = report_of(tmp_path / "report.json")
    assert not rules_of(report), report["findings"]
    assert report["facts"]["run"]["watched_steps"] == 2 and report["facts"]["run"]["kind"] == "loop"
    assert [stage["status"] for stage in report["stages"]] == ["done"] * 6
    assert "verdict: nothing found" in done.stderr and (tmp_path / "report.html").is_file()


def test_input_output_and_exit_code_pass_through(tmp_path: Path) -> None:
    code = "import sys; print(sys.stdin.read().upper()); print('told', file=sys.stderr); sys.exit(7)"
    done = run(tmp_path, sys.executable, "-c", code, input="words")
    assert (done.returncode, done.stdout) == (7, "WORDS\n")
    assert done.stderr.startswith("told\n") and "qlora-doctor:" in done.stderr


def test_a_process_without_torch_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "sitecustomize.py").write_text("import sys; sys.theirs = True\n", encoding="utf-8")
    code = (
        "import sys, sitecustomize; names = {n.partition('.')[0] for n in sys.modules};"
        "print(getattr(sys, 'theirs', False), 'own' in sitecustomize.__file__, names & {'qlora_doctor', 'wrapt'},"
        "[p for p in sys.path if 'watching' in p])"
    )
    path = os.pathsep.join([str(tmp_path / "own"), environment(tmp_path)["PYTHONPATH"]])
    doctor = [sys.executable, "-m", "qlora_doctor", "run", "-q", "--records", "kept", "--", sys.executable, "-c", code]
    around = environment(tmp_path) | {"PYTHONPATH": path}
    done = subprocess.run(doctor, capture_output=True, text=True, timeout=60, cwd=tmp_path, env=around)
    assert done.stdout == "True True set() []\n", done.stderr
    assert {file.name for file in (tmp_path / "kept").iterdir()} == {"options.json", "started.json", "ended.json"}


def test_killed(tiny_llama: Path, tmp_path: Path) -> None:
    body = "import os\ntrain(model, optimizer, after=lambda n: os.kill(os.getpid(), 9) if n == 5 else None)\n"
    done = run(tmp_path, sys.executable, script(tmp_path, tiny_llama, body), options=("-o", "json=report.json"))
    report = report_of(tmp_path / "report.json")
    assert done.returncode == 137 and rules_of(report) == {"QD751"}
    assert report["facts"]["step"]["changed_base_tensors"] == []  # what was known by then


def test_stop_after(tiny_llama: Path, tmp_path: Path) -> None:
    body = "train(model, optimizer, after=lambda n: print(n, flush=True))\n"
    path = script(tmp_path, tiny_llama, body)
    done = run(tmp_path, sys.executable, path, options=("-q", "--stop-after", "3", "-o", "json=report.json"))
    assert (done.returncode, done.stdout.split()) == (0, ["1", "2", "3"]), done.stderr
    assert report_of(tmp_path / "report.json")["facts"]["run"]["ended"] == "stopped"
    failing = run(tmp_path, sys.executable, "-c", "raise SystemExit(5)", options=("-q", "--stop-after", "3"))
    assert failing.returncode == 3 and "exit code 5" in failing.stderr


def test_abort_on_a_finding(tiny_llama: Path, tmp_path: Path) -> None:
    body = (
        "import time\n"
        "half = torch.optim.AdamW(trainable(model)[::2], lr=2e-4)\n"
        "train(model, half, list(batches(400)), after=lambda n: time.sleep(0.05))\nprint('to the end')\n"
    )
    path = script(tmp_path, tiny_llama, body)
    done = run(tmp_path, sys.executable, path, options=("--abort-on", "error", "-o", "json=report.json"))
    assert done.returncode == 1 and "to the end" not in done.stdout
    assert rules_of(report_of(tmp_path / "report.json")) == {"QD416"}


@pytest.mark.parametrize(("wrapped", "rules"), [(True, set()), (False, {"QD820", "QD821"})])
def test_two_ranks(tiny_llama: Path, tmp_path: Path, wrapped: bool, rules: set[str]) -> None:
    """The healthy twin calls DistributedDataParallel on data of its own; the other one the model inside it."""
    body = f"""
import torch.distributed as dist
dist.init_process_group("gloo")
rank = dist.get_rank()
parallel = torch.nn.parallel.DistributedDataParallel(model)
rows = list(batches(6))
data = rows[rank::2] if {wrapped} else rows[:3]
torch.manual_seed(rank)
train(parallel if {wrapped} else model, optimizer, data)
dist.destroy_process_group()
"""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = run(tmp_path, *command, script(tmp_path, tiny_llama, body), options=("-o", "json=report.json"))
    assert done.returncode == 0, done.stderr
    report = report_of(tmp_path / "report.json")
    assert rules_of(report) == rules, report["findings"]
    assert [rank["rank"] for rank in report["facts"]["run"]["ranks"]] == [0, 1]


@pytest.mark.parametrize(("how", "rules"), [("frozen", {"QD323"}), ("without gradients", {"QD404"})])
def test_a_training_that_shows_no_training_forward(tiny_llama: Path, tmp_path: Path, how: str, rules: set[str]) -> None:
    """It dies in backward, or goes on with nothing that trains: what is there is looked at when the process ends."""
    frozen = (
        "from peft import PeftModel\nmodel.save_pretrained('adapter')\n"
        "model = PeftModel.from_pretrained(model.unload(), 'adapter')\n"
        "optimizer = torch.optim.AdamW([p for p in model.parameters() if p.is_floating_point()], lr=2e-4)\n"
    )
    body = (
        frozen + "train(model, optimizer)\n"
        if how == "frozen"
        else "with torch.no_grad():\n    train(model, optimizer)\n"
    )
    done = run(tmp_path, sys.executable, script(tmp_path, tiny_llama, body), options=("-q", "-o", "json=report.json"))
    assert done.returncode == 1
    report = report_of(tmp_path / "report.json")
    assert rules_of(report) == rules, report["findings"]


def test_the_config_of_a_command_explains_its_data(tmp_path: Path) -> None:
    from qlora_doctor.run.explaining import config_in

    config = tmp_path / "qlora.yml"
    config.write_text("base_model: some/model\nadapter: qlora\nload_in_4bit: true\nmicro_batch_size: 2\nnum_epochs: 1\n"
                      "datasets:\n  - path: x.jsonl\n    type: chat_template\n", encoding="utf-8")  # fmt: skip
    found = config_in(["axolotl", "train", str(config)])
    assert found is not None and found.dialect == "axolotl"
    assert config_in(["python", "train.py", str(tmp_path / "nothing.yml")]) is None

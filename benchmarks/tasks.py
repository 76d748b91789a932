"""Ten everyday tasks, as a new user does them, each timed: seconds on the clock and of the processor.

    python benchmarks/tasks.py [--only N,…] [--out benchmarks/results/tasks.json]

Run it on a machine that does nothing else. Each task starts with an empty cache of its own
(rule pages are read anew as well), but those that say "again".
No network, no GPU and no weights are needed; the small model of the later tasks is made by ``qlora-doctor demo``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Task:
    """What somebody wants, and what is typed; ``{demo}`` is the folder of the demo's model, ``{out}`` an empty one.

    Attributes:
        again: whether the cache of the task before is kept.
        expected: exit codes that the task may end with.
    """

    name: str
    command: str
    again: bool = False
    expected: tuple[int, ...] = (0,)


TASKS = (
    Task("Does it fit? A known model, no file", "plan --model Qwen/Qwen2.5-14B --gpu rtx-4090 --r 32 --batch 2 "
         "--sequence 4096"),
    Task("Does it fit? A model without kept traces", "plan --model google/gemma-2-9b --gpu rtx-4090 --batch 2 "
         "--sequence 2048"),
    Task("The same model again, another batch and card", "plan --model google/gemma-2-9b --gpu a100-80gb --batch 8 "
         "--sequence 2048", again=True),
    Task("A table of batch × length", "plan --model meta-llama/Llama-3.1-8B --gpu rtx-4090 -o html={out}/plan.html"),
    Task("A config that does not fit: what makes it fit", "cure {demo}/large.yaml"),
    Task("Start a config", "init --model meta-llama/Llama-3.1-8B --gpu rtx-4090 -o {out}/config.yaml"),
    Task("Check a healthy setup, a real step included", "check {demo}/healthy.json -o html={out}/report.html"),
    Task("Check it again", "check {demo}/healthy.json", again=True),
    Task("Check a broken setup and see the fixes", "check {demo}/broken.json --diff", expected=(0, 1)),
    Task("What is it, from a symptom", "explain --symptom 'the loss does not go down'"),
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", default="", help="numbers of tasks, by commas")
    parser.add_argument("--out", type=Path, help="write the figures here as JSON")
    given = parser.parse_args()
    wanted = {int(each) for each in given.only.split(",") if each} or set(range(1, len(TASKS) + 1))
    with tempfile.TemporaryDirectory() as folder:
        rows = run(Path(folder), wanted)
    if given.out is not None:
        machine = {"cores": os.cpu_count(), "platform": platform.platform(), "python": platform.python_version()}
        given.out.write_text(json.dumps({"machine": machine, "tasks": rows}, indent=2) + "\n")
    sys.exit(0 if all(row["as_expected"] for row in rows) else 1)


def run(folder: Path, wanted: set[int]) -> list[dict[str, Any]]:
    """The figures of the tasks that are wanted."""
    from qlora_doctor.cli.example import make

    demo = folder / "demo"
    make(demo)
    rows = []
    print(f"{'':3} {'seconds':>8} {'of CPU':>8} {'first sign':>11}  task")
    cache = folder / "cache-0"
    for number, task in enumerate(TASKS, 1):
        if number not in wanted:
            continue
        cache = cache if task.again else folder / f"cache-{number}"
        out = folder / f"out-{number}"
        out.mkdir()
        command = task.command.format(demo=demo, out=out)
        row = {"number": number, "name": task.name, "command": f"qlora-doctor {task.command}"}
        row |= timed(command, cache, task.expected)
        rows.append(row)
        first = "-" if row["first_sign"] is None else f"{row['first_sign']:.2f}"
        wrong = "" if row["as_expected"] else f"  (exit code {row['exit_code']})"
        print(f"{number:3} {row['seconds']:8.2f} {row['cpu_seconds']:8.2f} {first:>11}  {task.name}{wrong}", flush=True)
    return rows


def timed(command: str, cache: Path, expected: tuple[int, ...]) -> dict[str, Any]:
    """Run a command; ``first_sign`` is when a first byte was on the screen, ``silence`` the longest pause after it."""
    import shlex

    environment = os.environ | {
        "PYTHONPATH": str(ROOT), "QLORA_DOCTOR_CACHE": str(cache), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "qlora_doctor", *shlex.split(command)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment, cwd=cache.parent,
    )  # fmt: skip
    assert process.stdout is not None
    signs = []
    while os.read(process.stdout.fileno(), 65536):
        signs.append(time.perf_counter() - began)
    code = process.wait(timeout=1200)
    seconds = time.perf_counter() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    pauses = [late - early for early, late in zip(signs, [*signs[1:], seconds], strict=True)]
    return {
        "seconds": round(seconds, 2),
        "cpu_seconds": round(used, 2),
        "first_sign": round(signs[0], 2) if signs else None,
        "silence": round(max(pauses, default=seconds), 2),
        "exit_code": code,
        "as_expected": code in expected,
    }


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()

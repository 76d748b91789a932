"""What all documents cost beyond the check: every format in one run against none, over the same facts.

formats.py

A 7B and a 70B of the bundled table, stages config, structure and memory, their facts in a warm cache, so that what is
left is a check's fixed cost and the documents. Runs with and without documents take turns; times are of the whole
command, on the clock and on the processor. Writing documents waits for nothing, so the limit is held against the
difference of the medians on the processor, which a busy machine does not stretch as it does the clock.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from many import config

RESULT = Path(__file__).parent / "results" / "formats.json"
MODELS = ("meta-llama/Llama-2-7b-hf", "meta-llama/Llama-3.1-70B")
STAGES = "config,structure,memory"
LIMIT = 0.5
"""Seconds."""
TURNS = 9


def seconds(path: Path, cache: Path, outputs: list[str]) -> tuple[float, float]:
    """What one command took on the clock and on the processor."""
    command = [sys.executable, "-m", "qlora_doctor", "check", str(path), "--stage", STAGES, "--quiet"]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    began, used = time.perf_counter(), os.times()
    done = subprocess.run(
        [*command, "--cache-dir", str(cache), *outputs], env=environment, capture_output=True, text=True
    )
    took, after = time.perf_counter() - began, os.times()
    if done.returncode not in (0, 1):
        raise SystemExit(f"exit code {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
    return took, sum(after[2:4]) - sum(used[2:4])


def measure(model: str, folder: Path) -> dict[str, Any]:
    from qlora_doctor.reporters import FORMATS

    path = folder / f"{model.rpartition('/')[2]}.json"
    path.write_text(json.dumps({**config(2e-4, 32, 0.05, 16, 1), "model": model}, indent=2))
    files = {format: folder / f"report.{format}" for format in FORMATS}
    outputs = [argument for format, file in files.items() for argument in ("-o", f"{format}={file}")]
    cache = folder / "cache"
    seconds(path, cache, outputs)  # the facts, and compiled modules and templates for both sides
    turns = [(seconds(path, cache, []), seconds(path, cache, outputs)) for _ in range(TURNS)]
    measured = {}
    for place, kind in enumerate(("clock", "processor")):
        without, with_all = ([run[place] for run in runs] for runs in zip(*turns, strict=True))
        beyond = statistics.median(with_all) - statistics.median(without)
        measured[kind] = {"none": without, "all": with_all, "beyond_the_check": beyond}
    return {"seconds": measured, "bytes": {format: file.stat().st_size for format, file in files.items()}}


def main() -> None:
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        models = {model: measure(model, Path(folder)) for model in MODELS}
    result = {
        "stages": STAGES,
        "limit_seconds": LIMIT,
        "models": models,
        "load_average_before": load,
        "python": platform.python_version(),
    }
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))
    if any(each["seconds"]["processor"]["beyond_the_check"] > LIMIT for each in models.values()):
        raise SystemExit("above the limit")


if __name__ == "__main__":
    main()

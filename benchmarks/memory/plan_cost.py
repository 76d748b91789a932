"""What a 10 × 10 plan costs, beside the bare import of the libraries: processor seconds, traces, and host memory.

    python benchmarks/memory/plan_cost.py [--json FILE] [MODEL …]

Each figure comes from a process of its own with one thread. Needs no GPU, no weights and no network.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

MODELS = (
    "meta-llama/Llama-2-7b-hf",
    "meta-llama/Llama-3.1-8B",
    "mistralai/Mistral-7B-v0.1",
    "meta-llama/Llama-2-70b-hf",
)
IMPORTS = "import torch, transformers, peft, bitsandbytes"
COMMANDS = {
    "plan": ["plan", "--gpu", "rtx-4090", "--format", "json"],
    "check --stage memory": ["check", "--stage", "memory", "--no-cache", "--fail-on", "never", "--format", "json"],
}


def measured(arguments: list[str]) -> tuple[float, float, str]:
    """Processor seconds and peak host memory in MiB of a process and its children, and what it printed."""
    script = (
        "import json, resource, subprocess, sys; p = subprocess.run(sys.argv[1:], stdout=subprocess.PIPE, "
        "stderr=subprocess.DEVNULL, text=True); u = resource.getrusage(resource.RUSAGE_CHILDREN); "
        "print(json.dumps([u.ru_utime + u.ru_stime, u.ru_maxrss / 1024, p.stdout]))"
    )
    env = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    run = subprocess.run(
        [sys.executable, "-c", script, *arguments], stdout=subprocess.PIPE, text=True, env=env, check=True
    )
    seconds, mib, out = json.loads(run.stdout)
    return seconds, mib, out


def cost(model: str, folder: Path) -> dict[str, Any]:
    """The cost of each command for a model."""
    path = folder / "config.json"
    setup = {
        "model": model,
        "quantization": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": "bfloat16"},
        "lora": {"r": 16, "target_modules": "all-linear", "task_type": "CAUSAL_LM"},
        "training": {
            "per_device_train_batch_size": 1,
            "bf16": True,
            "gradient_checkpointing": True,
            "max_length": 1024,
        },
        "hardware": {"gpu": "rtx-4090"},
    }
    path.write_text(json.dumps(setup), encoding="utf-8")
    found: dict[str, Any] = {}
    for name, arguments in COMMANDS.items():
        command, *rest = arguments
        seconds, mib, out = measured([sys.executable, "-m", "qlora_doctor", command, str(path), *rest])
        memory = json.loads(out)["facts"]["memory"]
        found[name] = {"cpu_seconds": round(seconds, 1), "peak_host_mib": round(mib)}
        if command == "plan":
            found[name] |= {
                "cells": len(memory["plan"]),
                "traces": memory["plan_traces"],
                "verified_ratio": memory["plan_verified_ratio"],
            }
    return found


def main() -> int:
    """Measure and print; the result is JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", default=MODELS)
    parser.add_argument("--json", type=Path, help="write the result into this file")
    options = parser.parse_args()
    seconds, mib, _ = measured([sys.executable, "-c", IMPORTS])
    result: dict[str, Any] = {
        "import of torch, transformers, peft, bitsandbytes": {
            "cpu_seconds": round(seconds, 1),
            "peak_host_mib": round(mib),
        },
        "models": {},
    }
    with tempfile.TemporaryDirectory() as folder:
        for model in options.models:
            result["models"][model] = cost(model, Path(folder))
            for each in result["models"][model].values():
                each["times_the_import"] = round(each["cpu_seconds"] / seconds, 1)
    text = json.dumps(result, indent=1)
    print(text)
    if options.json:
        options.json.write_text(text + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

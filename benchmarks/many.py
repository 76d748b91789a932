"""200 configs of small differences against one: stages config, structure and memory, on two cores.

many.py [--configs N]

Llama-3.2-1B from the bundled table; learning rates, dropout, alpha, ranks and batch sizes differ, so that 200 configs
need 4 structures and 12 traces. Times are of the whole command, as a user waits for it; the cache is a new folder.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

RESULT = Path(__file__).parent / "results" / "many.json"
STAGES = "config,structure,memory"
CORES = 2
LIMITS = {"cold": 12.0, "warm": 2.0}
"""At most so many times the time of one config with nothing in the cache."""


def config(rate: float, alpha: int, dropout: float, rank: int, batch: int) -> dict[str, Any]:
    return {
        "model": "meta-llama/Llama-3.2-1B",
        "quantization": {
            "load_in_4bit": True,
            "bnb_4bit_quant_type": "nf4",
            "bnb_4bit_use_double_quant": True,
            "bnb_4bit_compute_dtype": "bfloat16",
        },
        "lora": {"r": rank, "lora_alpha": alpha, "lora_dropout": dropout, "target_modules": "all-linear"},
        "training": {
            "bf16": True,
            "learning_rate": rate,
            "per_device_train_batch_size": batch,
            "gradient_accumulation_steps": 4,
            "max_length": 1024,
        },
        "hardware": {"gpu": "RTX 4090"},
    }


def write_configs(folder: Path, count: int) -> list[Path]:
    grid = itertools.product((5e-5, 1e-4, 2e-4, 3e-4, 5e-4, 1e-3), (16, 32, 64), (0.0, 0.05, 0.1), (8, 16), (1, 2, 4))
    paths = []
    for number, values in enumerate(itertools.islice(grid, count)):
        path = folder / f"{number:03}.json"
        path.write_text(json.dumps(config(*values), indent=2))
        paths.append(path)
    return paths


def seconds(configs: list[Path], cache: Path) -> float:
    command = [sys.executable, "-m", "qlora_doctor", "check", *map(str, configs), "--stage", STAGES, "--quiet"]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    began = time.perf_counter()
    done = subprocess.run([*command, "--cache-dir", str(cache)], env=environment, capture_output=True, text=True)
    took = time.perf_counter() - began
    if done.returncode != 0:
        raise SystemExit(f"exit code {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
    return took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--configs", type=int, default=200)
    count = parser.parse_args().configs
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        configs = write_configs(root, count)
        seconds(configs[:1], root / "first")  # compiled modules and file pages, for both sides
        load = os.getloadavg()[0]
        one = [seconds(configs[:1], root / "one-0")]
        cold = [seconds(configs, root / "all-0")]
        one.append(seconds(configs[:1], root / "one-1"))
        cold.append(seconds(configs, root / "all-1"))
        one.append(seconds(configs[:1], root / "one-2"))
        warm = [seconds(configs, root / "all-1") for _ in range(3)]
        one_warm = [seconds(configs[:1], root / "one-2") for _ in range(3)]
    base = statistics.median(one)
    ratios = {"cold": statistics.median(cold) / base, "warm": statistics.median(warm) / base}
    result = {
        "configs": count,
        "stages": STAGES,
        "cores": CORES,
        "seconds": {"one": one, "one_warm": one_warm, "all_cold": cold, "all_warm": warm},
        "ratios_to_one": ratios,
        "limits": LIMITS,
        "load_average_before": load,
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("torch", "transformers", "peft", "bitsandbytes")},
    }
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))
    if count == 200 and any(ratios[name] > limit for name, limit in LIMITS.items()):
        raise SystemExit("above the limit")


if __name__ == "__main__":
    main()

"""How long reading and judging configs takes: many files in one call, and one large file of each format.

    python benchmarks/field/speed.py FOLDER [-o RESULT.json]

The files of FOLDER are copied until there are a thousand; then ``check --stage config`` runs over them in a process of
its own, on one core. Times are processor seconds, least of three runs, less those of a check of a single file.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

FILES = 1000
RUNS = 3
BAR_PER_FILE = 0.012
BAR_LARGE = 2.0
NATIVE = "model: x/y\nlora: {r: 8}\n"


def processor_seconds(*arguments: str) -> float:
    """User and system time of one ``check --stage config``, on one core."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "qlora_doctor", "check", "--stage", "config", "--jobs", "1", "-q", *arguments]
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, preexec_fn=one_core)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if "Traceback" in done.stderr:
        raise RuntimeError(done.stderr)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def one_core() -> None:
    """Keep this process on one core, where the system can."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


def least(measure: Callable[[], float], runs: int = RUNS) -> float:
    return min(measure() for _ in range(runs))


def thousand(source: Path, target: Path) -> int:
    """A thousand configs, from those that the folder has; how many different ones there are."""
    from qlora_doctor.reading.walk import find_configs

    configs = find_configs(source).configs
    for number in range(FILES):
        config = configs[number % len(configs)]
        folder = target / f"{number // 50:02}"
        folder.mkdir(exist_ok=True)
        shutil.copy(config, folder / f"{number}_{config.name}")
    return len(configs)


def large_files(folder: Path) -> dict[str, Path]:
    """Files of about five megabytes that are configs, and more."""
    rows = [{"name": f"x{i}", "lr": 0.5, "targets": ["q_proj", "v_proj"], "on": True} for i in range(68_000)]
    yaml_rows = "".join(f"- {{name: x{i}, lr: 0.5, targets: [q_proj, v_proj], on: true}}\n" for i in range(80_000))
    axolotl = "base_model: x/y\nadapter: qlora\nload_in_4bit: true\nmicro_batch_size: 1\n"
    texts = {
        "large.json": json.dumps({"model": "x/y", "lora": {"r": 8}, "data": {"train": "d"}, "rows": rows}),
        "large.yaml": f"{NATIVE}rows:\n{yaml_rows}",
        "datasets.yml": axolotl
        + "datasets:\n"
        + "".join(f"  - path: d{i}\n    type: alpaca\n" for i in range(150_000)),
        "strange-keys.yml": axolotl + "".join(f"learning_ratt{i}: {i}\n" for i in range(190_000)),
        "large.toml": 'model = "x/y"\n[lora]\nr = 8\n' + "".join(f"[t{i}]\nx = 1\n" for i in range(270_000)),
        "large.sh": "".join(
            f"python train.py --model_name_or_path x/y{i} --lora_r 8 \\\n  $X\n" for i in range(78_000)
        ),
        "large.py": "from peft import LoraConfig\n" + "".join(f"x{i} = LoraConfig(r={i})\n" for i in range(190_000)),
    }
    paths = {}
    for name, text in texts.items():
        paths[name] = folder / name
        paths[name].write_text(text, "utf-8")
    return paths


def measure(source: Path) -> dict[str, Any]:
    """All of it, as it is recorded."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        many, big, small = folder / "many", folder / "big", folder / "small.yaml"
        many.mkdir()
        big.mkdir()
        small.write_text(NATIVE, "utf-8")
        different = thousand(source, many)
        start = least(lambda: processor_seconds(str(small)))
        all_files = least(lambda: processor_seconds(str(many)))
        large = {
            file: {
                "bytes": path.stat().st_size,
                "seconds": round(least(lambda path=path: processor_seconds(str(path))), 2),  # type: ignore[misc]
                "bar": BAR_LARGE,
            }
            for file, path in large_files(big).items()
        }
    return {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        "load_average": round(os.getloadavg()[0], 1),
        "files": FILES,
        "different_files": different,
        "start_seconds": round(start, 3),
        "seconds_per_file": round((all_files - start) / FILES, 5),
        "bar_per_file": BAR_PER_FILE,
        "large": large,
    }


def main() -> int:
    """Print the measurement; 1 where a bar is not held."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("-o", "--output", type=Path)
    arguments = parser.parse_args()
    result = measure(arguments.folder)
    text = json.dumps(result, indent=2)
    print(text)
    if arguments.output:
        arguments.output.write_text(text + "\n", "utf-8")
    late = [name for name, file in result["large"].items() if file["seconds"] > file["bar"]]
    return int(result["seconds_per_file"] > BAR_PER_FILE or bool(late))


if __name__ == "__main__":
    raise SystemExit(main())

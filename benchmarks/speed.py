"""Speed as ratios, both sides measured in turns in one run; prints and records JSON.

speed.py start | structure | step CONFIG | fingerprint | adapter | log
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
DOCTOR = [sys.executable, "-m", "qlora_doctor"]
LIGHT = [sys.executable, "-c", "import click, pydantic, jinja2, yaml"]
HEAVY = [sys.executable, "-c", "import torch, transformers, peft, bitsandbytes"]
CONFIG: dict[str, Any] = {
    "model": "meta-llama/Llama-2-7b-hf",
    "quantization": {
        "load_in_4bit": True,
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_use_double_quant": True,
        "bnb_4bit_compute_dtype": "bfloat16",
    },
    "lora": {
        "r": 64,
        "lora_alpha": 16,
        "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"],
        "task_type": "CAUSAL_LM",
    },
    "training": {"per_device_train_batch_size": 1, "bf16": True, "learning_rate": 2e-4, "max_length": 512},
}


# Installed packages are compiled once and for all; the checkout is, where nothing forbids it.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def seconds(command: list[str]) -> float:
    """Wall-clock seconds of one run; a finding's exit code is no failure of the run."""
    begun = time.perf_counter()
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)
    if done.returncode not in (0, 1):
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr[-500:]}")
    return time.perf_counter() - begun


def in_turns(commands: dict[str, list[str]], runs: int) -> dict[str, list[float]]:
    """Run all commands in turns, so that a slow minute of the machine meets them alike; the first round warms up."""
    times: dict[str, list[float]] = {name: [] for name in commands}
    for turn in range(runs + 1):
        for name, command in commands.items():
            taken = seconds(command)
            if turn:
                times[name].append(taken)
    return times


def ratios(times: dict[str, list[float]], base: str, bars: dict[str, float]) -> dict[str, Any]:
    bare = statistics.median(times[base])
    return {
        name: {
            "median_seconds": statistics.median(taken),
            "ratio": statistics.median(taken) / bare,
            "spread": [min(taken), max(taken)],
            "bar": bars.get(name),
        }
        for name, taken in times.items()
    }


def start(arguments: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        config = write_config(Path(folder), CONFIG)
        commands = {
            "bare import": LIGHT,
            "check --stage config": [*DOCTOR, "check", "--stage", "config", str(config)],
            "explain": [*DOCTOR, "explain", "QD301"],
        }
        return ratios(in_turns(commands, arguments.runs), "bare import", {"check --stage config": 2.5, "explain": 2.5})


def structure(arguments: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        small = write_config(Path(folder), CONFIG)
        large = write_config(Path(folder), CONFIG | {"model": "meta-llama/Llama-2-70b-hf"}, "large.json")
        commands = {
            "bare import": HEAVY,
            "structure 7B": [*DOCTOR, "check", "--no-cache", "--stage", "structure", str(small)],
            "structure 70B": [*DOCTOR, "check", "--no-cache", "--stage", "structure", str(large)],
        }
        return ratios(in_turns(commands, arguments.runs), "bare import", {"structure 7B": 1.5, "structure 70B": 1.5})


def step(arguments: argparse.Namespace) -> dict[str, Any]:
    """Load + step under the doctor, both stages alone, against the plain script on the same config."""
    plain: list[dict[str, Any]] = []
    doctor: list[dict[str, Any]] = []
    script = Path(__file__).with_name("plain_step.py")
    for turn in range(arguments.runs + 1):
        begun = time.perf_counter()
        output = subprocess.run(
            [sys.executable, str(script), arguments.config], check=True, capture_output=True, text=True
        )
        taken = {**json.loads(output.stdout.splitlines()[-1]), "seconds": time.perf_counter() - begun}
        with tempfile.TemporaryDirectory() as folder:
            report = Path(folder) / "report.json"
            command = [*DOCTOR, "check", "--no-cache", "--stage", "load", "--stage", "step"]
            command += ["-o", f"json={report}", arguments.config]
            watched = {"seconds": seconds(command), "report": json.loads(report.read_text())}
        if turn:
            plain.append(taken)
            doctor.append(watched)
    measured = [(d["report"]["facts"].get("memory") or {}).get("measured") or {} for d in doctor]
    peaks = [p["steps"][-1].get("peak_allocated_bytes") for p in plain]
    result: dict[str, Any] = {
        "plain_seconds": [p["seconds"] for p in plain],
        "doctor_seconds": [d["seconds"] for d in doctor],
        "ratio": statistics.median([d["seconds"] for d in doctor]) / statistics.median([p["seconds"] for p in plain]),
        "bar": 1.25,
        "plain_peaks": peaks,
        "doctor_peaks": [m.get("peak_allocated_bytes") for m in measured],
        "plain_parts": {
            k: statistics.median([p[k] for p in plain]) for k in ("import_seconds", "load_seconds", "step_seconds")
        },
        "doctor_stages": {s["name"]: s["seconds"] for s in doctor[-1]["report"]["stages"] if s["seconds"] is not None},
    }
    if peaks[0] and measured[0].get("peak_allocated_bytes"):
        result["peak_ratio"] = measured[0]["peak_allocated_bytes"] / max(p for p in peaks if p)
        result["peak_bar"] = 0.01
    return result


def fingerprint(arguments: argparse.Namespace) -> dict[str, Any]:
    """Fingerprint 4-bit bases of two sizes twice, in bytes per second, against the device's bandwidth.

    Bandwidth is what a device-to-device copy of 1 GiB moves, bytes read and bytes written. The kernel is compiled once
    per process, at its first use; that is told apart.
    """
    import torch

    from qlora_doctor.probes.observing.fingerprint import fingerprints

    def taken(action: Callable[[], object]) -> float:
        torch.cuda.synchronize()
        begun = time.perf_counter()
        action()
        torch.cuda.synchronize()
        return time.perf_counter() - begun

    source = torch.empty(1 << 30, dtype=torch.uint8, device="cuda")
    copy = torch.empty_like(source)
    bandwidth = 2 * source.numel() / min(taken(partial(copy.copy_, source)) for _ in range(arguments.runs + 2))
    result: dict[str, Any] = {"bandwidth": bandwidth, "bar": 0.5}
    sizes = {
        "7B": (32, (4096 * 4096,) * 4 + (4096 * 11008,) * 3),
        "70B": (80, (8192 * 9000,) * 4 + (8192 * 28672,) * 3),
    }
    for name, (layers, linears) in sizes.items():
        base = {
            f"{layer}.{index}.{part}": torch.randint(0, 255, (size,), dtype=torch.uint8, device="cuda")
            for layer in range(layers)
            for index, elements in enumerate(linears)
            for part, size in (("weight", elements // 2), ("absmax", elements // 64), ("nested", elements // 4096))
        }
        nbytes = sum(tensor.numel() for tensor in base.values())
        first = taken(partial(fingerprints, base))
        look = partial(fingerprints, base)
        twice = min(taken(look) + taken(look) for _ in range(arguments.runs))
        rate = 2 * nbytes / twice
        result[name] = {
            "tensors": len(base),
            "bytes": nbytes,
            "first_call_seconds": first,
            "twice_seconds": twice,
            "rate": rate,
            "ratio": rate / bandwidth,
        }
    return result


def adapter(arguments: argparse.Namespace) -> dict[str, Any]:
    """An all-linear adapter of a 7B judged by its files, in turns with reading its bytes, within one process."""
    import torch
    from safetensors.torch import save_file

    from qlora_doctor.probes.stored import stored_facts

    linears = {"self_attn.q_proj": (4096, 4096), "self_attn.k_proj": (4096, 4096), "self_attn.v_proj": (4096, 4096),
               "self_attn.o_proj": (4096, 4096), "mlp.gate_proj": (4096, 11008), "mlp.up_proj": (4096, 11008),
               "mlp.down_proj": (11008, 4096)}  # fmt: skip
    result: dict[str, Any] = {"bar": 1.5}
    for name, rank, dtype in (("bfloat16, rank 16", 16, torch.bfloat16), ("float32, rank 16", 16, torch.float32),
                              ("bfloat16, rank 64", 64, torch.bfloat16)):  # fmt: skip
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            tensors = {}
            for layer in range(32):
                for module, (inner, outer) in linears.items():
                    path = f"base_model.model.model.layers.{layer}.{module}"
                    tensors[f"{path}.lora_A.weight"] = (torch.randn(rank, inner) / 64).to(dtype)
                    tensors[f"{path}.lora_B.weight"] = (torch.randn(outer, rank) / 64).to(dtype)
            file = folder / "adapter_model.safetensors"
            save_file(tensors, file)
            targets = [module.rpartition(".")[2] for module in linears]
            write_config(folder, {"peft_type": "LORA", "r": rank, "lora_alpha": 16, "target_modules": targets},
                         "adapter_config.json")  # fmt: skip
            times: dict[str, list[float]] = {"read": [], "judged": []}
            for turn in range(arguments.runs + 1):
                for what, action in (("read", file.read_bytes), ("judged", partial(stored_facts, folder))):
                    begun = time.process_time()
                    action()
                    if turn:
                        times[what].append(time.process_time() - begun)
            medians = {what: statistics.median(taken) for what, taken in times.items()}
            result[name] = {"bytes": file.stat().st_size, "processor_seconds": medians,
                            "ratio": medians["judged"] / medians["read"]}  # fmt: skip
    return result


def log(arguments: argparse.Namespace) -> dict[str, Any]:
    """A captured output of a million lines, beside one of a hundred: what is beyond the start."""
    with tempfile.TemporaryDirectory() as place:
        files = {}
        for lines in (100, 1_000_000):
            files[lines] = Path(place) / f"{lines}.log"
            with files[lines].open("w") as stream:
                for step in range(lines):
                    stream.write(f"{{'loss': {2 + 1 / (1 + step):.4f}, 'grad_norm': 0.5{step % 97:02d}, "
                                 f"'learning_rate': 0.0001, 'epoch': {step / 1000:.3f}}}\n")  # fmt: skip
        taken: dict[int, list[float]] = {lines: [] for lines in files}
        for turn in range(arguments.runs + 1):
            for lines, file in files.items():
                before = resource.getrusage(resource.RUSAGE_CHILDREN)
                seconds([*DOCTOR, "log", str(file)])
                after = resource.getrusage(resource.RUSAGE_CHILDREN)
                if turn:
                    taken[lines].append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    medians = {lines: statistics.median(each) for lines, each in taken.items()}
    return {"processor_seconds": medians, "beyond_start": medians[1_000_000] - medians[100], "bar": 3.0}


def write_config(folder: Path, config: dict[str, Any], name: str = "config.json") -> Path:
    path = folder / name
    path.write_text(json.dumps(config))
    return path


def machine() -> dict[str, Any]:
    packages = {}
    for name in ("torch", "transformers", "peft", "bitsandbytes", "accelerate", "qlora-doctor"):
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            packages[name] = "a checkout"
    smi = shutil.which("nvidia-smi")
    gpu = (
        subprocess.run(
            [smi, "--query-gpu=name,driver_version", "--format=csv,noheader"], capture_output=True, text=True
        ).stdout.strip()
        if smi
        else None
    )
    return {"python": platform.python_version(), "cores": os.cpu_count(), "gpu": gpu, "packages": packages}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("start", "structure", "step", "fingerprint", "adapter", "log"))
    parser.add_argument("config", nargs="?")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("-o", "--output", type=Path)
    arguments = parser.parse_args()
    measured = globals()[arguments.what](arguments)
    document = {"benchmark": arguments.what, "machine": machine(), "runs": arguments.runs, "results": measured}
    text = json.dumps(document, indent=2)
    output = arguments.output or RESULTS / f"{arguments.what}.json"
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()

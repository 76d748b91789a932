"""The figures of a formula beside what was measured: canifinetune's estimate of the plain cases of h200.json.

    python -m pip install --target PEERS canifinetune==0.4.1
    python benchmarks/memory/peers.py PEERS [--json FILE]

It is given each architecture as an override and all that its command line takes. Its total without its own safety
margin stands beside what the card had in use: the allocator's peak reserved, and what CUDA holds beside it as that was
measured with h100.json.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import mean
from typing import Any

HERE = Path(__file__).resolve().parent
GIB = 1 << 30
MODELS = ("llama2-7b", "tinyllama-1.1b")
"""Llama's kind of block with two embedding matrices, whose parameters are counted below."""
PLAIN = {"use_dora": False, "modules_to_save": None, "prepare_for_kbit_training": True, "padded": False,
         "from_checkpoint": False, "packing": False, "trainer": "transformers", "precision": "bf16",
         "gradient_accumulation_steps": 1, "target_modules": "all-linear", "expandable_segments": False}  # fmt: skip
_OVERRIDDEN = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
               "vocab_size")  # fmt: skip
OPTIMIZERS = {"adamw_torch": "adamw", "adamw_torch_fused": "adamw", "adamw_8bit": "adamw_8bit",
              "adamw_bnb_8bit": "adamw_8bit", "paged_adamw_8bit": "paged_adamw_8bit"}  # fmt: skip


def parameters(arch: dict[str, Any]) -> int:
    """Of a Llama with an untied head."""
    hidden, wide = arch["hidden_size"], arch["intermediate_size"]
    head = hidden // arch["num_attention_heads"]
    attention = 2 * hidden * hidden + 2 * hidden * head * arch["num_key_value_heads"]
    block = attention + 3 * hidden * wide + 2 * hidden
    return 2 * arch["vocab_size"] * hidden + arch["num_hidden_layers"] * block + hidden


def estimated(peers: Path, case: dict[str, Any], arch: dict[str, Any], folder: Path) -> tuple[float, float]:
    """canifinetune's total less its safety margin, and of that what tensors hold; GiB."""
    override = folder / "override.json"
    kept = {name: arch[name] for name in _OVERRIDDEN}
    override.write_text(json.dumps(kept | {"family": "llama", "total_params": parameters(arch)}))
    command = [
        sys.executable, "-c", "from canifinetune.cli import app; app()", "estimate",
        "--model", "local/model", "--offline", "--json",
        "--override-json", str(override), "--gpu-vram-gb", "80", "--seq-len", str(case["sequence"]),
        "--micro-batch-size", str(case["batch"]), "--lora-rank", str(case["r"]), "--target-scope", "all_linear",
        "--quantization", "nf4_double_quant" if case["double_quant"] else "nf4",
        "--optimizer", OPTIMIZERS[case["optim"]], "--attn", case["attn_implementation"],
        "--gradient-checkpointing" if case["gradient_checkpointing"] else "--no-gradient-checkpointing",
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(peers)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    if done.returncode:
        raise SystemExit(done.stderr or done.stdout)
    memory = json.loads(done.stdout)["memory"]
    total = float(memory["total_estimated_gb"]) - float(memory["safety_margin_gb"])
    return total, total - float(memory["cuda_overhead_gb"])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("peers", type=Path)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    truth = json.loads((HERE / "h200.json").read_text(encoding="utf-8"))
    other = json.loads((HERE / "h100.json").read_text(encoding="utf-8"))
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for case in truth["cases"]:
            plain = all(case.get(name, value) == value for name, value in PLAIN.items())
            if case["model"] not in MODELS or not plain or case["optim"] not in OPTIMIZERS:
                continue
            beside = other["measured_with"]["used_beside_allocator"]
            used = (max(step["peak_reserved"] for step in case["steps"]) + beside) / GIB
            held = max(step["peak_allocated"] for step in case["steps"]) / GIB
            told, tensors = estimated(given.peers, case, truth["architectures"][case["model"]], Path(folder))
            name = f"{case['model']} {case['batch']} × {case['sequence']} r {case['r']} {case['optim']}"
            name += "" if case["gradient_checkpointing"] else " no checkpointing"
            row = {
                "case": name,
                "in_use_gib": used,
                "told_gib": told,
                "in_tensors_gib": held,
                "told_in_tensors_gib": tensors,
            }
            rows.append({key: round(each, 2) if isinstance(each, float) else each for key, each in row.items()})
            print(
                f"{name:60} in use {used:6.2f}, told {told:6.2f}   tensors {held:6.2f}, told {tensors:6.2f}", flush=True
            )
    in_use = mean(abs(row["told_gib"] / row["in_use_gib"] - 1) for row in rows)
    in_tensors = mean(abs(row["told_in_tensors_gib"] / row["in_tensors_gib"] - 1) for row in rows)
    print(f"{len(rows)} cases; mean error of what is in use {in_use:.0%}, of tensors {in_tensors:.0%}")
    if given.json:
        given.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

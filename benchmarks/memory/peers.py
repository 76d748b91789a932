"""Formulas beside what was measured: other tools' estimates of the plain cases of h200.json.

    python -m pip install --target PEERS canifinetune==0.4.1 fitscout==0.1.1 fitcheck-llm==0.3.1 peft-doctor==0.9.2
    python benchmarks/memory/peers.py PEERS [--json FILE]

Each is given the architecture and all that it takes; a peer that is not in PEERS is left out. Its total, without a
safety margin of its own, stands beside what the card had in use: the allocator's peak reserved, and what CUDA holds
beside it as that was measured with h100.json. Its total without what it adds for CUDA and fragmentation stands beside
what tensors hold.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
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
OPTIMIZERS = {"adamw_torch": "adamw", "adamw_torch_fused": "adamw", "adamw_8bit": "adamw_8bit",
              "adamw_bnb_8bit": "adamw_8bit", "paged_adamw_8bit": "paged_adamw_8bit"}  # fmt: skip

PEERS = {
    "canifinetune": """
import contextlib, io, tempfile
from canifinetune.cli import app
names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
         "vocab_size")
with tempfile.NamedTemporaryFile("w", suffix=".json") as override:
    json.dump({name: arch[name] for name in names} | {"family": "llama", "total_params": parameters}, override)
    override.flush()
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        app(["estimate", "--model", "local/model", "--offline", "--json", "--override-json", override.name,
             "--gpu-vram-gb", "80", "--seq-len", str(case["sequence"]), "--micro-batch-size", str(case["batch"]),
             "--lora-rank", str(case["r"]), "--target-scope", "all_linear", "--optimizer", optimizer,
             "--quantization", "nf4_double_quant" if case["double_quant"] else "nf4",
             "--attn", case["attn_implementation"],
             "--gradient-checkpointing" if case["gradient_checkpointing"] else "--no-gradient-checkpointing"],
            standalone_mode=False)
memory = json.loads(out.getvalue())["memory"]
total = memory["total_estimated_gb"] - memory["safety_margin_gb"]
tensors = total - memory["cuda_overhead_gb"]
""",
    "fitscout": """
from fitscout.memory.estimator import estimate_memory
from fitscout.model.profile import ModelProfile
profile = ModelProfile(params=parameters, num_layers=arch["num_hidden_layers"], hidden_size=arch["hidden_size"],
                       num_attention_heads=arch["num_attention_heads"], num_kv_heads=arch["num_key_value_heads"],
                       intermediate_size=arch["intermediate_size"], vocab_size=arch["vocab_size"],
                       tie_word_embeddings=False, num_experts=1, dtype_bytes=2)
told = estimate_memory(profile, method="qlora", micro_batch=case["batch"], seq_len=case["sequence"],
                       grad_ckpt=case["gradient_checkpointing"], opt_8bit="8bit" in optimizer, lora_rank=case["r"])
total, tensors = told.total_gb, told.total_gb - told.overhead_gb
""",
    "fitcheck": """
from fitcheck.cli import LORA_TARGETS_FULL
from fitcheck.config_parser import ModelConfig
from fitcheck.estimator import TrainingConfig, estimate
from fitcheck.gpu_db import get_gpu
model = ModelConfig(name="local", num_params=parameters, hidden_size=arch["hidden_size"],
                    num_layers=arch["num_hidden_layers"], num_attention_heads=arch["num_attention_heads"],
                    num_kv_heads=arch["num_key_value_heads"], intermediate_size=arch["intermediate_size"],
                    vocab_size=arch["vocab_size"], head_dim=arch["hidden_size"] // arch["num_attention_heads"],
                    tie_word_embeddings=False)
training = TrainingConfig(precision="bf16", quantization="nf4", double_quant=case["double_quant"],
                          optimizer="adam8bit" if "8bit" in optimizer else "adamw",
                          batch_size=case["batch"], seq_len=case["sequence"], lora_rank=case["r"],
                          lora_targets=list(LORA_TARGETS_FULL), grad_checkpoint=case["gradient_checkpointing"],
                          flash_attn=case["attn_implementation"] != "eager")
told = estimate(model, training, get_gpu(vram_mib=81920))
total, tensors = told.total_mib / 1024, (told.total_mib - told.overhead_mib) / 1024
""",
    "peft_doctor": """
from peft_doctor.estimator import estimate_vram_gb
told = estimate_vram_gb("local", seq_len=case["sequence"], batch_size=case["batch"], qlora=True,
                        gradient_checkpointing=case["gradient_checkpointing"], params_billion=parameters / 1e9,
                        hidden_size=arch["hidden_size"], num_layers=arch["num_hidden_layers"])
total = told.metadata["estimated_total_gb"]
tensors = total - next(each.details["overhead_gb"] for each in told.issues if each.code == "estimate.total_vram")
""",
}
"""How each peer is asked: sets ``total`` and ``tensors``, GiB."""
ASK = """import json, sys
case, arch, parameters, optimizer = json.load(sys.stdin)
{}
print(json.dumps([total, tensors]))
"""


def parameters(arch: dict[str, Any]) -> int:
    """Of a Llama with an untied head."""
    hidden, wide = arch["hidden_size"], arch["intermediate_size"]
    head = hidden // arch["num_attention_heads"]
    attention = 2 * hidden * hidden + 2 * hidden * head * arch["num_key_value_heads"]
    block = attention + 3 * hidden * wide + 2 * hidden
    return 2 * arch["vocab_size"] * hidden + arch["num_hidden_layers"] * block + hidden


def estimated(peers: Path, peer: str, case: dict[str, Any], arch: dict[str, Any]) -> tuple[float, float]:
    """A peer's total less its safety margin, and of that what tensors hold; GiB."""
    asked = json.dumps([case, arch, parameters(arch), OPTIMIZERS[case["optim"]]])
    done = subprocess.run(
        [sys.executable, "-c", ASK.format(PEERS[peer])], input=asked, capture_output=True, text=True, timeout=120,
        env={**os.environ, "PYTHONPATH": str(peers), "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"{peer}: {done.stderr or done.stdout}")
    total, tensors = json.loads(done.stdout.splitlines()[-1])
    return total, tensors


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("peers", type=Path)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    truth = json.loads((HERE / "h200.json").read_text(encoding="utf-8"))
    other = json.loads((HERE / "h100.json").read_text(encoding="utf-8"))
    present = [peer for peer in PEERS if (given.peers / peer).is_dir()]
    rows: list[dict[str, Any]] = []
    for case in truth["cases"]:
        plain = all(case.get(name, value) == value for name, value in PLAIN.items())
        if case["model"] not in MODELS or not plain or case["optim"] not in OPTIMIZERS:
            continue
        beside = other["measured_with"]["used_beside_allocator"]
        used = (max(step["peak_reserved"] for step in case["steps"]) + beside) / GIB
        held = max(step["peak_allocated"] for step in case["steps"]) / GIB
        name = f"{case['model']} {case['batch']} × {case['sequence']} r {case['r']} {case['optim']}"
        name += "" if case["gradient_checkpointing"] else " no checkpointing"
        row: dict[str, Any] = {"case": name, "in_use_gib": round(used, 2), "in_tensors_gib": round(held, 2), "told": {}}
        print(f"{name:60} in use {used:6.2f}, tensors {held:6.2f}")
        for peer in present:
            told, tensors = estimated(given.peers, peer, case, truth["architectures"][case["model"]])
            row["told"][peer] = {"in_use_gib": round(told, 2), "in_tensors_gib": round(tensors, 2)}
            print(f"{peer:>60} told   {told:6.2f}         {tensors:6.2f}", flush=True)
        rows.append(row)
    for peer in present:
        for what in ("in_use_gib", "in_tensors_gib"):
            errors = [row["told"][peer][what] / row[what] - 1 for row in rows]
            error, least, most = mean(map(abs, errors)), min(errors), max(errors)
            print(f"{peer:14} {what:15} mean error {error:4.0%}, {least:+.0%} to {most:+.0%}")
    if given.json:
        given.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

"""Two ranks under ``run``: DDP, FSDP 1 and FSDP 2 of a small QLoRA model, over NCCL where there are two cards.

    .venv/bin/python benchmarks/watching_ranks.py [KIND…] [--out FILE]

Each kind is a plain script that knows nothing of the watching, started by torchrun twice: as it is and watched.
Reported for each: findings, what failed in the watching, the ranks' steps, and whether both runs gave the same losses.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
KINDS = ("ddp", "fsdp1", "fsdp2")
LOOP = r"""
import functools, json, os, sys
import torch, torch.distributed as dist
from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

kind, folder = sys.argv[1:3]
cuda = torch.cuda.device_count() > 1
dist.init_process_group("nccl" if cuda else "gloo")
rank = dist.get_rank()
device = torch.device("cuda", rank) if cuda else torch.device("cpu")
if cuda:
    torch.cuda.set_device(device)
quantization = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16,
                                  bnb_4bit_quant_storage=torch.bfloat16 if kind != "ddp" else torch.uint8)
model = AutoModelForCausalLM.from_pretrained(folder, quantization_config=quantization, dtype=torch.bfloat16,
                                             device_map={"": device})
if kind == "ddp":
    model = prepare_model_for_kbit_training(model, gradient_checkpointing_kwargs={"use_reentrant": False})
torch.manual_seed(0)
model = get_peft_model(model, LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM"),
                       autocast_adapter_dtype=kind == "ddp")
layer = type(model.get_base_model().model.layers[0])
called = model
if kind == "ddp":
    called = torch.nn.parallel.DistributedDataParallel(model, device_ids=[rank] if cuda else None)
elif kind == "fsdp1":
    from peft.utils.other import fsdp_auto_wrap_policy
    from torch.distributed.fsdp import FullyShardedDataParallel

    os.environ["FSDP_TRANSFORMER_CLS_TO_WRAP"] = layer.__name__
    called = model = FullyShardedDataParallel(model, auto_wrap_policy=fsdp_auto_wrap_policy(model), device_id=device,
                                              use_orig_params=False)
else:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.type, (2,))
    for each in model.modules():
        if isinstance(each, layer):
            fully_shard(each, mesh=mesh)
    fully_shard(model, mesh=mesh)
optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=2e-3)
called.train()
generator = torch.Generator().manual_seed(rank)
losses = []
for step in range(5):
    ids = torch.randint(5, 500, (2, 32), generator=generator).to(device)
    loss = called(input_ids=ids, labels=ids, attention_mask=torch.ones_like(ids)).loss
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    losses.append(loss.item())
print(f"RESULT{rank} " + json.dumps(losses), flush=True)
dist.destroy_process_group()
"""


def once(kind: str, model: Path, folder: Path, *, watched: bool) -> dict[str, Any]:
    """Both ranks, as they are or watched."""
    script = folder / "loop.py"
    script.write_text(LOOP, encoding="utf-8")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += [str(script), kind, str(model)]
    report = folder / f"{kind}.json"
    if watched:
        command = [sys.executable, "-m", "qlora_doctor", "run", "-q", "-o", f"json={report}", "--", *command]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, timeout=300)
    told = re.findall(r"RESULT(\d) (\[[^\]]*\])", done.stdout)  # two ranks may write into one line
    found: dict[str, Any] = {"exit": done.returncode, "losses": {rank: json.loads(text) for rank, text in told}}
    if done.returncode:
        found["stderr"] = done.stderr[-1500:]
    if watched and report.is_file():
        document = json.loads(report.read_text(encoding="utf-8"))
        run = document["facts"]["run"]
        found |= {
            "findings": [[each["rule"], each["severity"], each["message"][:300]] for each in document["findings"]],
            "stages": {each["name"]: each["status"] for each in document["stages"]},
            "seen": {name: run.get(name) for name in ("parallel", "watched_steps", "ranks_differ", "ranks_same_batch",
                                                      "troubles", "watching_seconds", "loss_scale")},
            "ranks": [{name: rank.get(name) for name in ("rank", "device", "steps", "loss", "ended")}
                      for rank in run.get("ranks") or []],
        }  # fmt: skip
    return found


def main() -> None:
    """Run the kinds and write what was seen."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kinds", nargs="*", default=list(KINDS))
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    from tests.models import make_model

    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as temporary:
        model = make_model(Path(temporary) / "model", "llama")
        for kind in arguments.kinds:
            plain, watched = (once(kind, model, Path(temporary), watched=watch) for watch in (False, True))
            watched["same_losses"] = plain["losses"] == watched.pop("losses") and bool(plain["losses"])
            found[kind] = {**watched, "plain_exit": plain["exit"], "plain_stderr": plain.get("stderr")}
            print(kind, json.dumps(found[kind])[:600], file=sys.stderr)
    text = json.dumps(found, indent=2)
    print(text)
    if arguments.out is not None:
        arguments.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

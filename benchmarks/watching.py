"""What watching a run costs: the same loop with and without, in pairs, in processes of their own.

    .venv/bin/python benchmarks/watching.py [--model FOLDER|random:32x4096x11008] [--pairs 5] [--steps 20]
        [--out results/watching.json]

Of each pair: the seconds of each step as the loop itself measures them, losses, a digest of the trained weights,
random state at the end, and on CUDA the peak. The order within a pair changes from pair to pair. CUDA's kernels may
give two plain runs different bits (attention's backward adds up in any order), so the loop runs plainly once more:
where it does not repeat itself, nothing is said of equal bits. Reported: whether all numbers are the same to the last
bit, what the watched steps cost more (against one of the loop's own steps), what a step costs after them, and the
peak.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
LOOP = r"""
import hashlib, json, sys, time
import torch
from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
from transformers import AutoConfig, AutoModelForCausalLM, BitsAndBytesConfig

folder, steps, batch, length = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
cuda = torch.cuda.is_available()
if "deterministic" in sys.argv:
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cuda.enable_flash_sdp(False)
    torch.backends.cuda.enable_mem_efficient_sdp(False)
    torch.backends.cuda.enable_cudnn_sdp(False)


def random_llama(layers, hidden, inner, device):
    # Made where it trains: no file of 13 GB is written and read.
    import bitsandbytes as bnb
    from transformers import LlamaConfig

    config = LlamaConfig(num_hidden_layers=layers, hidden_size=hidden, intermediate_size=inner,
                         num_attention_heads=hidden // 128, num_key_value_heads=hidden // 128, vocab_size=32000)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    torch.manual_seed(0)
    for name, module in list(model.named_modules()):
        for key, weight in list(module._parameters.items()):
            if weight is None or (isinstance(module, torch.nn.Linear) and name != "lm_head"):
                continue
            data = torch.ones(weight.shape, device=device, dtype=weight.dtype)
            data = data if data.dim() == 1 else data.normal_(std=0.02)
            module._parameters[key] = torch.nn.Parameter(data, requires_grad=False)
        for child_name, child in list(module.named_children()):
            if isinstance(child, torch.nn.Linear) and child_name != "lm_head":
                layer = bnb.nn.Linear4bit(child.in_features, child.out_features, bias=False, quant_type="nf4",
                                          compute_dtype=torch.bfloat16, compress_statistics=True, device="meta")
                data = torch.empty(child.weight.shape, device=device, dtype=torch.bfloat16).normal_(std=0.02)
                layer.weight = bnb.nn.Params4bit(data, requires_grad=False, quant_type="nf4",
                                                 compress_statistics=True).to(device)
                setattr(module, child_name, layer)
    rotary = model.model.rotary_emb
    model.model.rotary_emb = type(rotary)(config=config).to(device)
    model.config.quantization_config = quantization
    model.is_loaded_in_4bit = model.is_quantized = True
    return model


quantization = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
                                  bnb_4bit_compute_dtype=torch.bfloat16)
if folder.startswith("random:"):
    model = random_llama(*map(int, folder.removeprefix("random:").split("x")), torch.device("cuda" if cuda else "cpu"))
else:
    model = AutoModelForCausalLM.from_pretrained(folder, quantization_config=quantization, dtype=torch.bfloat16,
                                                 device_map={"": 0 if cuda else "cpu"})
model = prepare_model_for_kbit_training(model, gradient_checkpointing_kwargs={"use_reentrant": False})
torch.manual_seed(0)
model = get_peft_model(model, LoraConfig(r=16, lora_alpha=32, lora_dropout=0.05, target_modules="all-linear",
                                         task_type="CAUSAL_LM"))
optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=2e-4)
model.train()
device = next(model.parameters()).device
generator = torch.Generator().manual_seed(1)
seconds, losses = [], []
for step in range(steps):
    ids = torch.randint(5, model.config.vocab_size, (batch, length), generator=generator).to(device)
    if cuda:
        torch.cuda.synchronize()
    began = time.perf_counter()
    loss = model(input_ids=ids, labels=ids, attention_mask=torch.ones_like(ids)).loss
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    losses.append(loss.item())
    seconds.append(time.perf_counter() - began)
digest = hashlib.sha256()
for parameter in model.parameters():
    if parameter.requires_grad:
        digest.update(parameter.detach().float().cpu().numpy().tobytes())
print("RESULT" + json.dumps({
    "seconds": seconds, "losses": [repr(each) for each in losses], "weights": digest.hexdigest(),
    "chance": torch.rand(1).item(),
    "peak_allocated": torch.cuda.max_memory_allocated() if cuda else None,
    "peak_reserved": torch.cuda.max_memory_reserved() if cuda else None,
    "device": torch.cuda.get_device_name() if cuda else "cpu",
}))
"""


def once(arguments: argparse.Namespace, *, watched: bool, folder: Path) -> dict[str, Any]:
    """One process: the loop as it is, or under ``run``."""
    script = folder / "loop.py"
    script.write_text(LOOP, encoding="utf-8")
    command = [sys.executable, str(script), str(arguments.model)]
    command += [str(number) for number in (arguments.steps, arguments.batch, arguments.length)]
    environment = dict(os.environ)
    if arguments.deterministic:
        command.append("deterministic")
        environment["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
    if watched:
        command = [
            sys.executable,
            "-m",
            "qlora_doctor",
            "run",
            "-q",
            "-o",
            f"json={folder}/report.json",
            "--",
            *command,
        ]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True, env=environment)
    line = next(line for line in done.stdout.splitlines() if line.startswith("RESULT"))
    result: dict[str, Any] = json.loads(line.removeprefix("RESULT"))
    if watched:
        report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
        run = report["facts"]["run"]
        result["watching_seconds"] = run["watching_seconds"]
        result["parts"] = run.get("watching_parts")
        result["fingerprint_seconds"] = report["facts"]["step"]["fingerprint_seconds"]
        result["troubles"] = run["troubles"]
        result["findings"] = [finding["rule"] for finding in report["findings"]]
    return result


_BITS = ("losses", "weights", "chance")


def summary(pairs: list[tuple[dict[str, Any], dict[str, Any]]], again: dict[str, Any] | None) -> dict[str, Any]:
    """What the pairs say together.

    Args:
        again: one more run of the loop as it is, to see whether it repeats itself; None where that was left out.
    """
    repeats = again is not None and all(pairs[0][0][name] == again[name] for name in _BITS)
    same = all(plain[name] == watched[name] for plain, watched in pairs for name in _BITS)
    more = [w["peak_reserved"] - p["peak_reserved"] for p, w in pairs if p["peak_reserved"]]
    own = statistics.median(second for plain, _ in pairs for second in plain["seconds"][3:])
    extra = statistics.median(sum(w["seconds"][:3]) - sum(p["seconds"][:3]) for p, w in pairs)
    after = [statistics.median(w["seconds"][4:]) / statistics.median(p["seconds"][4:]) for p, w in pairs]
    peaks = [w["peak_allocated"] / p["peak_allocated"] for p, w in pairs if p["peak_allocated"]]
    reserved = [w["peak_reserved"] / p["peak_reserved"] for p, w in pairs if p["peak_reserved"]]
    return {
        "device": pairs[0][0]["device"],
        "pairs": len(pairs),
        "plain_repeats_itself": repeats,
        "same_bits": same if repeats or same else None,
        "step_seconds": round(own, 4),
        "watching_seconds": round(extra, 4),
        "watching_in_steps": round(extra / own, 3),
        "first_steps_plain": [round(second, 4) for second in pairs[-1][0]["seconds"][:4]],
        "first_steps_watched": [round(second, 4) for second in pairs[-1][1]["seconds"][:4]],
        "told_seconds": [watched["watching_seconds"] for _, watched in pairs],
        "told_parts": pairs[-1][1]["parts"],
        "step_after_ratio": [round(ratio, 4) for ratio in after],
        "step_after_ratio_median": round(statistics.median(after), 4),
        "peak_allocated_ratio": round(max(peaks), 5) if peaks else None,
        "peak_reserved_ratio": round(max(reserved), 5) if reserved else None,
        "peak_reserved_more_bytes": max(more) if more else None,
        "troubles": sorted({text for _, watched in pairs for text in watched["troubles"]}),
        "findings": sorted({rule for _, watched in pairs for rule in watched["findings"]}),
    }


def main() -> None:
    """Measure the pairs and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", help="a model's folder, or random:LAYERSxHIDDENxINNER (a 7B: random:32x4096x11008); "
                        "default: a tiny Llama that is made for it")  # fmt: skip
    parser.add_argument("--plain-again", action=argparse.BooleanOptionalAction, default=True,
                        help="run the loop once more as it is, to see whether it repeats itself")  # fmt: skip
    parser.add_argument("--deterministic", action="store_true", help="have the loop ask for deterministic kernels")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    pairs = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if arguments.model is None:
            sys.path.insert(0, str(ROOT))
            from tests.models import make_model

            arguments.model = make_model(folder / "model", "llama")
        for number in range(arguments.pairs):
            order = (False, True) if number % 2 == 0 else (True, False)
            results = {watched: once(arguments, watched=watched, folder=folder) for watched in order}
            pairs.append((results[False], results[True]))
            print(f"pair {number + 1} of {arguments.pairs}", file=sys.stderr)
            if arguments.out is not None:  # what is there by now, should the time be up
                arguments.out.write_text(json.dumps(summary(pairs, None), indent=2) + "\n", encoding="utf-8")
        again = once(arguments, watched=False, folder=folder) if arguments.plain_again else None
    text = json.dumps(summary(pairs, again), indent=2)
    print(text)
    if arguments.out is not None:
        arguments.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

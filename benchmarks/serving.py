"""The ways to serve a 7B's adapter, measured: quality, size, memory and speed, recorded in ``results/serving.json``.

    python benchmarks/tutorial/make_checkpoint.py huggyllama/llama-7b /tmp/llama-7b     # or real weights in a folder
    python benchmarks/serving.py /tmp/llama-7b [--steps 150] [--seconds 60] [--rows 16] [-o FILE]

An adapter is trained first, as QLoRA does, on rows that can be learned (each token has one likely successor), so that
there is something to lose. It is measured on rows of the same kind that were not trained, by the code of
``adapter --load``. What is measured is written after each of the ways.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
STARTED = time.perf_counter()
LENGTH, PART, LIKELY = 128, 256, 0.9
"""Tokens of a row, ids that are in use, and how often the likely successor follows."""


def say(text: str) -> None:
    """A line of progress, with the seconds since the start."""
    print(f"{time.perf_counter() - STARTED:7.1f} s  {text}", flush=True)


def rows(seed: int, count: int, vocabulary: int) -> list[list[int]]:
    """Rows of token ids of one random chain; its entropy is 0.9 nats a token, a uniform guess of its ids costs 5.5."""
    part = random.Random(0).sample(range(3, vocabulary), min(PART, vocabulary - 3))
    follow = dict(zip(part, part[1:] + part[:1], strict=True))
    draw = random.Random(seed)
    found = []
    for _ in range(count):
        row = [draw.choice(part)]
        while len(row) < LENGTH:
            row.append(follow[row[-1]] if draw.random() < LIKELY else draw.choice(part))
        found.append(row)
    return found


def train(base: Path, place: Path, given: argparse.Namespace) -> list[float]:
    """QLoRA for some steps on one device; the losses."""
    import torch
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    bits = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = AutoModelForCausalLM.from_pretrained(
        base, quantization_config=bits, dtype=torch.bfloat16, device_map={"": device}
    )
    say("the base is loaded for training")
    model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=given.checkpointing)
    model = get_peft_model(model, LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=given.rate)
    data = torch.tensor(rows(1, given.steps * given.batch, model.config.vocab_size), device=device)
    losses: list[float] = []
    model.train()
    started = time.perf_counter()
    for step in range(given.steps):
        for group in optimizer.param_groups:
            group["lr"] = given.rate * min(1.0, (step + 1) / 10)
        batch = data[step * given.batch : (step + 1) * given.batch]
        with torch.autocast(device, torch.bfloat16):
            loss = model(input_ids=batch, labels=batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.3)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
        if step % 10 == 0:
            say(f"step {step}: loss {losses[-1]:.3f}")
        if time.perf_counter() - started > given.seconds:
            break
    model.save_pretrained(place)
    say(f"trained {len(losses)} steps: loss {losses[0]:.3f} to {losses[-1]:.3f}")
    return losses


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("base", type=Path)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--seconds", type=float, default=math.inf, help="training ends after these")
    parser.add_argument("--rate", type=float, default=5e-4)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--checkpointing", action="store_true", help="for cards with less than 40 GiB")
    parser.add_argument("--rows", type=int, default=16, help="held-out rows that are measured on")
    parser.add_argument("--repetitions", type=int, default=5, help="of the measurement of speed")
    parser.add_argument("--decode", type=int, help="tokens that are written in each repetition")
    parser.add_argument("--adapter", type=Path, help="a folder with an adapter; none is trained then")
    parser.add_argument("-o", "--output", type=Path, default=ROOT / "benchmarks" / "results" / "serving.json")
    return parser.parse_args()


def main() -> None:
    given = parsed()
    import torch

    from qlora_doctor.facts.stored import Way
    from qlora_doctor.probes.stored import ways

    config = json.loads((given.base / "config.json").read_text(encoding="utf-8"))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    document: dict[str, Any] = {
        "base": given.base.name,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "torch": torch.__version__,
    }
    measured: list[Way] = []

    def write() -> None:
        document["ways"] = [each.model_dump(exclude_none=True) for each in measured]
        document["seconds"] = round(time.perf_counter() - STARTED, 1)
        given.output.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")

    def keep(way: Way) -> None:
        measured.append(way)
        write()
        say(f"{way.way}: " + (way.failure or f"divergence {way.divergence:.4f}, perplexity {way.perplexity:.2f}"))

    with tempfile.TemporaryDirectory() as folder:
        adapter = given.adapter or Path(folder)
        if given.adapter is None:
            losses = train(given.base, adapter, given)
            document |= {"steps": len(losses), "loss": [losses[0], sum(losses[-5:]) / len(losses[-5:])]}
        gc.collect()
        held_out = rows(2, given.rows, config["vocab_size"])
        bench = ways.Bench(held_out, device, speed=True, repetitions=given.repetitions, decode=given.decode)
        measured[:] = ways.all_ways(adapter, given.base, bench, keep)
    document |= ways.concluded(measured)
    write()
    print(json.dumps(document, indent=1))


if __name__ == "__main__":
    main()

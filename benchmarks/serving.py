"""The ways to serve a 7B's adapter, measured: quality, size, memory and speed, recorded in ``results/serving.json``.

    python benchmarks/tutorial/make_checkpoint.py huggyllama/llama-7b /tmp/llama-7b     # or real weights in a folder
    python benchmarks/serving.py /tmp/llama-7b [--steps 200] [-o FILE]

An adapter is trained first, as QLoRA does, on rows that can be learned (each row repeats a pattern of a few words), so
that there is something to lose. It is measured on rows of the same kind that were not trained, by the code of
``adapter --load``.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))


def rows(seed: int, count: int, vocabulary: int, length: int = 128) -> list[list[int]]:
    """Rows of token ids: a pattern of four to eight ids out of a small part of the vocabulary, over and over."""
    draw = random.Random(seed)
    part = range(100, min(vocabulary, 2100))
    found = []
    for _ in range(count):
        pattern = draw.sample(part, draw.randrange(4, 9))
        found.append((pattern * (length // len(pattern) + 1))[:length])
    return found


def train(base: Path, place: Path, steps: int) -> list[float]:
    """QLoRA for some steps on one card; the losses."""
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
    model = prepare_model_for_kbit_training(model)
    model = get_peft_model(model, LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=2e-4)
    data = torch.tensor(rows(1, steps * 8, model.config.vocab_size), device=device)
    losses = []
    model.train()
    for step in range(steps):
        batch = data[step * 8 : step * 8 + 8]
        with torch.autocast(device, torch.bfloat16):
            loss = model(input_ids=batch, labels=batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.3)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss))
    model.save_pretrained(place)
    return losses


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("base", type=Path)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("-o", "--output", type=Path, default=ROOT / "benchmarks" / "results" / "serving.json")
    given = parser.parse_args()
    import torch

    from qlora_doctor.probes.stored import ways

    config = json.loads((given.base / "config.json").read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as folder:
        losses = train(given.base, Path(folder), given.steps)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        held_out = rows(2, 16, config["vocab_size"])
        bench = ways.Bench(held_out, device, speed=True)
        found = ways.all_ways(Path(folder), given.base, bench)
    document: dict[str, Any] = {
        "base": given.base.name,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "torch": torch.__version__,
        "steps": given.steps,
        "loss": [losses[0], losses[-1]],
        "ways": [way.model_dump(exclude_none=True) for way in found],
        **ways.concluded(found),
    }
    given.output.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(document, indent=1))


if __name__ == "__main__":
    main()

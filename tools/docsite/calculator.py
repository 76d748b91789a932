"""The calculator's page: what its script needs beside the traces, and the form."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from qlora_doctor.memory.families import SMALL_MEMORY_HEAD, family
from qlora_doctor.memory.machine import Machine
from qlora_doctor.memory.plan import capacity
from qlora_doctor.memory.predict import MARGIN
from qlora_doctor.memory.shipped import MODELS, Variant
from qlora_doctor.reporters.html.memory import PARTS
from qlora_doctor.tables.cards import CARDS, cublas_workspace_bytes
from qlora_doctor.tables.traces import index, read

TRACES = Path(__file__).resolve().parents[2] / "qlora_doctor" / "tables" / "traces"
RANKS = (4, 8, 16, 32, 64, 128, 256)
LENGTHS = (64, 128, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096, 6144, 8192, 12288, 16384)


def calculator_data() -> dict[str, Any]:
    """Models, cards and parts as ``calculator.js`` reads them."""
    major, minor = (int(part) for part in index()["versions"]["torch"].split(".")[:2])
    cards = []
    for card in sorted(CARDS, key=lambda each: (each.usable_bytes, each.name)):
        if card.compute_capability < (7, 0):
            continue  # no traces
        machine = Machine(card, (major, minor))
        kinds = [family(machine, SMALL_MEMORY_HEAD + wide) for wide in (0, 1)]
        narrow, wide = ("".join(str(int(each)) for each in (*kind, machine.torch >= (2, 11))) for kind in kinds)
        cards.append({
            "name": card.name, "capacity": capacity(card), "capability": card.compute_capability,
            "multiprocessors": card.multiprocessors, "precision": "bf16" if card.bf16 else "fp16",
            "workspace": cublas_workspace_bytes(card.compute_capability, (major, minor)), "kind": narrow, "wide": wide,
        })  # fmt: skip
    models = []
    for model in MODELS:
        variant = Variant(model, "transformers", "all-linear", True)
        document = read(variant.file)
        limit = document["outline"]["limit"] if document else None
        models.append({"id": model, "file": variant.file.split(".transformers.")[0], "limit": limit})
    parts = list(PARTS.items())
    return {"models": models, "cards": cards, "parts": parts, "ranks": RANKS, "lengths": LENGTHS, "margin": MARGIN}


def page() -> str:
    """The page; ``calculator.js`` fills it."""
    data = calculator_data()
    text = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
    chosen = next(place for place, card in enumerate(data["cards"]) if card["name"] == "RTX 4090")
    model = MODELS.index("Qwen/Qwen2.5-14B")
    models = "".join(f'<option value="{place}"{" selected" * (place == model)}>{each["id"]}</option>'
                     for place, each in enumerate(data["models"]))  # fmt: skip
    cards = "".join(f'<option value="{place}"{" selected" * (place == chosen)}>{each["name"]}</option>'
                    for place, each in enumerate(data["cards"]))  # fmt: skip
    versions = ", ".join(f"{name} {version}" for name, version in index()["versions"].items())
    return f"""---
search:
  boost: 2
---
# Calculator

Does it fit? The same replay as `qlora-doctor plan`, over the traces that come with it, in your browser: nothing is sent
anywhere.

<form id="calculator-form" data-traces="../traces/">
<div class="asked">
<label>Model <select name="model">{models}</select></label>
<label>Card <select name="card">{cards}</select></label>
<label>Batch <output id="calculator-batch"></output><input type="range" name="batch" min="1" max="32" value="2"></label>
<label>Tokens a sample <output id="calculator-length"></output>
<input type="range" name="tokens" min="0" max="{len(LENGTHS) - 1}" value="10"></label>
<label>Rank <output id="calculator-rank"></output>
<input type="range" name="rank" min="0" max="{len(RANKS) - 1}" value="3"></label>
<label>Adapters on <select name="targets">
<option value="all-linear">every linear layer</option><option value="qkvo">q, k, v and o</option></select></label>
<label>Trainer <select name="trainer"><option>transformers</option><option>trl</option></select></label>
<label class="switch"><input type="checkbox" name="checkpointing" checked> Gradient checkpointing</label>
</div>
<div class="answered">
<p id="calculator-answer" role="status">…</p>
<p id="calculator-longest"></p>
<div id="calculator-picture"></div>
<ul id="calculator-parts"></ul>
</div>
</form>

The same on the command line:

<pre id="calculator-command" tabindex="0"></pre>

Set up as `qlora-doctor init` writes it: 4-bit nf4 with double quantization, `paged_adamw_8bit`, 16 micro-batches a
step; 16 bits as the card has them. Predicted for {versions}; a figure is within {MARGIN:.0%} of what is measured.
Cards as the driver reports them, less what CUDA itself takes.

<noscript>This page needs JavaScript; `qlora-doctor plan` does not.</noscript>
<script type="application/json" id="calculator-data">{text}</script>
<script src="../assets/calculator.js" defer></script>
"""

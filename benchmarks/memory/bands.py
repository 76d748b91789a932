"""The error bands of what is predicted to be reserved, by kind of run, each run held against a band made without it.

    python benchmarks/memory/bands.py            # reads the *_results.json that compare_kinds.py wrote

A band is how far a measured run lies above its prediction at most, never below 3.5%; leaving one out, a run is held by
the band of the other runs of its kind. ``as measured``: the model came to the card as it was measured; ``checked``: it
was measured layer by layer and predicted by from_pretrained, so the band has to bear that, too.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

LEAST = 0.035
KINDS = {
    "sharded": ("fsdp", "zero="),
    "data parallel": ("ddp",),
    "generation": ("grpo", "rloo"),
    "liger": ("liger",),
    "offloading": ("activation_offloading",),
    "images": ("vlm", "tiles"),
    "evaluation": ("eval=",),
    "preference and reward": ("dpo", "kto", "reward", "orpo", "cpo", "simpo"),
}
"""By a part of a case's description; the first that fits."""


def rows() -> list[dict[str, Any]]:
    """All recorded results, each case of a file once."""
    found: dict[str, dict[str, Any]] = {}
    for path in sorted(Path(__file__).parent.glob("kinds_*results.json")):
        for row in json.loads(path.read_text(encoding="utf-8")):
            if row["predicted"]:
                found.setdefault(row["case"], row)
    return list(found.values())


def kind_of(case: str) -> str:
    """The kind of a described case."""
    return next((kind for kind, words in KINDS.items() if any(word in case for word in words)), "others")


def above(error: float) -> float:
    """How far what was measured lies above a prediction that is off by so many per cent."""
    return 100 / (100 + error) - 1


def main() -> None:
    """Print the table."""
    print("| kind | runs | as measured: band | held without itself | checked: band | held without itself |")
    print("|---|---|---|---|---|---|")
    for kind in [*KINDS, "others"]:
        own = [row for row in rows() if kind_of(row["case"]) == kind]
        told = [f"| {kind} | {len(own)} "]
        for name in ("reserved", "checked"):
            off = [above(row.get(name, row["reserved"])) for row in own]
            held = 0
            for place, one in enumerate(off):
                held += one <= max([LEAST, *off[:place], *off[place + 1 :]])
            told.append(f"| {max([LEAST, *off]):.1%} | {held} of {len(off)} ")
        print("".join(told) + "|")


if __name__ == "__main__":
    main()

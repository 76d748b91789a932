"""What compare_kinds.py wrote, by file and by kind of run, and the error bands of what is predicted to be reserved.

    python benchmarks/memory/bands.py            # reads kinds*_results.json, prints README's tables

The first table has a row for each file, the second one for each kind over all files, the last one the bands, each run
held against a band made without it.

A band is how far a measured run lies above its prediction at most, never below 3.5%; leaving one out, a run is held by
the band of the other runs of its kind. ``as measured``: the model came to the card as it was measured; ``checked``: it
was measured layer by layer and predicted by from_pretrained, so the band has to bear that, too.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

LEAST = 0.035
BAR = 10.0
"""Per cent that reserved may be off."""
KINDS = {
    "Unsloth": ("engine=unsloth",),
    "axolotl's kernels": ("engine=axolotl",),
    "FSDP 2": ("fsdp=2",),
    "FSDP 1": ("fsdp=1",),
    "ZeRO-2": ("zero=",),
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
    for path in files():
        for row in read(path):
            if row["predicted"]:
                found.setdefault(row["case"], row)
    return list(found.values())


def files() -> list[Path]:
    """The files of results."""
    return sorted(Path(__file__).parent.glob("kinds*results.json"))


def read(path: Path) -> list[dict[str, Any]]:
    """The results of a file; what was loaded by from_pretrained when it was measured is checked as it was measured."""
    told: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
    return [row | {"checked": row.get("checked", row["reserved"])} if row["predicted"] else row for row in told]


def summary(told: list[dict[str, Any]]) -> str:
    """Mean and largest of what is off, per cent, as cells of a table."""
    cells = []
    for name in ("allocated", "reserved"):
        off = [row[name] for row in told]
        cells += [f"{sum(map(abs, off)) / len(off):.2f}%", f"{max(off, key=abs):+.2f}%"]
    beyond = sum(abs(row["checked"]) > BAR for row in told)
    cells += [f"{max((row['checked'] for row in told), key=abs):+.2f}%", str(beyond)]
    return " | ".join(cells)


def kind_of(case: str) -> str:
    """The kind of a described case."""
    return next((kind for kind, words in KINDS.items() if any(word in case for word in words)), "others")


def above(error: float) -> float:
    """How far what was measured lies above a prediction that is off by so many per cent."""
    return 100 / (100 + error) - 1


def main() -> None:
    """Print the tables."""
    heads = "allocated, mean | largest | reserved, mean | largest | by check, largest | beyond 10%"
    rule = "---|" * 7
    print(f"| file | cases | predicted | {heads} |\n|---|{rule}---|")
    for path in files():
        told = read(path)
        own = [row for row in told if row["predicted"]]
        print(f"| `{path.name}` | {len(told)} | {len(own)} | {summary(own)} |")
    print(f"\n| kind | runs | {heads} |\n|---|{rule}")
    for kind in [*KINDS, "others"]:
        own = [row for row in rows() if kind_of(row["case"]) == kind]
        print(f"| {kind} | {len(own)} | {summary(own)} |")
    print(f"| all | {len(rows())} | {summary(rows())} |\n")
    print("| kind | runs | as measured: band | held without itself | checked: band | held without itself |")
    print("|---|---|---|---|---|---|")
    for kind in [*KINDS, "others"]:
        own = [row for row in rows() if kind_of(row["case"]) == kind]
        told = [f"| {kind} | {len(own)} "]
        for name in ("reserved", "checked"):
            off = [above(row[name]) for row in own]
            held = 0
            for place, one in enumerate(off):
                held += one <= max([LEAST, *off[:place], *off[place + 1 :]])
            told.append(f"| {max([LEAST, *off]):.1%} | {held} of {len(off)} ")
        print("".join(told) + "|")


if __name__ == "__main__":
    main()

"""Writes ``tests/probes/formed_by_trainers.json`` anew: what trainers' own code makes of the rows that stand in it.

    python benchmarks/field/record_forms.py ms-swift ~/envs/swift/bin/python [MORE.json]

The Python is one that has the trainer (axolotl, llamafactory or ms-swift). MORE holds further cases, a list of
``{"settings": {…}, "row": {…}}``. Cases with the same settings are asked in one process.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
OUT = ROOT / "tests" / "probes" / "formed_by_trainers.json"


def main(trainer: str, python: str, more: str | None = None) -> None:
    """Ask for every case, and write what came back."""
    sys.path.insert(0, str(ROOT))
    from qlora_doctor.pipeline.own_code.asking import ask
    from qlora_doctor.pipeline.own_code.finding import TrainerPython
    from tests.models import make_architecture, make_tokenizer

    recorded = json.loads(OUT.read_text("utf-8"))
    cases = recorded.get(trainer, []) + (json.loads(Path(more).read_text("utf-8")) if more else [])
    groups: dict[str, list[dict[str, Any]]] = {}
    for case in cases:
        groups.setdefault(json.dumps(case["settings"]), []).append(case)
    with tempfile.TemporaryDirectory() as folder:
        make_architecture(Path(folder), "llama")
        tokenizer = make_tokenizer()
        tokenizer.save_pretrained(folder)
        for group in groups.values():
            settings = {"max_length" if trainer == "ms-swift" else "sequence_len": 4096, **group[0]["settings"]}
            asked = ask(
                TrainerPython(trainer, python), trainer, folder, settings, [(settings, [c["row"]]) for c in group]
            )
            if asked.failure is not None:
                raise SystemExit(f"{asked.failure}: {settings}")
            for case, made in zip(group, asked.sets, strict=True):
                record(case, made[0], tokenizer)
    recorded[trainer] = cases
    OUT.write_text(json.dumps(recorded, ensure_ascii=False, separators=(",", ":")) + "\n", "utf-8")


def record(case: dict[str, Any], made: list[dict[str, Any]], tokenizer: Any) -> None:
    """The text of a row and the texts that are trained of it, or that it is left out."""
    for key in ("text", "trained", "dropped"):
        case.pop(key, None)
    if "ids" not in made[0] or "dropped" in made[0]:
        case["dropped"] = True
        return
    parts: list[list[int]] = []
    before = -100
    for token, label in zip(made[0]["ids"], made[0]["labels"], strict=True):
        if label != -100 and before == -100:
            parts.append([])
        if label != -100:
            parts[-1].append(token)
        before = label
    case.update(text=tokenizer.decode(made[0]["ids"]), trained=[tokenizer.decode(part) for part in parts])


if __name__ == "__main__":
    main(*sys.argv[1:])

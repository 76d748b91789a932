"""Truth beside qlora-doctor, agreement by kind, each disagreement: ``python table.py TRUTH.jsonl DOCTOR.jsonl``."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

REASONS = {
    "pixel_values": "the script's batch is text alone; made-up batches have the image that it wants",
    "image_embeds": "the script's batch is text alone; made-up batches have the image that it wants",
    "mm_token_type_ids": "the script's batch has no mm_token_type_ids; made-up batches have them",
    "to match target batch_size": "the script's batch is text alone; made-up batches have an image",
    "Unrecognized configuration class": "AutoModelForCausalLM registers the type and refuses its config; the class in "
    "architectures is built",
}
"""By a part of what the script raised, why qlora-doctor need not say the same."""
MORE = "made-up batches have images or sounds, and reach a tower that the script's text does not"


def read(path: str) -> dict[tuple[str, str], dict[str, Any]]:
    """Records by kind and type."""
    lines = Path(path).read_text(encoding="utf-8").splitlines()
    return {(record["kind"], record["type"]): record for record in map(json.loads, lines)}


def verdict(truth: dict[str, Any], said: dict[str, Any], images: bool = False) -> str:
    """``agrees``, or what does not; ``images`` of a model that takes them."""
    trained = truth["error"] is None
    if trained and not truth["four_bit"] and {rule for rule, _ in said["errors"]} == {"QD202"}:
        return "agrees"  # the script trains in 16-bit what was to be 4-bit, and that is told
    if trained and truth.get("zero_gradient") and {rule for rule, _ in said["errors"]} == {"QD406"}:
        return "agrees"  # the second step's gradients are zero in the script, too
    if said["errors"] and trained:
        return "false error " + ", ".join(rule for rule, _ in said["errors"])
    if not trained and not said["errors"]:
        reason = next((text for part, text in REASONS.items() if part in truth["error"]), None)
        return f"missed: {' '.join(truth['error'].split())}" + (f" ({reason})" if reason else "")
    # Made-up batches have images, and reach what the script's text does not.
    for name in ("class", "four_bit", "trainable_tensors", *(() if images else ("without_gradient",))):
        if trained and truth[name] != said.get(name, truth[name]):
            more = name == "without_gradient" and said[name] < truth[name]
            return f"{name} {said[name]}, not {truth[name]}" + (f" ({MORE})" if more else "")
    if trained and any(said["stages"].get(stage) != "done" for stage in ("structure", "load", "step")):
        return "a stage was not done"
    return "agrees"


def main() -> None:
    """Print the table and the list."""
    truths, doctor = read(sys.argv[1]), read(sys.argv[2])
    counts: Counter[tuple[str, str]] = Counter()
    others = []
    for key, said in doctor.items():
        for way in ("checkpointing", "plain"):
            if way in said:
                found = verdict(truths[key][way], said[way], key[0] == "image")
                counts[key[0], "agrees" if found == "agrees" else "disagrees"] += 1
                if found != "agrees":
                    others.append(f"- {key[0]} {key[1]} ({way}): {found}")
    print("| kind | agrees | disagrees |\n|---|---|---|")
    for kind in dict.fromkeys(kind for kind, _ in counts):
        print(f"| {kind} | {counts[kind, 'agrees']} | {counts[kind, 'disagrees']} |")
    print("\n" + "\n".join(others))


if __name__ == "__main__":
    main()

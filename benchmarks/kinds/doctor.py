"""What qlora-doctor says of the checkpoints that ``truth.py`` made: one JSON line for each.

Usage: ``python doctor.py FOLDER TRUTH.jsonl OUT.jsonl``. Each check runs with checkpointing on, and off where the truth
was found without it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import qlora_doctor

TASKS = {"causal": "CAUSAL_LM", "image": "CAUSAL_LM", "seq2seq": "SEQ_2_SEQ_LM", "classify": "SEQ_CLS"}


def setup(folder: Path, kind: str, checkpointing: bool) -> dict[str, Any]:
    """The same run as a native config."""
    model: dict[str, Any] = {"name_or_path": str(folder)}
    if kind == "classify":
        model |= {"task": "sequence-classification", "num_labels": 2}
    return {
        "model": model,
        "quantization": {
            "load_in_4bit": True,
            "bnb_4bit_quant_type": "nf4",
            "bnb_4bit_use_double_quant": True,
            "bnb_4bit_compute_dtype": "bfloat16",
        },
        "lora": {"r": 8, "target_modules": "all-linear", "task_type": TASKS[kind]},
        "training": {
            "per_device_train_batch_size": 1,
            "learning_rate": 2e-4,
            "bf16": True,
            "gradient_checkpointing": checkpointing,
            "max_length": 64,
        },
        "hardware": {"gpu": "rtx-4090"},
    }


def one(folder: Path, kind: str, checkpointing: bool) -> dict[str, Any]:
    """Errors, stages and counts of one check."""
    report = qlora_doctor.check(setup(folder, kind, checkpointing), cache=False, offline=True)
    facts = report.facts
    four_bit = [entry.modules for entry in facts.load.classes or [] if entry.quant_type] if facts.load else []
    return {
        "class": facts.model.model_class if facts.model else None,
        "four_bit": sum(four_bit),
        "adapted": len(facts.adapter.matched_modules or []) + len(facts.adapter.matched_parameters or [])
        if facts.adapter
        else None,
        "trainable_tensors": facts.step.trainable_tensors if facts.step else None,
        "errors": [(finding.rule, finding.message) for finding in report.findings if finding.severity == "error"],
        "stages": {record.name: record.status for record in report.stages},
    }


def main() -> None:
    """A record for each checkpoint of the truth."""
    root, truth, out = (Path(name) for name in sys.argv[1:4])
    for line in truth.read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        if "not_made" in record:
            continue
        for name, checkpointing in (("checkpointing", True), ("plain", False)):
            if name in record:
                record[name] = one(root / record["folder"], record["kind"], checkpointing)
        with out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        print(record["kind"], record["type"], [rule for rule, _ in record["checkpointing"]["errors"]], flush=True)


if __name__ == "__main__":
    main()
